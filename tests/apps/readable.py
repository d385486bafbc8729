"""Studies that can be read case by case: finished cells of two arms on the scans of the phantom cache, with their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.preprocessing.cache import Cache
from medssl.studies import masks
from tests.reporting.test_report import record

ARMS = ("scratch", "simmim")
CASES = 6


def readable_study(root: Path, cache: Cache, task: str = "segmentation", label: str = "kind") -> Path:
    """A study of one budget and one draw, `root / task`, of the first scans of the cache."""
    study, table = root / task, cache.manifest.head(CASES)
    for number, arm in enumerate(ARMS):
        folder = study / "cells" / f"{arm}-cell"
        cell = {"arm": arm, "mode": "finetune", "budget_name": "1p", "budget": 0.1, "draw": 0}
        counts = {"patients": 1, "train_scans": 1, "validation_scans": 0}
        record(folder, "cell", cell | counts, parent="pre1" if number else None, data=cache.digest)
        cases = table[["scan", "patient"]].reset_index(drop=True)
        if task == "segmentation":
            scores = {f"dice.{s}": np.linspace(0.4, 0.8, CASES) + number * 0.1 for s in cache.structures}
            masks.write(folder, {scan: np.roll(cache.read_mask(scan), number, 0) for scan in cases["scan"]})
        else:
            classes = sorted(cache.manifest[f"label.{label}"].dropna().astype(str).unique())
            codes = np.arange(CASES) % len(classes)
            scores = {"label": codes} | {f"p.{name}": np.full(CASES, 1 / len(classes)) for name in classes}
        cases.assign(**scores).to_parquet(folder / "predictions.parquet")
    config = {
        "task": task,
        "data_spec": cache.data_spec.to_record(),
        "arms": list(ARMS),
        "budgets": ["1p"],
        "cells": 2,
        "cell_ids": [f"{arm}-cell" for arm in ARMS],
        "score_on": "test",
        "label": label if task == "classification" else None,
        "pretraining": {"simmim": {"steps": 5, "runs": [{"id": "pre1", "seed": 0, "cost": {}}]}},
    }
    record(study, "study", config, data=cache.digest)
    return study
