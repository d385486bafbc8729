"""What lies in the folder under review: its runs, and the folders that are not whole.

    runs_in_folder = runs_below(Path("runs"))     # runs.table(), and rows for folders that are not whole
    studies(runs_in_folder)                       # names of the studies, the newest first

Imports no torch. Nothing outside of the folder is ever opened: a link that leads out of it is refused and not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.studies.masks import FOLDER as MASKS

LOCK = ".lock"  # beside a run, and beside a manifest, a cache or a cohort
LEFTOVERS = {  # what a run writes before, or beside, its record
    "predictions.parquet",
    "examples.npz",
    "masks.npz",
    "metrics.csv",
    "last.ckpt",
    "encoder.safetensors",
    "subsets.parquet",
    "summary.parquet",
}


def inside(root: Path, name: str) -> Path:
    """Return the folder `name` below `root`.

    Raises:
        MedsslError: That folder lies, or leads by a link, anywhere else, or the name has a zero byte.
    """
    if "\0" in name:
        raise MedsslError("a zero byte stands in the name: expected the name of a run below the folder under review")
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not folder.resolve().is_relative_to(root.resolve()):
        raise MedsslError("that folder lies outside of the one under review: expected the name of a run below it")
    return folder


def runs_below(root: Path) -> pd.DataFrame:
    """Return `runs.table(root)` with further rows for folders that are not whole.

    Their status is `empty` (nothing in it), `partial` (what a run writes before it has a record) or `refused` (a link in
    it leads out of `root`, so that nothing of it was read).
    """
    rows = [row for folder, below, names in walk(root) for row in rows_of(root, folder, below, names)]
    return runs.as_table(sorted(rows, key=lambda row: row["folder"]))


def rows_of(root: Path, folder: Path, below: list[str], names: list[str]) -> list[dict[str, Any]]:
    """Return the rows of `runs_below` for one folder; `below` and `names` are the folders and files in it."""
    links = _links_out(root, folder)
    if "run.json" in names and not links:
        return [runs.row(root, folder)]
    refused = [folder] if "run.json" in names else [folder / name for name in links]
    if refused:
        return [_row(root, each, "refused", "a link leads out of the folder under review") for each in refused]
    status = _status_without_record(folder, below, names)
    return [_row(root, folder, status, "holds no run.json")] if status and folder != root else []


def studies(runs_in_folder: pd.DataFrame) -> list[str]:
    """Return the folders of the studies among the runs of `runs_below`, the newest first."""
    kinds = runs_in_folder.reindex(columns=["folder", "kind", "started"])
    chosen = kinds[kinds["kind"] == "study"].sort_values("started", ascending=False, kind="stable")
    return chosen["folder"].tolist()


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Return the folders below `root` that may hold runs, with the folders and files in each: links are not followed, caches of scans and masks not entered."""
    for path, below, names in os.walk(root):
        if "cache.json" in names:
            below.clear()
        if "run.json" in names and MASKS in below:
            below.remove(MASKS)  # one file a scan, none of which is a run
        below.sort()
        yield Path(path), below, names


def _links_out(root: Path, folder: Path) -> list[str]:
    """The names in this folder that are links to a place outside of `root`."""
    with os.scandir(folder) as entries:
        links = [entry.name for entry in entries if entry.is_symlink()]
    return [name for name in links if not (folder / name).resolve().is_relative_to(root.resolve())]


def _row(root: Path, folder: Path, status: str, reason: str) -> dict[str, Any]:
    return {"folder": str(folder.relative_to(root)), "id": folder.name, "status": status, "reason": reason}


def _status_without_record(folder: Path, below: list[str], names: list[str]) -> str | None:
    """`empty` or `partial`; None for a folder inside of a run, and for one whose files are not those of a run."""
    if (folder.parent / "run.json").exists():
        return None
    if not below and not names:
        return "empty"
    if not below and names == [LOCK]:
        return "partial"
    return "partial" if any(name in LEFTOVERS or name.startswith(".run.json.") for name in names) else None
