"""The plan of a study, made before its first training: its settings, their checks, and its cells.

    plan = make_plan(StudySettings(Path("cache"), Path("studies/hippo"), "segmentation", ["scratch"], ["1p", "100%"]))
    len(plan.cells), plan.folder(plan.cells[0])

The plan depends on the settings alone, so every process that works on a study makes the same one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.splits import ROLES, duplicates_across, label_budgets
from medssl.encoders import Encoder
from medssl.preprocessing.cache import Cache
from medssl.studies.architectures import architectures, other_encoders
from medssl.studies.arms import Arm, Mode, NewEncoder, PretrainedRun, parse_arms
from medssl.studies.seen_scans import near_duplicates, seen_scans
from medssl.studies.selected import Candidates, Selection, selected_budgets
from medssl.studies.settings import StudySettings
from medssl.studies.several_runs import common_name, differing_in_seed_alone
from medssl.studies.trials import FOLDS, MIN_PATIENTS, samples_in_trials, settings_to_try, why_no_trials
from medssl.training.config import FinetuneConfig
from medssl.training.finetune import scans_of, unlabelled_scans
from medssl.training.models import fresh_encoder
from medssl.training.tasks import Task, task_named

VERSION = 3  # increased when a cell's work changes: every cell is then done again
SELECTION_RUN = "selection run"  # what the check for test scans calls it, since it need not be an arm


@dataclass(frozen=True)
class Cell:
    """One training and the scoring that follows it."""

    arm: str
    mode: Mode
    budget_name: str
    budget: float
    draw: int
    settings: FinetuneConfig
    parent: str | None  # the id of the pretraining run behind the draw
    patients: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    selector: str | None = None  # that chose the patients; the draw then is the number of its seed
    trials: int = 0  # settings that are tried; `settings` then is the recipe that they lie around
    no_trials: str = ""  # why there are none, where the study has them

    def parts(self) -> dict[str, Any]:
        """What the cell's id is made of; a cell without selector, trials or pasting has the id that it had before there were any."""
        parts = asdict(self)
        if not self.settings.pasting:
            del parts["settings"]["pasting"]
        unset = {"selector": None, "trials": 0, "no_trials": ""}
        return {name: value for name, value in parts.items() if name not in unset or value != unset[name]}


@dataclass
class Plan:
    """The cells of a study and all that they share.

    Attributes:
        out: Folder of the study.
        cache: Where the scans are.
        task: The task, with its targets.
        encoders: The encoder of each arm, as a record.
        external_encoder: An encoder of a class outside of medssl, that the record cannot build.
        size: Voxels of a crop along each axis.
        arms: Arms by their names.
        scored: Labelled scans of the patients that every cell is scored on.
        cells: Cells by draw, so that an unfinished study is a balanced one.
        subsets: Patients of every budget and random draw.
        selected: Patients that each selector chose for every budget; empty without --selection.
        roles: Role of every patient.
        seed: Seed of the draws, the heads, the order and the views.
        config: Config of the study's record.
        features: (arm, draw of a random encoder or pretraining run) -> scan -> feature vector, filled by the first probe of an
            encoder.
    """

    out: Path
    cache: Cache
    task: Task
    encoders: dict[str, dict[str, Any]]
    external_encoder: Encoder | None
    size: tuple[int, ...]
    arms: dict[str, Arm]
    scored: list[str]
    cells: list[Cell]
    subsets: pd.DataFrame
    selected: pd.DataFrame
    roles: pd.Series
    seed: int
    config: dict[str, Any]
    features: dict[tuple[str, int | str | None], dict[str, np.ndarray]] = field(default_factory=dict)

    def new_encoder(self, arm: str) -> NewEncoder:
        return partial(fresh_encoder, self.encoders[arm], external_encoder=self.external_encoder)

    def id(self, cell: Cell) -> str:
        """A hash of everything that the cell depends on, so that it is not done twice or mistaken for another."""
        return runs.identity(
            version=VERSION,
            data=self.cache.digest,
            task=self.task.name,
            label=self.config["label"],
            truth=self.config["truth"],
            encoder=self.encoders[cell.arm],
            size=self.size,
            seed=self.seed,
            scored=self.config["scored"],
            weights=self.config["weights"].get(cell.arm, {}).get(cell.parent),
            training=self.config["training_scans"],
            cell=cell.parts(),
        )

    def folder(self, cell: Cell) -> Path:
        return self.out / "cells" / self.id(cell)

    def ids(self) -> list[str]:
        return [self.id(cell) for cell in self.cells]

    def to_try(self, cell: Cell) -> list[FinetuneConfig]:
        """The settings of a cell's trials, the recipe first; the same sample of the grid in all cells."""
        pretrained = bool(self.arms[cell.arm].folders)
        return settings_to_try(cell.settings, pretrained, cell.trials, self.seed) if cell.trials else []

    def samples(self, cell: Cell) -> tuple[int, int]:
        """How many labelled samples a fine-tuned cell passes with the recipe's length, and how many more in its trials."""
        trainings = self.arms[cell.arm].trainings
        return trainings * cell.settings.samples, samples_in_trials(self.to_try(cell), trainings)

    def unlabelled(self, cell: Cell) -> list[str]:
        """The other scans of training patients, whose labels the cell's budget did not buy."""
        return unlabelled_scans(
            self.cache, self.roles, self._budget_patients[cell.selector, cell.budget_name, cell.draw]
        )

    @cached_property
    def _budget_patients(self) -> dict[tuple[str | None, str, int], set[str]]:
        """The patients of each selector (None for a random draw), budget and draw."""
        return {
            (selector, name, draw): set(subset["patient"])
            for selector, name, draw, subset in _choices(self.subsets, self.selected)
        }

    @cached_property
    def validation_scans(self) -> list[str]:
        """The labelled scans of the split's validation patients."""
        manifest = self.cache.manifest
        chosen = manifest["scan"][manifest["patient"].map(self.roles) == "validation"]
        return [scan for scan in chosen if scan in self.task.labels]

    @cached_property
    def training_scans(self) -> list[str]:
        """All scans of training patients."""
        return unlabelled_scans(self.cache, self.roles, set())


def make_plan(settings: StudySettings) -> Plan:
    """Check everything that can be known before the first training, and lay out the cells.

    Raises:
        MedsslError: The arms, the task, the split or a pretraining run do not fit together.
    """
    design, cache = settings.design, Cache(Path(settings.data))
    arms = parse_arms(settings.arms, design.long)
    task = task_named(settings.task).from_cache(cache, settings.label)
    folders = pretraining_folders(arms)
    encoders, size = architectures(cache, arms, settings.encoder, settings.crop)
    _suggest_one_arm(arms)
    roles = settings.split.roles(cache.manifest)
    _check_copies(cache, roles)
    own, other = sum(folders.values(), ()), design.selection_run
    selection = Selection.of(design.selection or [], other, own, design.selection_seeds, settings.encoder)
    if other is not None and other not in own:
        folders = {SELECTION_RUN: (other,), **folders}
    seen = seen_scans(folders, cache, roles, {"test", design.score_on}, design.allow_seen)
    similar = near_duplicates(folders, cache, roles, {"test", design.score_on})
    subsets = label_budgets(roles, task.seen, settings.budgets, design.seed, design.draws)
    scored = _scored_scans(cache, task, roles, design.score_on)
    selected = (
        selected_budgets(Candidates(cache, roles, task.seen), subsets, selection, Path(settings.out))
        if selection
        else subsets.iloc[:0]
    )
    cells = _cells(cache, task, roles, subsets, selected, arms, settings)
    config = {
        **_settings_record(settings, task, arms),
        **_data_record(cache, task, scored, roles),
        **_pretraining_record(arms),
        **_encoders_record(encoders, arms),
        "crop": size,
        "seen_test_scans": seen,
        **({"near_duplicates": similar} if similar else {}),
        "cells": len(cells),
        **({"selection": selection.to_record()} if selection else {}),
        **({"trials": {"count": design.trials, "folds": FOLDS, "min_patients": MIN_PATIENTS}} if design.trials else {}),
    }
    return Plan(
        Path(settings.out),
        cache,
        task,
        encoders,
        settings.encoder,
        size,
        arms,
        scored,
        cells,
        subsets,
        selected,
        roles,
        design.seed,
        config,
    )


def pretraining_folders(arms: dict[str, Arm]) -> dict[str, tuple[Path, ...]]:
    """Arm -> the runs that it starts from, for the arms that start from any."""
    return {name: arm.folders for name, arm in arms.items() if arm.folders}


def _suggest_one_arm(arms: dict[str, Arm]) -> None:
    """Warn of arms that differ in their seeds alone: a shell makes three arms of braces that are not quoted."""
    for group in differing_in_seed_alone([arm.folder for arm in arms.values() if isinstance(arm, PretrainedRun)]):
        names = [folder.resolve().name for folder in group]
        warnings.warn(
            f"{', '.join(names)} differ in their seeds alone and are {len(names)} arms: to make them one arm, whose interval holds "
            f"for the method, quote the braces: --arms 'FOLDER/{common_name(names)}'",
            stacklevel=2,
        )


def _check_copies(cache: Cache, roles: pd.Series) -> None:
    if copies := duplicates_across(cache.manifest, roles):
        raise MedsslError(
            f"{copies} test scan(s) have the same voxels as a training or validation scan: expected none; remove the copies, or put both "
            "into one split (--split-column)"
        )


def _scored_scans(cache: Cache, task: Task, roles: pd.Series, role: str) -> list[str]:
    scans = cache.manifest["scan"][cache.manifest["patient"].map(roles) == role]
    scored = [scan for scan in scans if scan in task.labels]
    task.check_scored(scored)
    return scored


def _cells(
    cache: Cache,
    task: Task,
    roles: pd.Series,
    subsets: pd.DataFrame,
    selected: pd.DataFrame,
    arms: dict[str, Arm],
    settings: StudySettings,
) -> list[Cell]:
    """The cells, one draw after the other and those of selectors last; a semi-supervised arm has none where no training scan is unlabelled.

    Raises:
        MedsslError: An arm is not for the task, or has no cell at all.
    """
    for arm in arms.values():
        arm.check(task)
    draws = {*subsets["draw"], *selected["draw"]}
    parents = {(name, draw): arm.in_draw(draw).parent_id() for name, arm in arms.items() for draw in draws}
    cells = []
    for selector, name, draw, subset in _choices(subsets, selected):
        seen = {patient: task.seen[patient] for patient in subset["patient"]}
        no_trials = why_no_trials(seen, draw) if settings.design.trials else ""
        trials = 0 if no_trials else settings.design.trials
        wanted = any(arm.unlabelled_needed for arm in arms.values())
        any_unlabelled = wanted and bool(unlabelled_scans(cache, roles, set(subset["patient"])))
        for arm_name, arm in arms.items():
            if arm.unlabelled_needed and not any_unlabelled:
                continue
            for mode in arm.modes(task, settings.design.modes):
                trained = mode == "finetune"
                # A model with settings of its own trials trains on the whole budget: the folds have chosen already.
                rows = subset.assign(role="train") if trained and trials else subset
                training, validation = (tuple(scans_of(cache, task, rows, role)) for role in ("train", "validation"))
                cell = Cell(
                    arm=arm_name,
                    mode=mode,
                    budget_name=name,
                    budget=float(subset["budget"].iloc[0]),
                    draw=draw,
                    # A probe trains nothing, so other settings do not make it another cell.
                    settings=arm.settings(settings.train).for_scans(len(training)) if trained else FinetuneConfig(),
                    parent=parents[arm_name, draw],
                    patients=len(subset),
                    training=training,
                    validation=validation,
                    selector=selector,
                    trials=trials if trained else 0,
                    no_trials=no_trials if trained else "",
                )
                cells.append(cell)
    if missing := arms.keys() - {cell.arm for cell in cells}:
        raise MedsslError(
            f"no training scan is left unlabelled for {', '.join(sorted(missing))}: expected a budget below 100%, or more scans"
        )
    return sorted(cells, key=lambda cell: (cell.selector is not None, cell.draw))


def _choices(subsets: pd.DataFrame, selected: pd.DataFrame) -> Iterator[tuple[str | None, str, int, pd.DataFrame]]:
    """Selector (None for a random draw), budget, draw and patients of all that is trained on."""
    for (draw, name), subset in subsets.groupby(["draw", "budget_name"], sort=False):
        yield None, str(name), int(draw), subset
    if len(selected):
        for (selector, draw, name), subset in selected.groupby(["selector", "draw", "budget_name"], sort=False):
            yield str(selector), str(name), int(draw), subset


def _encoders_record(encoders: dict[str, dict[str, Any]], arms: dict[str, Arm]) -> dict[str, Any]:
    """The encoder of the arms that start at random (of the first arm where none does), and those of arms with another."""
    reference = next((encoders[name] for name, arm in arms.items() if not arm.folders), next(iter(encoders.values())))
    others = other_encoders(encoders, reference)
    return {"encoder": reference, **({"other_encoders": others} if others else {})}


def _settings_record(settings: StudySettings, task: Task, arms: dict[str, Arm]) -> dict[str, Any]:
    return {
        "task": settings.task,
        "label": settings.label,
        "classes": task.classes,
        "arms": list(arms),
        "budgets": settings.budgets,
        "settings": {name: asdict(arm.settings(settings.train)) for name, arm in arms.items()},
        "score_on": settings.design.score_on,
        "long": settings.design.long,
        **settings.split.to_record(),
        "given_options": settings.given_options(),
    }


def _data_record(cache: Cache, task: Task, scored: list[str], roles: pd.Series) -> dict[str, Any]:
    digest, patient = (cache.manifest.set_index("scan")[column] for column in ("digest", "patient"))
    labels = sorted((digest[scan], code) for scan, code in task.labels.items())
    return {
        "truth": runs.identity(labels=labels, classes=task.classes),
        "scored": runs.identity(scans=sorted(digest[scored])),
        "training_scans": runs.identity(scans=sorted(digest[unlabelled_scans(cache, roles, set())])),
        "scored_scans": len(scored),
        "scored_patients": patient[scored].nunique(),
        "data_spec": cache.data_spec.to_record(),
        "patients": {role: int((roles == role).sum()) for role in ROLES},
    }


def _pretraining_record(arms: dict[str, Arm]) -> dict[str, Any]:
    """The settings of each arm's pretraining, its runs with their seeds, and a hash of each run's weights."""
    starts = {name: [PretrainedRun(folder) for folder in each] for name, each in pretraining_folders(arms).items()}
    records = {name: [runs.read(start.folder) for start in each] for name, each in starts.items()}
    return {
        "weights": {
            name: {run.id: start.weights() for start, run in zip(starts[name], each)} for name, each in records.items()
        },
        "pretraining": {
            name: each[0].config | {"runs": [{"id": run.id, "seed": run.seed, "cost": run.cost} for run in each]}
            for name, each in records.items()
        },
    }
