"""From the cells of a study to its table: real counts, means, intervals and paired differences.

    table = summarise(Path("studies/hippo"), cells, Dice())
    table[["arm", "budget_name", "patients", "mean", "low", "high", "difference", "p_holm"]]

Draws and test patients are crossed random effects (see `stats`). Only the primary metric is compared: AUROC, or Dice
averaged over structures and over a patient's scans. Holm's correction runs over all comparisons of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.evaluation import intervals as stats
from medssl.evaluation.case_metrics import CaseMetric

KEY = ["arm", "mode", "budget_name"]
COLUMNS = [
    *("arm", "mode", "budget_name", "budget", "patients", "scans", "draws", "seconds", "metric", "mean", "low", "high"),
    *("note", "difference", "difference_low", "difference_high", "p", "p_holm"),
]


def summarise(out: Path, cells: Sequence[str], metric: CaseMetric) -> pd.DataFrame:
    """One row an arm, mode, budget and metric over the finished ones of `cells` (folder names below `out/cells`)."""
    found: dict[tuple, dict[int, tuple[runs.Run, pd.DataFrame]]] = {}
    for name in cells:
        folder = out / "cells" / name
        if (folder / "run.json").exists() and (run := runs.read(folder)).status == "finished":
            key = tuple(run.config[k] for k in KEY)
            found.setdefault(key, {})[run.config["draw"]] = (run, pd.read_parquet(folder / "predictions.parquet"))
    rows = [_row(key, draws, found.get(("scratch", "finetune", key[2])), metric) for key, draws in found.items()]
    table = pd.DataFrame([row for rows_of_cell in rows for row in rows_of_cell], columns=COLUMNS)
    compared = table["p"].notna()
    if compared.any():
        table.loc[compared, "p_holm"] = stats.holm(table.loc[compared, "p"].to_numpy())
    return table


def _row(key: tuple, draws: dict[int, Any], scratch: dict[int, Any] | None, metric: CaseMetric) -> list[dict[str, Any]]:
    first = next(iter(draws.values()))[0]
    about = dict(zip(KEY, key)) | {
        "budget": first.config["budget"], "patients": first.config["patients"],
        "scans": float(np.mean([r.config["train_scans"] + r.config["validation_scans"] for r, _ in draws.values()])),
        "draws": len(draws), "seconds": float(np.mean([r.cost["seconds"] for r, _ in draws.values()])),
    }  # fmt: skip
    primary = metric.interval([cases for _, cases in draws.values()])
    main = about | {"metric": metric.name} | _named(primary, "")
    shared = sorted(set(draws) & set(scratch or {})) if key[0] != "scratch" else []
    if shared:
        assert scratch is not None
        difference = metric.difference([draws[d][1] for d in shared], [scratch[d][1] for d in shared])
        main |= _named(difference, "difference")
        main["note"] = "; ".join(n for n in (main["note"], difference.note, stats.sign_flip_note(len(shared))) if n)
    others = [
        about | {"metric": name, "mean": float(np.nanmean([_number(r.metrics[name]) for r, _ in draws.values()]))}
        for name in first.metrics
        if name != metric.name
    ]
    return [main, *others]


def _named(interval: stats.Interval, prefix: str) -> dict[str, Any]:
    if not prefix:
        return {"mean": interval.mean, "low": interval.low, "high": interval.high, "note": interval.note}
    low, high = interval.low, interval.high
    return {prefix: interval.mean, f"{prefix}_low": low, f"{prefix}_high": high, "p": interval.p}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
