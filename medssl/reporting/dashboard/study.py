"""One study of the folder under review, read for the pages: its summary, its cells and their cases.

    study = read_study(Path("runs"), "hippo", runs_below(Path("runs")))
    study.progress()                                       # (cells that are finished, cells that were planned)
    study.cases["scratch", "finetune", "1%"][0]            # the cases of draw 0, one row each

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.reporting.dashboard.folder import inside, studies
from medssl.studies.kept import KeptCells
from medssl.studies.results import (
    Cases,
    LabelCurve,
    cases_of,
    cells_of,
    check_record,
    label_curves,
    summary_of,
)
from medssl.studies.summary import KEY
from medssl.training.tasks import Task, task_named

Key = tuple[str, str, str]  # arm, mode, budget


@dataclass(frozen=True)
class ReviewedStudy:
    """What the pages show of a study.

    Attributes:
        folder: Where it lies.
        run: Its record.
        task: Its task, which knows the primary metric.
        cells: Its rows of `runs.table`.
        main: The rows of its summary for the primary metric.
        others: The rows for the other metrics.
        provisional: Whether the summary was computed from the cells finished so far.
        cases: (arm, mode, budget) -> draw -> one row per case.
        damaged: The ids of finished cells whose predictions cannot be read.
    """

    folder: Path
    run: Run
    task: type[Task]
    cells: pd.DataFrame
    main: pd.DataFrame
    others: pd.DataFrame
    provisional: bool
    cases: Cases
    damaged: list[str]

    def progress(self) -> tuple[int, int]:
        """Return how many cells are finished, and how many were planned."""
        planned = self.run.config.get("cells")
        finished = int((self.cells["status"] == "finished").sum())
        return finished, max(finished, planned) if isinstance(planned, int) else len(self.cells)

    def label_curves(self) -> list[LabelCurve] | None:
        """Return the label curves of the arms; None where the study allows none."""
        return label_curves(self.cases, self.main, self.task.metric)

    def cell_folder(self, key: Key, draw: int) -> Path:
        """Return the folder of a finished cell."""
        cells = self.cells[self.cells["status"] == "finished"]
        same = (cells["config.draw"] == draw) & cells["config.selector"].isna()
        for name, value in zip(KEY, key):
            same &= cells[f"config.{name}"] == value
        return self.folder / "cells" / str(cells.loc[same, "folder"].iloc[-1])


def read_study(root: Path, name: str, runs_in_folder: pd.DataFrame, kept: KeptCells | None = None) -> ReviewedStudy:
    """Read the study in folder `name` below `root`.

    Args:
        root: The folder under review.
        name: One of `studies(runs_in_folder)`.
        runs_in_folder: The runs below `root`, from `runs_below`.
        kept: What was read of its cells before; only what changed since is read and summarised again.

    Raises:
        MedsslError: The folder lies outside of `root`, or holds no study, or one whose record is malformed.
    """
    folder = inside(root, name)
    if name not in studies(runs_in_folder):
        raise MedsslError("there is no readable study of that name in the folder under review: choose one of the list")
    run = runs.read(folder)
    check_record(run)
    task = task_named(str(run.config.get("task", "")))
    cells = cells_of(_cells_below(runs_in_folder, name), run)
    kept = kept or KeptCells()
    cases, damaged = cases_of(folder, cells, kept)
    summary = summary_of(folder, run, cells, damaged, kept)
    primary = summary["metric"] == task.metric.name
    main, others = summary[primary].reset_index(drop=True), summary[~primary].reset_index(drop=True)
    whole = run.status == "finished" and (folder / "summary.parquet").exists()
    return ReviewedStudy(folder, run, task, cells, main, others, not whole, cases, damaged)


def study_stamp(root: Path, runs_in_folder: pd.DataFrame, name: str) -> str:
    """Return a text that changes when `read_study` may return something else: a status, an attempt, the summary."""
    own = (runs_in_folder["folder"] == name) | runs_in_folder["folder"].str.startswith(_cells_prefix(name))
    columns = ["folder", "id", "status", "started"]
    rows = runs_in_folder[own].reindex(columns=columns).astype(str).to_numpy().tolist()
    summary = inside(root, name) / "summary.parquet"
    return runs.identity(rows=rows, summary=summary.stat().st_mtime_ns if summary.exists() else None)


def _cells_below(runs_in_folder: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows below a study's `cells`, their folder relative to it, as `runs.table(study / "cells")` has them."""
    prefix = _cells_prefix(name)
    rows = runs_in_folder[runs_in_folder["folder"].str.startswith(prefix)].copy()
    rows["folder"] = rows["folder"].str.removeprefix(prefix)
    return rows[rows["folder"] != ""]


def _cells_prefix(name: str) -> str:
    return "cells/" if name == "." else f"{name}/cells/"
