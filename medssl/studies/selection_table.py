"""Does a selector choose better patients than chance? Its score beside the mean of the random draws.

    table = compare_selectors(Path("studies/hippo"), cell_ids, Dice())
    table[["budget_name", "arm", "selector", "mean", "random_mean", "difference", "low", "high", "beaten"]]

The random draws of a budget are a sample of what chance gives, the seeds of a selector a sample of what its choice gives.
The difference of their means has an interval for new seeds, new random draws and new test patients, whom both share; see
`evaluation/independent_draws.py`. Where an arm has several pretraining runs, both sides are averaged over each run that both
have, and the differences of the runs are the sample. A selector is compared with random draws of one pool of candidates: how it would do in
another hospital's pool is not in the interval. Holm's correction runs over all comparisons of the table. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.evaluation.case_metrics import Array, CaseMetric, from_run, runs_behind
from medssl.evaluation.independent_draws import difference_of_means
from medssl.evaluation.intervals import Interval, crossed_interval, holm
from medssl.evaluation.variance import run_means
from medssl.studies.summary import KEY

FILE = "selection.parquet"
COLUMNS = [
    *(
        "budget_name",
        "budget",
        "patients",
        "arm",
        "mode",
        "selector",
        "metric",
        "seeds",
        "mean",
        "draws",
        "pretraining_runs",
        "random_mean",
    ),
    *("difference", "low", "high", "p", "p_holm", "beaten", "note"),
]
Tables = list[pd.DataFrame]  # one case table for each draw or seed


def compare_selectors(out: Path, cells: Sequence[str], metric: CaseMetric) -> pd.DataFrame:
    """One row for each budget, arm, mode and selector that has finished cells, as have the random draws beside it.

    Args:
        out: Folder of the study.
        cells: Folder names below `out/cells`; those that are not finished are left out.
        metric: The primary metric.

    Returns:
        The table; beaten: of how many random draws the selector's mean score is above.
    """
    finished: dict[tuple, Tables] = {}
    records: dict[tuple, runs.Run] = {}
    for name in cells:
        folder = out / "cells" / name
        if (folder / "run.json").exists() and (run := runs.read(folder)).status == "finished":
            key = (*(run.config[part] for part in KEY), run.config.get("selector"))
            cases = from_run(pd.read_parquet(folder / "predictions.parquet"), run.parent)
            finished.setdefault(key, []).append(cases)
            records[key] = run
    rows = [
        _row(records[key], key, *_of_shared_runs(chosen, finished[(*key[:-1], None)]), metric)
        for key, chosen in finished.items()
        if key[-1] is not None and (*key[:-1], None) in finished
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table["p"].notna().any():
        table["p_holm"] = holm(table["p"].to_numpy(dtype=float))
    return table.sort_values(["budget", "arm", "mode", "selector"], kind="stable").reset_index(drop=True)


def _of_shared_runs(chosen: Tables, random: Tables) -> tuple[Tables, Tables]:
    """The tables of pretraining runs that stand behind both sides; few seeds may have fewer runs than the random draws."""
    own, others = runs_behind(chosen), runs_behind(random)
    if own is None or others is None:
        return chosen, random
    sides = ((chosen, own, others), (random, others, own))
    first, second = ([t for t, run in zip(tables, mine) if run in theirs] for tables, mine, theirs in sides)
    return first, second


def _row(run: runs.Run, key: tuple, chosen: Tables, random: Tables, metric: CaseMetric) -> dict[str, Any]:
    """A selector beside the random draws of the same arm, mode and budget."""
    values, freedom = metric.by_patient([*chosen, *random])
    common = dict(zip([*KEY, "selector"], key)) | {
        "budget": run.config["budget"],
        "patients": run.config["patients"],
        "metric": metric.name,
        "seeds": len(chosen),
        "draws": len(random),
        "pretraining_runs": len(set(runs_behind(random) or [])),
    }
    own, others = (np.array([_score(metric, cases) for cases in tables]) for tables in (chosen, random))
    scores = {"mean": own.mean(), "random_mean": others.mean(), "beaten": int((own.mean() > others).sum())}
    if np.ndim(values) < 2:
        note = "a class has one test patient: no interval"
        return common | scores | {"difference": own.mean() - others.mean(), "p": np.nan, "note": note}
    found = _difference(values, chosen, random, freedom)
    columns = {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p, "note": found.note}
    return common | scores | columns


def _difference(values: Array, chosen: Tables, random: Tables, freedom: float | None) -> Interval:
    """The mean of the selector minus that of chance; values: the scores (seeds and random draws, patients)."""
    first, second = values[: len(chosen)], values[len(chosen) :]
    own, others = runs_behind(chosen), runs_behind(random)
    if own and others and len(set(own)) > 1:
        differences = run_means(first, own) - run_means(second, others)
        return crossed_interval(differences, patient_df=freedom, bounds=(-1.0, 1.0))
    nouns = ("seed", "random draw")
    return difference_of_means(first, second, patient_df=freedom, bounds=(-1.0, 1.0), nouns=nouns)


def _score(metric: CaseMetric, cases: pd.DataFrame) -> float:
    return float(np.nanmean(metric.by_patient([cases])[0]))
