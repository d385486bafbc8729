"""One cell of a study: train, score the test patients once, and store the prediction of every case.

    run_cell(plan, plan.cells[0])         # writes STUDY/cells/ID, unless it is done or another process works on it

Several processes may work on the cells of one plan: a lock file in each cell's folder keeps them apart.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from medssl.core import runs
from medssl.core.atomic import npz_bytes, write_atomically
from medssl.evaluation.representation import embed, knn_scores, linear_scores
from medssl.studies.plan import Cell, Plan
from medssl.training.supervised import TrainingData

PROBES = {"linear": linear_scores, "knn": knn_scores}


def run_cell(plan: Plan, cell: Cell) -> None:
    """Train, score and record one cell; skip a cell that is done or that another process works on."""
    folder = plan.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if not is_done(folder):
                _train_and_score(plan, cell, folder)
    except Timeout:
        return


def is_done(folder: Path) -> bool:
    return (folder / "run.json").exists() and runs.read(folder).status == "finished"


def _train_and_score(plan: Plan, cell: Cell, folder: Path) -> None:
    counts = {"train_scans": len(cell.training), "validation_scans": len(cell.validation)}
    config = asdict(cell) | {"task": plan.task.name, "training": None, "validation": None} | counts
    with runs.recording(folder, "cell", config, plan.cache.digest, plan.seed, cell.parent) as record:
        clock = time.perf_counter()
        predictions = _predictions(plan, cell)
        seconds = time.perf_counter() - clock
        cases, metrics = plan.task.score(plan.cache, plan.scored, predictions)
        if cell.draw == 0:
            for name, arrays in plan.task.examples(plan.cache, plan.scored, predictions, cases).items():
                write_atomically(folder / name, npz_bytes(arrays))
        write_atomically(folder / "predictions.parquet", cases.to_parquet())
        trained = cell.mode == "finetune"
        samples = cell.settings.steps * cell.settings.batch_size if trained else len(cell.training)
        record.update(metrics=metrics, cost={"samples_per_s": round(samples / seconds, 2)})


def _predictions(plan: Plan, cell: Cell) -> list[Any]:
    """Class probabilities or a mask for each scored scan."""
    if cell.mode != "finetune":
        return _probed(plan, cell)
    draw_seed = 100_003 * plan.seed + 2 * cell.draw  # the same in every arm of a draw, so that arms are paired
    arm, unlabelled = plan.arms[cell.arm], plan.unlabelled(cell)
    data = TrainingData(plan.cache, plan.task, plan.size, cell.training, cell.validation, unlabelled)
    model = arm.model(plan.task, plan.new_encoder, draw_seed)
    arm.train(model, data, cell.settings, draw_seed)
    return plan.task.predict(model, plan.cache, plan.scored, plan.size, cell.settings.precision)


def _probed(plan: Plan, cell: Cell) -> list[Any]:
    """Class probabilities; a probe chooses no checkpoint, so it learns from the whole budget."""
    vectors, known = _features(plan, cell.arm), [*cell.training, *cell.validation]
    train, test = (np.stack([vectors[scan] for scan in scans]) for scans in (known, plan.scored))
    codes = np.array([plan.task.labels[scan] for scan in known])
    return list(PROBES[cell.mode](train, codes, test, plan.task.outputs))


def _features(plan: Plan, arm: str) -> dict[str, np.ndarray]:
    """Scan -> feature vector, of all scans that some cell needs; the first probe of an arm embeds them."""
    if arm not in plan.features:
        encoder = plan.arms[arm].encoder(plan.new_encoder, 100_003 * plan.seed)
        needed = {scan for cell in plan.cells for scan in (*cell.training, *cell.validation)} | set(plan.scored)
        scans = sorted(needed)
        plan.features[arm] = dict(zip(scans, embed(encoder, plan.cache, scans, plan.size)))
    return plan.features[arm]
