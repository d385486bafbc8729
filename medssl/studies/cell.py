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
from medssl.evaluation.intervals import classification_metrics, dice
from medssl.evaluation.metrics import surface_scores
from medssl.preprocessing.cache import Cache
from medssl.training.finetune import Recipe, Target, score_scans, train_model
from medssl.training.models import build, fresh_encoder, load_pretrained

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
    recipe: Recipe
    parent: str | None  # the pretraining run's id
    patients: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass
class Plan:
    """A study worked out from its arguments alone, the same in every process that works on it."""

    out: Path
    cache: Cache
    target: Target
    encoder: dict
    like: Encoder | None
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
            version=VERSION, data=self.cache.digest, task=self.target.task, label=self.config["label"],
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
        "task": plan.target.task, "train_scans": len(cell.train), "validation_scans": len(cell.validation),
        "train": None, "validation": None,
    }  # fmt: skip
    with runs.recording(folder, "cell", config, plan.cache.digest, plan.seed, cell.parent) as record:
        clock = time.perf_counter()
        found = _outcomes(plan, cell)
        spent = time.perf_counter() - clock
        if plan.target.task == "classification":
            cases, metrics = _score_classes(plan, found)
        else:
            cases, metrics = _score_masks(plan, found)
            if cell.draw == 0:
                _save_examples(plan, found, cases, folder)
        write_atomically(folder / "predictions.parquet", cases.to_parquet())
        used = cell.recipe.steps * cell.recipe.batch_size if cell.mode == "finetune" else len(cell.train)
        record.update(metrics=metrics, cost={"samples_per_s": round(used / spent, 2)})


def _outcomes(plan: Plan, cell: Cell) -> list[Any]:
    """Of each scored scan: class probabilities or a mask."""
    labels, classes = plan.target.labels, plan.target.outputs
    luck = 100_003 * plan.seed + 2 * cell.draw  # one seed a draw for encoder, head, order and views: arms are paired
    if cell.mode == "finetune":
        model = build(plan.target.task, fresh_encoder(plan.encoder, luck, plan.like), classes, luck + 1)
        if cell.arm in plan.folders:
            load_pretrained(model, plan.folders[cell.arm])
        train_model(model, plan.cache, plan.target, cell.train, cell.validation, plan.size, cell.recipe, luck)
        return score_scans(model, plan.cache, plan.target, plan.scored, plan.size, cell.recipe.precision)
    vectors = _features(plan, cell.arm)
    known = [*cell.train, *cell.validation]  # a probe has nothing to choose, so it learns from the whole budget
    train, test = (np.stack([vectors[s] for s in scans]) for scans in (known, plan.scored))
    codes = np.array([labels[s] for s in known])
    probe = probes.linear_scores if cell.mode == "linear" else probes.knn_scores
    return list(probe(train, codes, test, classes))


def _features(plan: Plan, arm: str) -> dict[str, np.ndarray]:
    if arm not in plan.features:
        model = build("classification", fresh_encoder(plan.encoder, 100_003 * plan.seed, plan.like), 2, 0)
        if arm in plan.folders:
            load_pretrained(model, plan.folders[arm])
        needed = sorted({s for c in plan.cells for s in (*c.train, *c.validation)} | set(plan.scored))
        vectors = probes.embed(model.encoder, plan.cache, needed, plan.size)
        plan.features[arm] = dict(zip(needed, vectors))
    return plan.features[arm]


def _score_classes(plan: Plan, found: list[Any]) -> tuple[pd.DataFrame, dict[str, float]]:
    probabilities = np.stack(found)
    truth = np.array([plan.target.labels[s] for s in plan.scored])
    cases = _cases(plan).assign(label=truth)
    for i, name in enumerate(plan.target.classes):
        cases[f"p.{name}"] = probabilities[:, i]
    return cases, classification_metrics(truth, probabilities)


def _score_masks(plan: Plan, found: list[Any]) -> tuple[pd.DataFrame, dict[str, float]]:
    structures, rows = plan.cache.structures, []
    for scan, mask in zip(plan.scored, found):
        reference = plan.cache.read_mask(scan)
        row = {f"dice.{k}": v for k, v in dice(mask, reference, structures).items()}
        rows.append(row | surface_scores(mask, reference, structures, plan.cache.spacing_mm))
    cases = pd.concat([_cases(plan), pd.DataFrame(rows)], axis=1)
    metrics = {name: float(cases[name].mean()) for name in rows[0]}
    overlaps = [c for c in cases if str(c).startswith("dice.")]
    return cases, metrics | {"dice": float(cases[overlaps].mean(axis=1).mean())}


def _cases(plan: Plan) -> pd.DataFrame:
    patient = plan.cache.manifest.set_index("scan")["patient"]
    return pd.DataFrame({"scan": plan.scored, "patient": [patient[s] for s in plan.scored]})


def _save_examples(plan: Plan, found: list[Any], cases: pd.DataFrame, folder: Path) -> None:
    """The worst, the median and the best case: the slice that holds most of the reference; and all masks."""
    score = cases[[c for c in cases if str(c).startswith("dice.")]].mean(axis=1).fillna(1.0)
    order, pictures = score.argsort().to_numpy(), dict[str, Any]()
    for n, row in enumerate(dict.fromkeys([order[0], order[len(order) // 2], order[-1]])):
        scan, predicted = plan.scored[row], found[row]
        reference, image = (
            plan.cache.read_mask(scan),
            probes.middles(plan.cache, [scan], plan.cache.shape(scan))[0, 0].numpy(),
        )
        if reference.ndim == 3:
            slice_ = int((reference > 0).sum(axis=(0, 1)).argmax())
            image, reference, predicted = image[:, :, slice_], reference[:, :, slice_], predicted[:, :, slice_]
        pictures |= {
            f"image.{n}": image,
            f"reference.{n}": reference,
            f"prediction.{n}": predicted,
            f"dice.{n}": score[row],
        }
    write_atomically(folder / "examples.npz", npz(pictures))
    write_atomically(folder / "masks.npz", npz(dict(zip(plan.scored, found))))


def is_done(folder: Path) -> bool:
    return (folder / "run.json").exists() and runs.read(folder).status == "finished"
