"""What a study's folder holds, for its report and its dashboard: summary, cells, predictions, pictures.

    cells = cells_of(runs.table("studies/hippo/cells"), runs.read("studies/hippo"))
    cases, damaged = cases_of(Path("studies/hippo"), cells)     # (arm, mode, budget) -> draw -> one row a case

Damaged files are told apart, never guessed at: what is returned can be counted on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.core.runs import Run
from medssl.reporting.tables import KEY, UNREADABLE
from medssl.studies.summary import summarise
from medssl.training.task import task_named


def summary_of(folder: Path, run: Run, cells: pd.DataFrame, damaged: list[str]) -> pd.DataFrame:
    """The study's summary with every column there is; of a study that has not come to its end, or lost its summary, that
    of the cells which are finished and whole."""
    numbers = ["budget", "patients", "scans", "draws", "mean", "low", "high", "difference", "difference_low"]
    numbers += ["difference_high", "p", "p_holm"]
    whole = run.status == "finished" and (folder / "summary.parquet").exists()
    done = cells[(cells["status"] == "finished") & ~cells["id"].isin(damaged)]
    try:
        found = (
            pd.read_parquet(folder / "summary.parquet")
            if whole
            else summarise(folder, done["folder"].tolist(), task_named(run.config["task"]).metric)
        )
    except UNREADABLE:
        found = pd.DataFrame()
    found = found.reindex(columns=[*KEY, "metric", *numbers, "note"])
    return found.astype(dict.fromkeys(numbers, float))


def cells_of(cells: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows of `runs.table(folder / "cells")` this study asked for; one that cannot be read is shown too, since
    nobody knows whose it is."""
    keys = [f"config.{k}" for k in (*KEY, "draw")]
    cells = cells.reindex(columns=list(dict.fromkeys([*cells, "data", "started", "id", "status", *keys])))
    asked = run.config.get("cell_ids", [])
    return cells[cells["folder"].isin(asked) | cells["config.arm"].isna()].sort_values("started", kind="stable")


def cases_of(folder: Path, cells: pd.DataFrame) -> tuple[dict[tuple, dict[int, pd.DataFrame]], list[str]]:
    """Predictions of finished cells, (arm, mode, budget) -> draw -> frame; and the ids of cells with a damaged file.

    A file that can be read, but holds no scores, or other scans than most of the study's cells, is damaged too.
    """
    done = cells[cells["status"] == "finished"]
    frames: dict[str, pd.DataFrame] = {}
    for place in done["folder"]:
        try:
            frames[place] = _predictions(folder / "cells" / str(place))
        except UNREADABLE:
            continue
    most = Counter(tuple(frame["scan"]) for frame in frames.values()).most_common(1)
    frames = {place: frame for place, frame in frames.items() if tuple(frame["scan"]) == most[0][0]}
    cases: dict[tuple, dict[int, pd.DataFrame]] = {}
    for place, draw, *key in done[["folder", "config.draw", *(f"config.{k}" for k in KEY)]].to_numpy():
        if place in frames:
            cases.setdefault(tuple(key), {})[int(draw)] = frames[place]
    return cases, [str(run_id) for run_id in done.loc[~done["folder"].isin(frames), "id"]]


def _predictions(cell: Path) -> pd.DataFrame:
    """A cell's cases. Raises KeyError where they are no cases, else what pandas raises for a damaged file."""
    frame = pd.read_parquet(cell / "predictions.parquet")
    kinds = {str(c).partition(".")[0] for c in frame}
    if {"scan", "patient", "dice"} <= kinds or {"scan", "patient", "label", "p"} <= kinds:
        return frame
    raise KeyError("scores")


def arrays(path: Path, needs: str) -> dict[str, np.ndarray]:
    """The arrays of an examples.npz; empty where there is none, or it is damaged, or not of this kind."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except (*UNREADABLE, EOFError):
        return {}
    return found if f"{needs}.0" in found else {}
