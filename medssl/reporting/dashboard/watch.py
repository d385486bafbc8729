"""One look at the folder under review for all readers: it is walked at most once a second, and only what changed is read.

    watch = FolderWatch(Path("runs"))
    version, runs_in_folder = watch.now()        # the same version until something changed

Imports no torch.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medssl.core import runs
from medssl.reporting.dashboard.folder import rows_of, walk

CHECK_S = 1.0  # between two walks of the folder
OPEN_STATUSES = ("running", "stale")  # no file changes when a process dies: these records are read at every walk


class Seen(NamedTuple):
    """A folder as it was seen: what its files were, and the rows that were read from them."""

    state: tuple[Any, ...]
    rows: list[dict[str, Any]]


class FolderWatch:
    """The runs below a folder, kept up to date for every reader of the dashboard.

    Args:
        root: The folder under review.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, threading.Lock()
        self._seen: dict[Path, Seen] = {}
        self._checked, self._version, self._runs = -CHECK_S, 0, runs.as_table([])

    def now(self) -> tuple[int, pd.DataFrame]:
        """Return a number that changes when the folder does, and the runs as `folder.runs_below` has them."""
        with self._lock:
            if time.monotonic() - self._checked >= CHECK_S:
                self._look()
                self._checked = time.monotonic()
            return self._version, self._runs

    def _look(self) -> None:
        before, self._seen = self._seen, {}
        for folder, below, names in walk(self._root):
            state = _state(folder, below, names)
            known = before.get(folder)
            unchanged = known is not None and known.state == state and not _open(known.rows)
            rows = known.rows if known and unchanged else rows_of(self._root, folder, below, names)
            self._seen[folder] = Seen(state, rows)
        if self._seen != before or self._version == 0:
            self._version += 1
            rows = [row for seen in self._seen.values() for row in seen.rows]
            self._runs = runs.as_table(sorted(rows, key=lambda row: row["folder"]))


def _open(rows: list[dict[str, Any]]) -> bool:
    return any(row.get("status") in OPEN_STATUSES for row in rows)


def _state(folder: Path, below: list[str], names: list[str]) -> tuple[Any, ...]:
    """What changes when anything in a folder is added, replaced or removed, or a record is written."""
    files: list[Any] = [tuple(below), tuple(names), (folder.parent / "run.json").exists()]
    for path in [folder, *(folder / name for name in ("run.json", "summary.parquet") if name in names)]:
        with suppress(FileNotFoundError):  # replaced since the folder was listed: the next look sees it
            about = os.lstat(path)
            files.append((about.st_mtime_ns, about.st_size))
    return tuple(files)
