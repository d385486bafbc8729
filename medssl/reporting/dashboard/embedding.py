"""What the page Embedding shows: the features that `medssl embed` wrote, groups to colour them by, what a lasso holds, neighbours.

    name, *others = files(root)                     # features.parquet below the folder
    features = read(root, name)
    groups = groups_of(cache.manifest, features, roles)     # name -> the group of each scan
    rows = enclosed(places, event["selection"])

Imports no torch: the features are read, never computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import ID_FORMS
from medssl.datasets.splits import ROLES, SplitSpec
from medssl.evaluation.similar_features import nearest, unit
from medssl.reporting.dashboard.compare import MOST_GROUPS, NOT_GROUPS, bands
from medssl.reporting.dashboard.folder import inside, walk

FILE = "features.parquet"
LARGEST_BYTES = 4 << 30
SPLIT, ERROR, OTHERS, UNKNOWN = "split", "error of a cell", "others", "unknown"
ALIKE = 0.99  # cosine from which two scans are near-duplicates
PAIRS = ["scan", "other", "cosine", "split", "other_split", "patient", "other_patient"]


@dataclass(frozen=True)
class Features:
    """Features of a cohort.

    Attributes:
        name: Their file, below the folder under review.
        id: Digest of its content.
        table: scan and patient, of the scans that have features.
        vectors: (N, D) float32.
        rejected: How many scans have none.
    """

    name: str
    id: str
    table: pd.DataFrame
    vectors: np.ndarray
    rejected: int


def files(root: Path) -> list[str]:
    """Return the feature files below the folder, the newest first; links are not followed."""
    found = [folder / FILE for folder, _, names in walk(root) if FILE in names]
    found = [path for path in found if not path.is_symlink()]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [str(path.relative_to(root)) for path in found]


def stamp(root: Path, name: str) -> tuple[int, int]:
    """Return what changes when the file is written anew."""
    about = _path(root, name).stat()
    return about.st_mtime_ns, about.st_size


def read(root: Path, name: str) -> Features:
    """Read features.

    Args:
        root: The folder under review.
        name: One of `files(root)`.

    Raises:
        MedsslError: The file lies elsewhere, or is none that `medssl embed` wrote.
    """
    path = _path(root, name)
    if path.stat().st_size > LARGEST_BYTES:
        raise MedsslError(f"the file of features has more than {LARGEST_BYTES >> 30} GiB: expected one of medssl embed")
    try:
        table = pd.read_parquet(path)
        columns = [f"f{i}" for i in range(sum(str(column).removeprefix("f").isdigit() for column in table))]
        vectors, ids = table[columns].to_numpy(np.float32), table[["scan", "patient"]]
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise MedsslError(
            f"the features cannot be read ({type(error).__name__}): expected the columns scan, patient, f0, f1, ... as medssl embed "
            "writes them; run it again"
        ) from None
    if not columns:
        raise MedsslError(
            "the file has no features: expected the columns f0, f1, ... as medssl embed writes them; run it again"
        )
    known = np.isfinite(vectors).all(1)
    ids = ids[known].reset_index(drop=True)
    for column in ("scan", "patient"):
        if not ids[column].map(lambda value, column=column: _has_form(column, value)).all():
            raise MedsslError(
                f"the features have a {column} that is no pseudonym: expected the file that medssl embed wrote"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Features(name, digest, ids, vectors[known], int((~known).sum()))


def groups_of(
    manifest: pd.DataFrame, features: Features, roles: pd.Series | None, errors: pd.Series | None = None
) -> dict[str, pd.Series]:
    """Return name -> the value of each scan, in the order of the features: groups as text, or the error as a number.

    Labels come first, then the other columns, the split and the error. Columns with many values keep the most frequent ones, and
    numbers become bands.

    Args:
        manifest: Of the cache that holds the scans.
        features: The features.
        roles: Patient -> train, validation or test.
        errors: Scan -> error, of a cell of a study.
    """
    scans = features.table["scan"]
    own = manifest.drop_duplicates("scan").set_index("scan").reindex(scans)
    groups: dict[str, pd.Series] = {}
    columns = own.columns.difference(NOT_GROUPS, sort=False)
    for name in sorted(columns, key=lambda name: not str(name).startswith("label.")):
        values = _few(bands(own[name])).reset_index(drop=True)
        if values.nunique() > 1:
            groups[str(name).removeprefix("label.")] = values
    if roles is not None:
        groups[SPLIT] = features.table["patient"].map(roles)
    if errors is not None:
        groups[ERROR] = scans.map(errors)
    return groups


def roles_of(manifest: pd.DataFrame, config: Mapping[str, Any]) -> pd.Series:
    """Return patient -> role, by the split of a study's config, or by the default one where it states none."""
    split = SplitSpec(int(config.get("split_seed", 0)), config.get("split_column"))
    return split.roles(manifest)


def split_twice(manifest: pd.DataFrame) -> dict[str, int]:
    """Return label column -> patients with scans in two roles, for the columns that hold roles of a split."""
    twice = {}
    for name in manifest.columns[manifest.columns.str.startswith("label.")]:
        values = manifest[name].dropna().astype(str).str.lower()
        if len(values) and set(values) <= {*ROLES, "val", "valid", "training", "testing"}:
            count = int((values.groupby(manifest["patient"]).nunique() > 1).sum())
            if count:
                twice[name.removeprefix("label.")] = count
    return twice


def same_voxels(manifest: pd.DataFrame, roles: pd.Series) -> tuple[int, int]:
    """Return how many groups of scans with the same voxels span two patients, and how many of them two roles."""
    known = manifest[manifest["digest"].notna()]
    by_digest = known.assign(role=known["patient"].map(roles)).groupby("digest")
    patients, spanned = by_digest["patient"].nunique(), by_digest["role"].nunique()
    return int((patients > 1).sum()), int(((patients > 1) & (spanned > 1)).sum())


def pair_table(features: Features, pairs: Sequence[tuple[int, int, float]], roles: pd.Series | None) -> pd.DataFrame:
    """Return pairs of rows as a table with the columns `PAIRS`."""
    first, second = (features.table.iloc[[int(pair[k]) for pair in pairs]].reset_index(drop=True) for k in (0, 1))
    split = [each["patient"].map(roles) if roles is not None else UNKNOWN for each in (first, second)]
    return pd.DataFrame(
        {
            "scan": first["scan"],
            "other": second["scan"],
            "cosine": [pair[2] for pair in pairs],
            "split": split[0],
            "other_split": split[1],
            "patient": first["patient"],
            "other_patient": second["patient"],
        }
    )


def neighbours(features: Features, scan: str, count: int) -> pd.DataFrame:
    """Return scan, patient and cosine of the scans whose features are nearest to those of one."""
    row = int(np.flatnonzero(features.table["scan"] == scan)[0])
    rows, cosines = nearest(unit(features.vectors), row, count)
    return features.table.iloc[rows].assign(cosine=cosines).reset_index(drop=True)


def enclosed(places: np.ndarray, selection: Mapping[str, Any]) -> np.ndarray:
    """Return the rows of the points in a box or a lasso of Streamlit's selection; in any of several.

    Args:
        places: (n, 2) of the points.
        selection: With `box` and `lasso`, lists of `{"x": [...], "y": [...]}`.
    """
    within = np.zeros(len(places), bool)
    for box in selection.get("box", ()):
        (left, right), (low, high) = sorted(box["x"]), sorted(box["y"])
        within |= (places[:, 0] >= left) & (places[:, 0] <= right) & (places[:, 1] >= low) & (places[:, 1] <= high)
    for lasso in selection.get("lasso", ()):
        within |= _inside_polygon(places, np.column_stack([lasso["x"], lasso["y"]]).astype(float))
    return np.flatnonzero(within)


def _inside_polygon(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """By the even-odd rule: an odd number of edges lies to the right of a point inside."""
    inside_it = np.zeros(len(places), bool)
    x, y = places.T
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            inside_it ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside_it


def _few(values: pd.Series) -> pd.Series:
    """The values, with `others` in place of all but the most frequent where there are many."""
    counts = values.value_counts()
    if len(counts) <= MOST_GROUPS:
        return values
    return values.where(values.isna() | values.isin(counts.index[: MOST_GROUPS - 1]), OTHERS)


def _path(root: Path, name: str) -> Path:
    if Path(name).name != FILE:
        raise MedsslError(f"the features of the address are no {FILE}: expected a file that medssl embed wrote")
    path = inside(root, name)
    if path.is_symlink() or not path.is_file():
        raise MedsslError(
            "there are no features of the requested name in the folder under review: choose some of the list"
        )
    return path


def _has_form(column: str, value: object) -> bool:
    return isinstance(value, str) and ID_FORMS[column].fullmatch(value) is not None
