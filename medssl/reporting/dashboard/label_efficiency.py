"""What the page on label efficiency shows: the curve of each arm over the label budgets, its forecast, and all studies of the
folder. The page of that name in `apps/review/` draws it. Does not import torch.

[curve.arm for curve in curves(study.main, "finetune")]     # ["scratch", "simmim"]
all_studies(runs_below(Path("runs")))                       # one row a study: its cells by state
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from medssl.evaluation.forecast import Forecast
from medssl.reporting.dashboard.folder import studies
from medssl.studies.forecast import ArmForecast

STATES = ("finished", "running", "failed", "missing")  # of cells
POINTS = 60  # of a forecast's curve


class Curve(NamedTuple):
    """The summary's rows of one arm, by patients."""

    arm: str
    mode: str
    rows: pd.DataFrame


def curves(main: pd.DataFrame, mode: str) -> list[Curve]:
    """Return one curve an arm for a mode (`finetune`, `linear`, `knn`); scratch is among them in every mode.

    Args:
        main: The summary's rows of the primary metric.
        mode: How the encoders were used.
    """
    return [
        Curve(str(arm), str(own_mode), rows.sort_values("patients"))
        for (arm, own_mode), rows in main.groupby(["arm", "mode"], sort=False)
        if own_mode == mode or arm == "scratch"
    ]


class Ahead(NamedTuple):
    """The forecast of one arm: the measured scores, the fitted curve, and its band beyond the largest budget."""

    arm: ArmForecast
    measured: pd.DataFrame
    fitted: pd.DataFrame
    beyond: pd.DataFrame


def ahead(arms: Sequence[ArmForecast]) -> list[Ahead]:
    """Return the forecasts as they are drawn, of the arms that have one.

    Returns:
        For each arm tables with patients and score; `fitted` and `beyond` have low and high too.
    """
    return [_ahead(arm) for arm in arms if arm.forecast is not None]


def all_studies(runs_in_folder: pd.DataFrame) -> pd.DataFrame:
    """Return one row a study of the folder, the newest first: its status, and its cells that are finished, running, failed and missing.

    A cell that stopped unexpectedly, or whose record cannot be read, counts as failed; cells of an older plan do not count.
    """
    table = runs_in_folder.reindex(
        columns=["folder", "id", "kind", "status", "started", "config.task", "config.cells", "config.cell_ids"]
    )
    rows = [_study_row(table, name) for name in studies(runs_in_folder)]
    return pd.DataFrame(rows, columns=["study", "task", "status", *STATES, "started"])


def _ahead(arm: ArmForecast) -> Ahead:
    curve = arm.forecast
    assert curve is not None
    first, last = float(curve.sizes[0]), float(curve.sizes[-1])
    measured = pd.DataFrame({"patients": curve.sizes, "score": curve.scores})
    return Ahead(arm, measured, _drawn(curve, first, last), _drawn(curve, last, curve.farthest))


def _drawn(curve: Forecast, first: float, last: float) -> pd.DataFrame:
    """The curve between two numbers of patients, with its band."""
    patients = np.clip(np.geomspace(first, last, POINTS), first, last)
    score = curve.at(patients)
    return pd.DataFrame({"patients": patients, "score": score.mean, "low": score.low, "high": score.high})


def _study_row(table: pd.DataFrame, name: str) -> dict[str, object]:
    about = table[table["folder"] == name].iloc[0]
    prefix = "cells/" if name == "." else f"{name}/cells/"
    cells = table[table["folder"].str.startswith(prefix)]
    ids = about["config.cell_ids"]
    if isinstance(ids, list):  # of the folders; a record that cannot be read may be one of them
        known = cells["folder"].str.removeprefix(prefix).isin([each for each in ids if isinstance(each, str)])
        cells = cells[known | (cells["status"] == "broken")]
    counts = cells["status"].value_counts()
    finished, running = (int(counts.get(state, 0)) for state in ("finished", "running"))
    planned = about["config.cells"]
    missing = max(0, int(planned) - len(cells)) if isinstance(planned, int | float) and np.isfinite(planned) else 0
    started = pd.to_numeric(pd.Series([about["started"]]), errors="coerce")
    return {
        "study": name,
        "task": str(about["config.task"]),
        "status": str(about["status"]),
        "finished": finished,
        "running": running,
        "failed": len(cells) - finished - running,
        "missing": missing,
        "started": pd.to_datetime(started.where(started > 0), unit="s", errors="coerce").dt.floor("s").iloc[0],
    }
