"""What the page Label next shows: a list of `medssl select`, what was decided on each scan, and what the labels would buy.

    name, *others = lists(root)                        # CSV files of `medssl select` below the folder
    scans = read_list(root, name)
    with_decisions(scans, latest(choices(engine, scans.id, "finding")))

Imports no torch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.labels import check_classes
from medssl.datasets.manifest import ID_FORMS
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard.folder import inside, walk
from medssl.reporting.verdicts.choices import DECISIONS, Choice
from medssl.studies.forecast import ArmForecast

SELECT = "medssl select"
HEADER = ["rank", "patient", "scan"]
LARGEST_BYTES = 50 << 20  # of a list
WORDS = ("accepted", "skipped", "deferred")  # of the decisions, in their order
BUYS = ["arm", "mode", "pretraining_runs", "now", "patients", "mean", "low", "high"]


@dataclass(frozen=True)
class ScanList:
    """A list of scans to label.

    Attributes:
        name: Its file, below the folder under review.
        id: Of its content: another list of the same name has decisions of its own.
        table: rank, patient and scan, in the order of labelling.
    """

    name: str
    id: str
    table: pd.DataFrame


def lists(root: Path) -> list[str]:
    """Return the lists that `medssl select` wrote below the folder, the newest first; links are not followed."""
    found = [
        path
        for folder, _, names in walk(root)
        for path in (folder / name for name in names if name.endswith(".csv"))
        if not path.is_symlink() and _is_list(path)
    ]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [str(path.relative_to(root)) for path in found]


def read_list(root: Path, name: str) -> ScanList:
    """Read a list.

    Args:
        root: The folder under review.
        name: One of `lists(root)`.

    Raises:
        MedsslError: It lies elsewhere, or is no list that `medssl select` wrote.
    """
    path = inside(root, name)
    if path.stat().st_size > LARGEST_BYTES:
        raise MedsslError(f"the list has more than {LARGEST_BYTES >> 20} MiB: expected one that medssl select wrote")
    content = path.read_bytes()
    try:
        table = pd.read_csv(io.BytesIO(content), dtype={"patient": str, "scan": str})[HEADER]
        table = table.astype({"rank": int})
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise MedsslError(
            f"the list cannot be read ({type(error).__name__}): expected the columns rank, patient and scan, as medssl select "
            "writes them; run it again"
        ) from None
    for column in ("patient", "scan"):
        if not table[column].map(lambda value, column=column: _has_form(column, value)).all():
            raise MedsslError(
                f"the list has a {column} that is no pseudonym: expected the file that medssl select wrote; run it again"
            )
    unique = table.drop_duplicates("scan").sort_values(["rank", "scan"], kind="stable").reset_index(drop=True)
    return ScanList(name, hashlib.sha256(content).hexdigest()[:16], unique)


def cache_with(scans: Sequence[str], caches: Sequence[Cache], made_by: str = SELECT) -> tuple[Cache | None, str]:
    """Return the cache that holds most of these scans, and what is to be said about it.

    Args:
        scans: Their ids.
        caches: Those given with --data.
        made_by: The command that named the scans.
    """
    wanted = set(scans)
    held = [len(wanted & set(cache.manifest["scan"])) for cache in caches]
    if not any(held):
        start = "No cache given with --data holds these scans" if caches else "The scans are not in this folder"
        return None, f"{start}: start the dashboard with --data and the cache that {made_by} was given."
    most = int(np.argmax(held))
    lacking = len(wanted) - held[most]
    return caches[most], f"{lacking} of {len(wanted)} scans are not in the cache." if lacking else ""


def with_decisions(scans: ScanList, decided: Mapping[str, Choice]) -> pd.DataFrame:
    """Return the list with the decision, the class and the reader of each scan; empty where there is none."""
    table = scans.table.copy()
    chosen = [decided.get(scan) for scan in table["scan"]]
    table["decision"] = [choice.decision if choice else "" for choice in chosen]
    table["class"] = [choice.value or "" if choice else "" for choice in chosen]
    table["reader"] = [choice.reader if choice else "" for choice in chosen]
    return table


def sentence(table: pd.DataFrame) -> str:
    """Return how far the list is, in one sentence; table: as from `with_decisions`."""
    counts = [f"{(table['decision'] == name).sum()} {word}" for name, word in zip(DECISIONS, WORDS, strict=True)]
    done = int((table["decision"] != "").sum())
    return f"{done} of {len(table)} scans are decided: {', '.join(counts)}."


def with_class(choice: Choice, typed: str | None) -> Choice:
    """Return a decision with the class that was picked or typed; a scan that is not accepted has none.

    Raises:
        MedsslError: The class is no class, but a date or a long text.
    """
    value = (typed or "").replace("\0", "").strip() if choice.decision == "accept" else ""
    if value:
        check_classes(choice.label, pd.Series([value], dtype=object))
    return replace(choice, value=value or None)


def accepted_patients(table: pd.DataFrame) -> int:
    """Return how many patients of the list have an accepted scan."""
    return int(table.loc[table["decision"] == "accept", "patient"].nunique())


def new_labels(table: pd.DataFrame) -> dict[str, str]:
    """Return scan -> class, of the accepted scans that have one."""
    kept = table[(table["decision"] == "accept") & (table["class"] != "")]
    return dict(zip(kept["scan"], kept["class"], strict=True))


def what_it_buys(forecasts: Sequence[ArmForecast], more_patients: int) -> pd.DataFrame:
    """Return one row an arm that can be forecast: its score with the largest budget, and with so many more patients.

    Args:
        forecasts: Of a study, as from `studies.forecast.forecasts`.
        more_patients: How many are labelled beside those of the largest budget; a forecast ends at four times that budget.
    """
    rows = []
    for arm in forecasts:
        curve = arm.forecast
        if curve is not None:
            patients = min(float(curve.sizes[-1]) + more_patients, curve.farthest)
            score = curve.at(patients)
            about = [arm.arm, arm.mode, arm.pretraining_runs, float(curve.scores[-1]), patients]
            rows.append([*about, float(score.mean), float(score.low), float(score.high)])
    return pd.DataFrame(rows, columns=BUYS)


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(64).strip() == ",".join(HEADER).encode()


def _has_form(column: str, value: object) -> bool:
    return isinstance(value, str) and ID_FORMS[column].fullmatch(value) is not None
