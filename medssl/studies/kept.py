"""What was read of a study's cells and computed from them, so that a study that is still running is summarised bit by bit.

    kept = KeptCells()
    summarise(folder, cells, metric, kept)       # later again: only the rows of new cells are computed

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core import runs
from medssl.core.runs import Run

RECORD, PREDICTIONS = "run.json", "predictions.parquet"


class KeptCells:
    """Records and case tables of cells, each read again only when its file changed, and what was computed from them."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._computed: dict[Any, list[dict[str, Any]]] = {}

    def run(self, cell: Path) -> Run:
        """Return the record of a cell; see `core.runs.read`."""
        return self._content(cell / RECORD, lambda: runs.read(cell))

    def cases(self, cell: Path) -> pd.DataFrame:
        """Return the case table of a cell; what pandas raises for a damaged one is raised."""
        return self._content(cell / PREDICTIONS, lambda: pd.read_parquet(cell / PREDICTIONS))

    def state(self, cell: Path) -> tuple[Any, ...]:
        """Return what changes when a file of the cell is written again."""
        return cell.name, _state(cell / RECORD), _state(cell / PREDICTIONS)

    def computed(self, key: Any, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return what was computed for this key before, or compute it; key: names everything that the result depends on."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    def _content(self, file: Path, read: Callable[[], Any]) -> Any:
        state = _state(file)
        known = self._read.get(file)
        if known is None or known[0] != state:
            known = self._read[file] = (state, read())
        return known[1]


def _state(file: Path) -> tuple[int, int]:
    about = os.stat(file)
    return about.st_mtime_ns, about.st_size
