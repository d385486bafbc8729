"""Does a dataset keep its contract? Call this on one of your own before you train on it.

from medssl.datasets.check import check_dataset
manifest = check_dataset(Mine(Path("mine")))
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.base import Dataset
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.datasets.splits import split
from medssl.scans.read import read_mask, read_scan

MASKS_READ = 8  # evenly chosen; the voxels of every mask of a large collection would take hours


def check_dataset(dataset: Dataset, jobs: int = 1) -> pd.DataFrame:
    """Index a dataset into a temporary folder and hold what comes out against what the dataset says of itself.

    Reads the headers of all scans, and the voxels of a few that have masks.

    Args:
        dataset: The dataset to check.
        jobs: Processes that read headers; -1 for one per core.

    Returns:
        The manifest, in which some scans may be rejected: a bad file is not the dataset's fault.

    Raises:
        MedsslError: The dataset does not keep the contract; the message says where.
    """
    name = type(dataset).__name__
    for attribute in ("source", "licence"):
        if not str(getattr(dataset, attribute)).strip():
            raise MedsslError(f"{name}.{attribute} is empty: expected where the scans come from, and on what terms")
    missing = [str(path) for path in dataset.files() if not path.exists()]
    if missing or not dataset.files():
        raise MedsslError(f"{name}.files() names {missing or 'nothing'}: expected folders and files that exist")
    with tempfile.TemporaryDirectory() as folder:
        manifest = index(dataset.files(), Path(folder), jobs=jobs, **vars(dataset.options()))
        usable = manifest[manifest.status == "ok"]
        _check_labels(dataset, name, usable)
        _check_masks(dataset, name, usable, Path(folder))
    return manifest


def _check_labels(dataset: Dataset, name: str, usable: pd.DataFrame) -> None:
    options = dataset.options()
    if options.labels and not any(usable[column].notna().any() for column in usable if column.startswith("label.")):
        raise MedsslError(
            f"no scan of {name} has a label from {options.labels.name}: do its paths fit {options.key!r}?"
        )
    if dataset.split_column:
        split(usable, column=dataset.split_column)


def _check_masks(dataset: Dataset, name: str, usable: pd.DataFrame, folder: Path) -> None:
    masked = usable[usable.has_mask]
    if dataset.options().mask and masked.empty:
        raise MedsslError(f"no scan of {name} has a mask by the pattern {dataset.options().mask!r}: expected some")
    if masked.empty:
        return
    sources = read_table(folder / "sources.parquet").set_index("scan")
    numbers: set[int] = set()
    for scan in masked["scan"].iloc[np.unique(np.linspace(0, len(masked) - 1, MASKS_READ).astype(int))]:
        numbers |= set(np.unique(_read_mask(sources.loc[scan])).tolist())
    unknown = sorted(numbers - {0, *dataset.structures})
    if unknown:
        raise MedsslError(
            f"masks of {name} hold the numbers {unknown}, which {name}.structures does not name: expected "
            f"{sorted(dataset.structures) or 'a name for each'}"
        )


def _read_mask(source: pd.Series) -> np.ndarray:
    """The mask of one row of the sources, on the grid of its scan."""
    scan = read_scan(source["files"], source["format"], id="", patient="", member=source["member"])
    return read_mask(Path(source["mask"]), scan.affine, scan.array.shape[1:])
