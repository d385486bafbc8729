"""From the cells of a study to its table: real counts, means, intervals and paired differences.

    table = summarise(Path("studies/hippo"), cells, Dice())
    table[["arm", "budget_name", "patients", "mean", "low", "high", "difference", "p_holm"]]

Draws and test patients are crossed random effects, and draws lie within pretraining runs where an arm has several (see
`evaluation/intervals.py`); `pretraining_runs` counts the runs behind a row: with 1, its interval and p-value are about that run,
not about its method. Only the primary metric is compared:
AUROC, or Dice averaged over structures and over a patient's scans. Holm's correction runs over all comparisons of the
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.evaluation.case_metrics import CaseMetric, from_run, runs_behind
from medssl.evaluation.intervals import Interval, holm, join_notes, sign_flip_note
from medssl.studies.arms import start_of
from medssl.studies.kept import KeptCells

LAST_THIRD = "last_third"  # what the last third of the steps changed the primary metric by, on the validation patients
KEY = ["arm", "mode", "budget_name"]  # what the draws of one row of the table share
COLUMNS = [
    *("arm", "mode", "budget_name", "budget", "patients", "scans", "draws", "pretraining_runs", "seconds"),
    *("metric", "mean", "low", "high"),
    *("note", "difference", "difference_low", "difference_high", "p", "p_holm"),
    *(LAST_THIRD, "labelled_samples", "unlabelled_samples", "start_difference", "start_low", "start_high"),
    *("trials", "trial_samples"),
]
Draws = dict[int, tuple[runs.Run, pd.DataFrame]]  # draw -> a finished cell and its cases


def summarise(out: Path, cells: Sequence[str], metric: CaseMetric, kept: KeptCells | None = None) -> pd.DataFrame:
    """Return the table of a study: one row for each arm, mode, budget and metric.

    Args:
        out: Folder of the study.
        cells: Folder names below `out/cells`; those that are not finished are left out.
        metric: The primary metric.
        kept: What was read and computed before: rows whose cells did not change since are not computed again.
    """
    kept = kept or KeptCells()
    finished: dict[tuple, Draws] = {}
    states: dict[str, tuple] = {}  # id of a cell -> what its files are
    for name in cells:
        folder = out / "cells" / name
        if (folder / "run.json").exists() and (run := kept.run(folder)).status == "finished":
            if run.config.get("selector") is not None:
                continue  # not a random draw: see `selection_table.py`
            key = tuple(run.config[part] for part in KEY)
            cases = from_run(kept.cases(folder), run.parent)
            states[run.id] = kept.state(folder)
            finished.setdefault(key, {})[run.config["draw"]] = (run, cases)
    rows: list[dict[str, Any]] = []
    for key, draws in finished.items():
        scratch = finished.get(("scratch", "finetune", key[2]), {}) if key[0] != "scratch" else {}
        start = finished.get((start_of(key[0]), "finetune", key[2]), {})
        used = tuple(tuple(states[run.id] for run, _ in group.values()) for group in (draws, scratch, start))
        arguments = (key, draws, scratch, start, metric)
        rows += kept.computed((key, metric.name, used), partial(_metric_rows, *arguments))
    table = pd.DataFrame(rows, columns=COLUMNS)
    compared = table["p"].notna()
    if compared.any():
        table.loc[compared, "p_holm"] = holm(table.loc[compared, "p"].to_numpy())
    return table


def _metric_rows(key: tuple, draws: Draws, scratch: Draws, start: Draws, metric: CaseMetric) -> list[dict[str, Any]]:
    """The rows of one arm, mode and budget: the primary metric, then the others.

    Args:
        key: Arm, mode and budget.
        draws: Their cells.
        scratch: The cells that they are compared with; none for scratch itself.
        start: The cells of the arm whose start a semi-supervised arm has.
        metric: The primary metric.
    """
    records = [run for run, _ in draws.values()]
    common = dict(zip(KEY, key)) | {
        "budget": records[0].config["budget"],
        "patients": records[0].config["patients"],
        "scans": float(np.mean([run.config["train_scans"] + run.config["validation_scans"] for run in records])),
        "draws": len(draws),
        "pretraining_runs": len({run.parent for run in records} - {None}),
        "seconds": float(np.mean([run.cost["seconds"] for run in records])),
        **{name: _mean_cost(records, name) for name in ("labelled_samples", "unlabelled_samples", "trial_samples")},
        "trials": _mean_trials(records),
    }
    primary = common | {"metric": metric.name} | _primary_columns(draws, scratch, metric)
    primary |= _convergence(records, primary)
    primary["note"] = join_notes(primary["note"], _recipe_note(records))
    primary |= _gain_over_start(draws, start, metric)
    others = [
        common | {"metric": name, "mean": float(np.nanmean([_number(run.metrics[name]) for run in records]))}
        for name in records[0].metrics
        if name not in (metric.name, LAST_THIRD)
    ]
    return [primary, *others]


def _mean_cost(records: Sequence[runs.Run], name: str) -> float:
    return float(np.mean([_number(run.cost.get(name)) for run in records]))


def _mean_trials(records: Sequence[runs.Run]) -> float:
    """Settings tried in each cell; NaN where the study has no trials."""
    if not any(run.config.get("trials") or run.config.get("no_trials") for run in records):
        return float("nan")
    return float(np.mean([run.config.get("trials", 0) for run in records]))


def _recipe_note(records: Sequence[runs.Run]) -> str:
    """In how many draws the settings were not chosen by trials, though the study has them, and why."""
    reasons = [reason for run in records if (reason := run.config.get("no_trials"))]
    if not reasons:
        return ""
    return f"the recipe fixed beforehand in {len(reasons)} of {len(records)} draws: {'; '.join(dict.fromkeys(reasons))}"


def _convergence(records: Sequence[runs.Run], primary: dict[str, Any]) -> dict[str, Any]:
    """What the last third of training changed the score by, with a note where that is more than half of the interval."""
    changes = np.array([_number(run.metrics.get(LAST_THIRD)) for run in records])
    known = changes[np.isfinite(changes)]
    if not len(known):
        return {LAST_THIRD: np.nan}
    change, half = float(known.mean()), (primary["high"] - primary["low"]) / 2
    if not np.isfinite(half):
        note = "whether it had converged cannot be judged without an interval"
    elif abs(change) > half:
        note = (
            f"not converged: the last third of training changed the score by {change:+.3f} on the validation patients, more "
            "than half of its interval"
        )
    else:
        note = ""
    return {LAST_THIRD: change, "note": join_notes(primary["note"], note)}


def _primary_columns(draws: Draws, scratch: Draws, metric: CaseMetric) -> dict[str, Any]:
    """The mean, and the paired difference from scratch over the draws that both have."""
    interval = metric.interval([cases for _, cases in draws.values()])
    columns = {"mean": interval.mean, "low": interval.low, "high": interval.high, "note": interval.note}
    shared = sorted(set(draws) & set(scratch))
    if not shared:
        return columns
    own = [draws[draw][1] for draw in shared]
    difference = metric.difference(own, [scratch[draw][1] for draw in shared])
    several = len(set(runs_behind(own) or []))
    flips = sign_flip_note(several, "pretraining runs") if several > 1 else sign_flip_note(len(shared))
    note = join_notes(interval.note, difference.note, flips)
    return columns | {"note": note} | _difference_columns(difference)


def _gain_over_start(draws: Draws, start: Draws, metric: CaseMetric) -> dict[str, Any]:
    """The paired difference of a semi-supervised arm from the supervised arm of the same start; it has no p-value."""
    shared = sorted(set(draws) & set(start))
    if not shared:
        return {}
    gain = metric.difference([draws[draw][1] for draw in shared], [start[draw][1] for draw in shared])
    return {"start_difference": gain.mean, "start_low": gain.low, "start_high": gain.high}


def _difference_columns(difference: Interval) -> dict[str, Any]:
    return {
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p": difference.p,
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
