"""The patients that selectors choose for the budgets of a study, in place of a random draw.

    rows = selected_budgets(Candidates(cache, roles, task.seen), subsets, Selection(["MaxHerding"], run, seeds=3), out)

A selector is given the patients that random draws come from: the labelled training patients, without their labels. It
buys as many as the smallest random draw of the budget. Two things are the same as in a random draw: every class has a
patient (where the choice has none, the next one of the selector's list takes the place of its last), and a checkpoint
is chosen on patients of the budget itself.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from filelock import FileLock

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, nearest
from medssl.core.registry import SELECTORS
from medssl.datasets.splits import budget_roles
from medssl.encoders import Encoder
from medssl.preprocessing.cache import Cache
from medssl.studies.arms import PretrainedRun
from medssl.studies.select import patient_features, patient_strata
from medssl.studies.selection.base import Pool, Selector

RANDOM = "random"  # the draws of the study, beside which every selector stands
COLUMNS = ["selector", "draw", "budget_name", "budget", "patient", "role"]
VERSION = 1  # increased when a choice is made differently


@dataclass(frozen=True)
class Selection:
    """Which selectors choose, and on what.

    Attributes:
        names: Selectors, by the names of their classes; see `selector_names`.
        run: Folder of the pretraining run whose features they use; None if they use none.
        seeds: Choices of each selector, with seeds from 0 on.
        encoder: Encoder of a run whose encoder class lies outside medssl.
    """

    names: Sequence[str]
    run: Path | None
    seeds: int
    encoder: Encoder | None = None

    @classmethod
    def of(
        cls, words: Sequence[str], run: Path | None, others: Sequence[Path], seeds: int, encoder: Encoder | None
    ) -> Self | None:
        """What the options of a study say; None where it has random draws alone.

        Args:
            words: Of `--selection`.
            run: Of `--selection-run`.
            others: Pretraining runs of the arms, the first of which is taken where none is given.
            seeds: Of `--selection-seeds`.
            encoder: Encoder of a run whose encoder class lies outside medssl.

        Raises:
            MedsslError: There is no such selector, or there is no run for it, or none that uses the run.
        """
        names = selector_names(words)
        if words and not names:
            raise MedsslError(
                "--selection names random alone, which every study has: expected a selector beside it, as maxherding random"
            )
        uses_features = any(SELECTORS.load(name).pooling is not None for name in names)  # type: ignore[attr-defined]
        if run is not None and not uses_features:
            raise MedsslError(
                f"--selection-run comes with the selectors {', '.join(names) or 'none'}, which use no features: expected "
                "--selection with one that does, as maxherding"
            )
        if uses_features and run is None and not others:
            raise MedsslError(
                f"{', '.join(names)} choose on features, and no arm starts from a pretraining run: expected --selection-run "
                "with the folder of one"
            )
        if run is not None and not (record := runs.read(run)).is_start:
            raise MedsslError(
                f"{run} holds a {record.status} {record.kind} run: expected a finished pretraining run for --selection-run"
            )
        return cls(names, (run or others[0]) if uses_features else None, seeds, encoder) if names else None

    @property
    def weights(self) -> str | None:
        """A hash of the weights of the run."""
        return PretrainedRun(self.run).weights() if self.run is not None else None

    def to_record(self) -> dict[str, Any]:
        """The selectors and the run, as a study's config keeps them: without the folder."""
        run = runs.read(self.run).id if self.run is not None else None
        return {"selectors": list(self.names), "seeds": self.seeds, "run": run, "weights": self.weights}


@dataclass(frozen=True)
class Candidates:
    """The patients that may be chosen: the training patients of a split who have a label.

    Attributes:
        cache: Where the scans are.
        roles: Role of each patient in the split.
        classes: For each patient with a label, the classes or structures labelled in them; no selector sees these.
    """

    cache: Cache
    roles: pd.Series
    classes: dict[str, tuple[int, ...]]

    def manifest(self) -> pd.DataFrame:
        """The rows of their scans."""
        table = self.cache.manifest
        chosen = (table["patient"].map(self.roles) == "train") & table["patient"].isin(self.classes)
        return table[chosen].reset_index(drop=True)


def selector_names(words: Sequence[str]) -> list[str]:
    """The selectors that the words of `--selection` name, in any case; `random` is always there and named by none.

    Raises:
        MedsslError: There is no selector of that name.

    >>> selector_names(["maxherding", "random"])
    ['MaxHerding']
    """
    known = {name.lower(): name for name in SELECTORS.names()}
    for word in words:
        if word.lower() not in (*known, RANDOM):
            raise MedsslError(f"there is no selector {word!r}{nearest(word, [*known.values(), RANDOM])}")
    return list(dict.fromkeys(known[word.lower()] for word in words if word.lower() != RANDOM))


def selected_budgets(candidates: Candidates, subsets: pd.DataFrame, selection: Selection, out: Path) -> pd.DataFrame:
    """The patients that each selector chooses for each budget, once with each seed.

    A choice is kept in the folder of the study, so that every process that works on it trains on the same patients. A
    budget of all candidates leaves nothing to choose and has none.

    Args:
        candidates: Who may be chosen.
        subsets: The random draws, as from `label_budgets`.
        selection: The selectors.
        out: Folder of the study.

    Returns:
        The columns of `label_budgets` and the selector; the draw is the number of the seed.
    """
    sizes = _budget_sizes(subsets)
    known = sorted(set(candidates.manifest()["patient"]))
    choice = runs.identity(
        version=VERSION,
        data=candidates.cache.digest,
        classes=sorted((patient, candidates.classes[patient]) for patient in known),
        sizes=sizes,
        names=list(selection.names),
        weights=selection.weights,
        seeds=selection.seeds,
    )
    path = out / "selection" / f"{choice}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return pd.read_parquet(path)
        table = _choose_all(candidates, sizes, selection)
        buffer = io.BytesIO()
        table.to_parquet(buffer)
        write_atomically(path, buffer.getvalue())
    return table


def _budget_sizes(subsets: pd.DataFrame) -> dict[str, int]:
    """Patients of the smallest random draw of each budget, so that no selector has more labels than a random draw."""
    counts = subsets.groupby(["budget_name", "draw"], sort=False).size()
    return {str(name): int(size) for name, size in counts.groupby("budget_name", sort=False).min().items()}


def _choose_all(candidates: Candidates, sizes: dict[str, int], selection: Selection) -> pd.DataFrame:
    manifest = candidates.manifest()
    patients = [str(patient) for patient in manifest["patient"].unique()]
    classes = {patient: candidates.classes[patient] for patient in patients}
    strata, features = patient_strata(manifest), dict[str | None, np.ndarray | None]()
    rows = []
    for name in selection.names:
        strategy: Selector = SELECTORS.load(name)()
        if strategy.pooling not in features:
            features[strategy.pooling] = patient_features(
                strategy, candidates.cache, manifest, selection.run, selection.encoder
            )
        pool = Pool(features[strategy.pooling], np.zeros(len(patients), dtype=bool), strata)
        for budget, size in sizes.items():
            for seed in range(selection.seeds) if size < len(patients) else ():
                order = [patients[number] for number in _order(strategy, pool, size, seed, [*classes.values()])]
                chosen = budget_roles(order, classes, size)
                share = len(chosen) / len(patients)
                rows += [(name, seed, budget, share, patient, role) for patient, role in chosen.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _order(strategy: Selector, pool: Pool, size: int, seed: int, classes: list[tuple[int, ...]]) -> list[int]:
    """The selector's choice, and where it shows no patient of a class, more of its list, until one comes."""
    order, wanted, asked = strategy.select(pool, size, seed), {code for codes in classes for code in codes}, size
    while wanted - {code for number in order for code in classes[number]}:
        asked = min(2 * asked, len(classes))
        order += [number for number in strategy.select(pool, asked, seed) if number not in order]
    return order
