"""Does a selector choose better patients than chance? Its score beside the mean of the random draws.

    table = compare_selectors(Path("studies/hippo"), cell_ids, Dice())
    table[["budget_name", "arm", "selector", "mean", "random_mean", "difference", "low", "high", "beaten"]]

The random draws of a budget are a sample of what chance gives, the seeds of a selector a sample of what its choice gives.
The difference of their means has an interval for new seeds, new random draws and new test patients, whom both share; see
`evaluation/independent_draws.py`. A selector is compared with random draws of one pool of candidates: how it would do in
another hospital's pool is not in the interval. Holm's correction runs over all comparisons of the table. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.evaluation.case_metrics import CaseMetric
from medssl.evaluation.independent_draws import difference_of_means
from medssl.evaluation.intervals import holm
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
            finished.setdefault(key, []).append(pd.read_parquet(folder / "predictions.parquet"))
            records[key] = run
    rows = [
        _row(records[key], key, chosen, finished[(*key[:-1], None)], metric)
        for key, chosen in finished.items()
        if key[-1] is not None and (*key[:-1], None) in finished
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table["p"].notna().any():
        table["p_holm"] = holm(table["p"].to_numpy(dtype=float))
    return table.sort_values(["budget", "arm", "mode", "selector"], kind="stable").reset_index(drop=True)


def _row(run: runs.Run, key: tuple, chosen: Tables, random: Tables, metric: CaseMetric) -> dict[str, Any]:
    """A selector beside the random draws of the same arm, mode and budget."""
    values, freedom = metric.by_patient([*chosen, *random])
    common = dict(zip([*KEY, "selector"], key)) | {
        "budget": run.config["budget"],
        "patients": run.config["patients"],
        "metric": metric.name,
        "seeds": len(chosen),
        "draws": len(random),
    }
    own, others = (np.array([_score(metric, cases) for cases in tables]) for tables in (chosen, random))
    scores = {"mean": own.mean(), "random_mean": others.mean(), "beaten": int((own.mean() > others).sum())}
    if np.ndim(values) < 2:
        note = "a class has one test patient: no interval"
        return common | scores | {"difference": own.mean() - others.mean(), "p": np.nan, "note": note}
    first, second = values[: len(chosen)], values[len(chosen) :]
    nouns = ("seed", "random draw")
    found = difference_of_means(first, second, patient_df=freedom, bounds=(-1.0, 1.0), nouns=nouns)
    columns = {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p, "note": found.note}
    return common | scores | columns


def _score(metric: CaseMetric, cases: pd.DataFrame) -> float:
    return float(np.nanmean(metric.by_patient([cases])[0]))
