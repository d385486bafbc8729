"""One cell of a study: train, look once at the scored patients, keep every case's outcome.

Everything a cell depends on is in its identity - data, labels, encoder, weights, recipe, subset, seed - so that it is
never done twice nor mistaken for another. Several processes may work on the cells of one plan: a lock says who is at
which.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from medssl.core import runs
from medssl.core.atomic import npz, write_atomically
from medssl.encoders import Encoder
from medssl.evaluation import representation as probes
from medssl.preprocessing.cache import Cache
from medssl.training.config import FinetuneConfig
from medssl.training.finetune import train_model
from medssl.training.models import fresh_encoder, load_pretrained, pretrained_encoder
from medssl.training.task import Task

Mode = Literal["finetune", "linear", "knn"]
VERSION = 2  # of what a cell does; a change of it makes every cell a new one


@dataclass(frozen=True)
class Cell:
    """One training and one look at the scored patients."""

    arm: str
    mode: Mode
    budget_name: str
    budget: float
    draw: int
    recipe: FinetuneConfig
    parent: str | None  # the pretraining run's id
    patients: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass
class Plan:
    """A study worked out from its arguments alone, the same in every process that works on it."""

    out: Path
    cache: Cache
    task: Task
    encoder: dict
    external_encoder: Encoder | None  # of a class outside of medssl
    size: tuple[int, ...]
    folders: dict[str, Path]  # arm -> pretraining run
    scored: list[str]
    cells: list[Cell]
    subsets: pd.DataFrame
    roles: pd.Series
    seed: int
    config: dict
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # arm -> scan -> vector

    def id(self, cell: Cell) -> str:
        return runs.identity(
            version=VERSION, data=self.cache.digest, task=self.task.name, label=self.config["label"],
            truth=self.config["truth"], encoder=self.encoder, size=self.size, seed=self.seed, scored=self.config["scored"],
            weights=self.config["weights"].get(cell.arm), cell=asdict(cell),
        )  # fmt: skip

    def folder(self, cell: Cell) -> Path:
        return self.out / "cells" / self.id(cell)


def run_cell(plan: Plan, cell: Cell) -> None:
    """Train, look once at the scored patients, keep every case's outcome; nothing is done twice."""
    folder = plan.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if not is_done(folder):
                _train_and_score(plan, cell, folder)
    except Timeout:
        return  # another process is at it


def _train_and_score(plan: Plan, cell: Cell, folder: Path) -> None:
    config = asdict(cell) | {
        "task": plan.task.name, "train_scans": len(cell.train), "validation_scans": len(cell.validation),
        "train": None, "validation": None,
    }  # fmt: skip
    with runs.recording(folder, "cell", config, plan.cache.digest, plan.seed, cell.parent) as record:
        clock = time.perf_counter()
        predictions = _predictions(plan, cell)
        spent = time.perf_counter() - clock
        cases, metrics = plan.task.score(plan.cache, plan.scored, predictions)
        if cell.draw == 0:
            for name, arrays in plan.task.examples(plan.cache, plan.scored, predictions, cases).items():
                write_atomically(folder / name, npz(arrays))
        write_atomically(folder / "predictions.parquet", cases.to_parquet())
        used = cell.recipe.steps * cell.recipe.batch_size if cell.mode == "finetune" else len(cell.train)
        record.update(metrics=metrics, cost={"samples_per_s": round(used / spent, 2)})


def _predictions(plan: Plan, cell: Cell) -> list[Any]:
    """Of each scored scan: class probabilities or a mask."""
    draw_seed = 100_003 * plan.seed + 2 * cell.draw  # one a draw for encoder, head, order and views: arms are paired
    if cell.mode == "finetune":
        model = plan.task.build_model(fresh_encoder(plan.encoder, draw_seed, plan.external_encoder), draw_seed + 1)
        if cell.arm in plan.folders:
            load_pretrained(model, plan.folders[cell.arm])
        train_model(model, plan.cache, plan.task, cell.train, cell.validation, plan.size, cell.recipe, draw_seed)
        return plan.task.predict(model, plan.cache, plan.scored, plan.size, cell.recipe.precision)
    vectors = _features(plan, cell.arm)
    known = [*cell.train, *cell.validation]  # a probe has nothing to choose, so it learns from the whole budget
    train, test = (np.stack([vectors[s] for s in scans]) for scans in (known, plan.scored))
    codes = np.array([plan.task.labels[s] for s in known])
    probe = probes.linear_scores if cell.mode == "linear" else probes.knn_scores
    return list(probe(train, codes, test, plan.task.outputs))


def _features(plan: Plan, arm: str) -> dict[str, np.ndarray]:
    if arm not in plan.features:
        if arm in plan.folders:
            encoder = pretrained_encoder(plan.folders[arm], plan.external_encoder)
        else:
            encoder = fresh_encoder(plan.encoder, 100_003 * plan.seed, plan.external_encoder)
        needed = sorted({s for c in plan.cells for s in (*c.train, *c.validation)} | set(plan.scored))
        vectors = probes.embed(encoder, plan.cache, needed, plan.size)
        plan.features[arm] = dict(zip(needed, vectors))
    return plan.features[arm]


def is_done(folder: Path) -> bool:
    return (folder / "run.json").exists() and runs.read(folder).status == "finished"
