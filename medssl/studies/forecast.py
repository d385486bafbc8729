"""What more labels would buy in a study: every arm's label curve beyond its largest budget.

    medssl forecast studies/hippo --reach 0.90

The forecast itself is in `evaluation/forecast.py`; here a finished study's predictions are brought to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.runs import read, table
from medssl.evaluation.case_metrics import CaseMetric
from medssl.evaluation.forecast import FARTHEST, Forecast, Prediction
from medssl.evaluation.forecast import forecast as fit
from medssl.studies.results import (
    Cases,
    cases_of,
    cells_of,
    check_record,
    run_places,
    scores_by_patient,
    summary_of,
)
from medssl.training.tasks import task_named


@dataclass(frozen=True)
class ArmForecast:
    """The forecast of one arm.

    Attributes:
        arm: Name of the arm.
        mode: How its encoder was used.
        forecast: None where there is none.
        reason: Why there is none.
        pretraining_runs: Pretraining runs behind the arm; with 1 the bands are about that run, not about its method.
    """

    arm: str
    mode: str
    forecast: Forecast | None
    reason: str = ""
    pretraining_runs: int = 0


def forecasts(cases: Cases, main: pd.DataFrame, metric: CaseMetric) -> list[ArmForecast]:
    """Return the forecast of every arm of a study, or the reason why it has none.

    Args:
        cases: As from `studies.results.cases_of`.
        main: The summary's rows of the primary metric.
        metric: The primary metric.
    """
    sizes = dict(sorted(zip(main["budget_name"], main["patients"]), key=lambda pair: pair[1]))
    arms = dict.fromkeys(zip(main["arm"], main["mode"]))
    return [_arm_forecast(arm, mode, cases, sizes, metric) for arm, mode in arms]


def _arm_forecast(arm: str, mode: str, cases: Cases, sizes: dict[str, float], metric: CaseMetric) -> ArmForecast:
    draws = {sizes[budget]: cases[arm, mode, budget] for budget in sizes if (arm, mode, budget) in cases}
    places = run_places(draws.values())
    tables, count = [scores_by_patient(own, metric, places)[0] for own in draws.values()], len(set(places.values()))
    try:
        return ArmForecast(arm, mode, fit(list(draws), tables), pretraining_runs=count)
    except MedsslError as error:
        return ArmForecast(arm, mode, None, str(error), count)


def forecast(study: Path, reach: float | None = None, at: Sequence[float] | None = None) -> pd.DataFrame:
    """Say what more labels would buy, from the label curves of a study.

    Needs three budgets or more, and says nothing beyond four times the largest.

    Args:
        study: Folder of the study.
        reach: A score, such as 0.9: the labelled patients that reach it are added to the table.
        at: Numbers of labelled patients to forecast; twice and four times the largest budget by default.

    Returns:
        One row for each arm, mode and number of patients: the predicted score with its 95% band, the Gaussian
        process's beside it, and the backtest (the largest budget, predicted from the smaller ones).

    Raises:
        MedsslError: The folder holds no study, no arm has enough budgets, or a number lies too far off.
    """
    arms, largest = _read(Path(study))
    fitted = [arm for arm in arms if arm.forecast is not None]
    if not fitted:
        raise MedsslError(f"no arm of this study can be forecast: {arms[0].reason if arms else 'no cell is finished'}")
    numbers = list(at or [2 * largest, FARTHEST * largest])
    rows = [row for arm in fitted for row in _rows(arm, numbers, reach)]
    return pd.DataFrame(rows)


def _read(folder: Path) -> tuple[list[ArmForecast], float]:
    run = read(folder)
    if run.kind != "study":
        raise MedsslError(f"the folder holds a run of kind {run.kind!r}: expected a study, as `medssl study` writes it")
    check_record(run)
    metric = task_named(str(run.config.get("task", ""))).metric
    cells = cells_of(table(folder / "cells"), run)
    cases, damaged = cases_of(folder, cells)
    summary = summary_of(folder, run, cells, damaged)
    main = summary[summary["metric"] == metric.name]
    return forecasts(cases, main, metric), float(main["patients"].max())


def _rows(arm: ArmForecast, numbers: Sequence[float], reach: float | None) -> list[dict]:
    curve = arm.forecast
    assert curve is not None
    scores, process = curve.at(numbers), curve.gaussian_process(numbers)
    shared: dict = {}
    if reach is not None:
        shared["more_patients"] = more_patients(curve, reach)
    if curve.backtest is not None:
        test = curve.backtest
        shared |= {"backtest": _text(test.predicted), "measured": test.true, "covered": test.covered}
    return [
        {
            "arm": arm.arm,
            "mode": arm.mode,
            "pretraining_runs": arm.pretraining_runs,
            "patients": n,
            "mean": scores.mean[i],
            "low": scores.low[i],
            "high": scores.high[i],
            "gaussian_process": _text(Prediction(process.mean[i], process.low[i], process.high[i])),
            **shared,
        }
        for i, n in enumerate(numbers)
    ]


def more_patients(curve: Forecast, score: float) -> str:
    """How many more labelled patients reach a score, as text: "40 to 75 more patients"."""
    needed, largest = curve.patients_for(score), curve.sizes[-1]
    low, high = (max(0, int(np.ceil(n - largest))) if np.isfinite(n) else None for n in (needed.low, needed.high))
    limit = f"more than {curve.farthest - largest:g} more patients, which is not forecast"
    if low is None:
        return limit
    if high is None:
        return f"{low} more patients at the least; it may take {limit}"
    if high == 0:
        return "none: the largest budget reaches it"
    return f"{low} to {high} more patients"


def _text(prediction: Prediction) -> str:
    return f"{prediction.mean:.3f} [{prediction.low:.3f}, {prediction.high:.3f}]"
