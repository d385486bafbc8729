"""What the page Cohort shows: the scans of a manifest or a cache, counted by any column; what was rejected and why; the audit.

    named = cohorts(Path("runs"), [Path("cache"), Path("manifest")])      # name -> folder
    cohort = read_cohort("cache", named["cache"])
    counts(cohort.usable, "manufacturer")                                 # value, scans, patients

Only the tables that `medssl index` and `medssl prepare` hand on are opened, never `sources.parquet`, which names files. Reports
and notes are not shown, since their text is free. Imports no torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import COLUMNS, read_table
from medssl.datasets.quality import FLAGS, SEPARATOR
from medssl.reporting.dashboard.folder import inside, walk
from medssl.reporting.redaction import without_paths

MANIFEST, AUDIT, CACHE = "manifest.parquet", "audit.csv", "cache.json"
AUDIT_COLUMNS = ["format", "field", "name", "vr", "became", "files"]
LARGEST_AUDIT_BYTES = 20 << 20
FIRST = ("modality", "spacing_mm", "shape", "manufacturer")  # columns that come first, in their order
NOT_COUNTED = ("scan", "patient", "digest", "mask_digest", "pseudonym_key", "status", "reason", "notes", "report")
REQUIRED = ("patient", "modality", "shape", "spacing_mm", "status", "reason")
NOT_KNOWN = "not known"
MOST_VALUES = 24  # of a column, shown one by one
BANDS = 10  # of a column of numbers with more values
OWN_NUMBER = re.compile(r"\b[0-9a-f]{12}\b|-?\d+(?:\.\d+)?(?:e-?\d+)?")  # of one scan, in the reason of its rejection


@dataclass(frozen=True)
class Cohort:
    """The scans of a manifest or a cache.

    Attributes:
        name: How the dashboard calls it.
        folder: Where it lies.
        prepared: Whether it is a cache: its shapes and spacings are those after resampling.
        usable: The rows of its manifest that can be used.
        rejected: scan and reason of the others.
    """

    name: str
    folder: Path
    prepared: bool
    usable: pd.DataFrame
    rejected: pd.DataFrame


def cohorts(root: Path, data: Sequence[Path]) -> dict[str, Path]:
    """Return name -> folder of the manifests and caches among `data`, then of those below the folder under review."""
    found: dict[str, Path] = {}
    for folder in data:
        if (folder / MANIFEST).is_file():
            found.setdefault(_free(folder.resolve().name, found), folder)
    known = {folder.resolve() for folder in found.values()}
    for folder, _, names in walk(root):
        if MANIFEST in names and not (folder / MANIFEST).is_symlink() and folder.resolve() not in known:
            found[_free(str(folder.relative_to(root)), found)] = inside(root, str(folder.relative_to(root)))
    return found


def read_cohort(name: str, folder: Path) -> Cohort:
    """Read the manifest of a cohort.

    Args:
        name: How the dashboard calls it.
        folder: One of `cohorts`.

    Raises:
        MedsslError: The manifest cannot be read, or lacks a column that medssl writes.
    """
    table = read_table(folder / MANIFEST)
    if missing := [column for column in REQUIRED if column not in table]:
        raise MedsslError(
            f"the manifest of {name} has no column {missing[0]}: expected the table that medssl index wrote; index the scans again"
        )
    usable = table["status"] == "ok"
    rejected = table.loc[~usable, ["scan", "reason"]].reset_index(drop=True)
    rejected["reason"] = rejected["reason"].map(lambda reason: without_paths(str(reason or NOT_KNOWN)))
    return Cohort(name, folder, (folder / CACHE).is_file(), table[usable].reset_index(drop=True), rejected)


def stamp(folder: Path) -> int:
    """Return a number that changes when the manifest in a folder does."""
    return (folder / MANIFEST).stat().st_mtime_ns


def columns(usable: pd.DataFrame) -> list[str]:
    """Return the columns by which scans can be counted: modality, spacing, size and scanner first, then the others, labels last."""
    own = [name for name in COLUMNS if name in usable and name not in NOT_COUNTED]
    labels = [str(name) for name in usable if str(name).startswith("label.")]
    order = [*(name for name in FIRST if name in own), *(name for name in own if name not in FIRST), *labels]
    return [name for name in order if usable[name].notna().any()]


def values(usable: pd.DataFrame, column: str) -> pd.Series:
    """Return the value of each scan in a column as it is counted; a scan with two flags stands there twice.

    Numbers with many values are divided into bands of equal width; of other columns the commonest values are kept.

    Returns:
        An ordered categorical; index: the rows of `usable`.
    """
    if column == "flags":
        return _ordered(usable[column].map(_flags).explode())
    known = usable[column].dropna()
    if len(known) and pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known):
        return _numbers(usable[column])
    return _ordered(usable[column].map(_text))


def counts(usable: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return value, scans and patients: how many scans, and patients with such a scan, have each value of a column."""
    groups = values(usable, column).rename("value")
    named = usable[["scan", "patient"]].join(groups)
    table = named.groupby("value", observed=True, sort=True).agg(
        scans=("scan", "size"), patients=("patient", "nunique")
    )
    return table.reset_index().astype({"value": str})


def reject_reasons(rejected: pd.DataFrame) -> pd.DataFrame:
    """Return reason and scans, the commonest first; reasons that differ in the numbers of a scan alone are one, shown as the first."""
    kinds = rejected["reason"].map(lambda reason: OWN_NUMBER.sub("#", reason))
    table = rejected.groupby(kinds, sort=False)["reason"].agg(reason="first", scans="size")
    return table.sort_values("scans", ascending=False, kind="stable").reset_index(drop=True)


def read_audit(folder: Path) -> pd.DataFrame | None:
    """Return what header text `medssl index --audit` left behind, by field and count; None where it was not asked to.

    Raises:
        MedsslError: The file is not one that medssl wrote.
    """
    path = folder / AUDIT
    if path.is_symlink() or not path.is_file():
        return None
    if path.stat().st_size > LARGEST_AUDIT_BYTES:
        raise MedsslError(
            f"audit.csv has more than {LARGEST_AUDIT_BYTES >> 20} MiB: expected one that medssl index wrote"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)[AUDIT_COLUMNS]
        return table.astype({"files": int}).sort_values("files", ascending=False, kind="stable", ignore_index=True)
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise MedsslError(
            f"audit.csv cannot be read ({type(error).__name__}): expected the columns {', '.join(AUDIT_COLUMNS)}; run medssl "
            "index --audit again"
        ) from None


def labels(usable: pd.DataFrame) -> list[str]:
    """Return the names of the labels that any scan has."""
    return [name.removeprefix("label.") for name in columns(usable) if name.startswith("label.")]


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where another cohort has it."""
    names = [name, *(f"{name} {number}" for number in range(2, 1000))]
    return next(each for each in names if each not in taken)


def _flags(flags: object) -> list[str]:
    given = flags.split(SEPARATOR) if isinstance(flags, str) else []
    return [next((known for known in FLAGS if flag.startswith(known)), "another flag") for flag in given] or ["none"]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return " × ".join(f"{step:.4g}" for step in value) or NOT_KNOWN
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return NOT_KNOWN if value is None or value != value or value == "" else str(value)


def _ordered(texts: pd.Series) -> pd.Series:
    """The commonest first; rare ones are put together, and what is not known comes last."""
    order = [value for value in texts.value_counts().index if value != NOT_KNOWN]
    kept, others = order[:MOST_VALUES], set(order[MOST_VALUES:])
    rest = f"{len(others)} other values"
    texts = texts.where(~texts.isin(others), rest) if others else texts
    return texts.astype(pd.CategoricalDtype([*kept, *([rest] if others else []), NOT_KNOWN], ordered=True))


def _numbers(numbers: pd.Series) -> pd.Series:
    """Each number for itself, or in bands where there are many."""
    plain = pd.to_numeric(numbers, errors="coerce").astype("float64").replace([np.inf, -np.inf], np.nan)
    if plain.nunique() <= MOST_VALUES:
        texts, order = plain.map("{:g}".format), [f"{number:g}" for number in sorted(plain.dropna().unique())]
    else:
        edges = np.linspace(plain.min(), plain.max(), BANDS + 1)
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
        band = np.clip(np.searchsorted(edges, plain, side="right") - 1, 0, BANDS - 1)
        texts, order = pd.Series(np.array(names)[band], index=plain.index), list(dict.fromkeys(names))
    return texts.where(plain.notna(), NOT_KNOWN).astype(pd.CategoricalDtype([*order, NOT_KNOWN], ordered=True))
