"""What a study costs over bare loops of the same trainings, and a semi-supervised step over the supervised one.

    python tests/benchmarks/study.py [--quick]

A cohort of small images (one class brighter than the other) is prepared once. `cells`: the cells of a study at a small
budget, beside a hand-written loop over the same trainings with the same crops, views, optimiser and predictions. The other
ratios: steps of mean teacher and of self-training (its teachers trained before), beside supervised steps of the same number
of labelled crops. Times are of the processor, in turns in one process. The last line is JSON: `ratios`, `goals`, `met`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader

from medssl.datasets.index import index
from medssl.encoders import ResNet
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.crops import StepSampler
from medssl.studies.cell import run_cell
from medssl.studies.plan import Cell, Plan, make_plan
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.training.config import FinetuneConfig
from medssl.training.engine import Group, adamw
from medssl.training.semi_supervised.base import build_algorithm, train_semi_supervised
from medssl.training.supervised import TrainingData, labelled_crops, train_model
from medssl.views import recipes
from medssl.views.random import derive_keys

SIZE = (64, 64)
GOALS = {"cells": 1.15, "mean-teacher": 2.2, "self-training": 2.2}


def make_cache(root: Path, patients: int) -> Cache:
    """Noise with a disc, brighter in half of the patients."""
    generator = np.random.default_rng(0)
    down, across = np.mgrid[:64, :64]
    (root / "images").mkdir()
    rows = []
    for number in range(patients):
        bright = number % 2
        disc = (down - 32) ** 2 + (across - 32) ** 2 < 200
        pixels = generator.normal(90, 25, (64, 64)) + disc * (20 + 25 * bright)
        name = f"p{number:04d}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "images" / name)
        rows.append({"file": f"images/{name}", "patient": f"p{number}", "finding": ["no", "yes"][bright]})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    index([root / "images"], root / "manifest", labels=root / "labels.csv", patient="patient", label=["finding"])
    return prepare(root / "manifest", root / "cache", size=SIZE)


def bare_cell(plan: Plan, cell: Cell) -> None:
    """The training and the predictions of a cell as one would write them by hand."""
    settings, task = cell.settings, plan.task
    data = TrainingData(plan.cache, task, plan.size, cell.training, cell.validation)
    model = plan.arms[cell.arm].model(task, plan.new_encoder, cell.draw)
    view = recipes.finetune(plan.cache.data_spec, plan.size)
    built = adamw([Group(model)], settings)
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    loader = DataLoader(
        labelled_crops(data, settings, cell.draw), batch_sampler=StepSampler(settings.batch_size, settings.steps)
    )
    model.train()
    for batch in loader:
        loss = task.loss(model(view(batch["source"].float(), view.draw(derive_keys(batch["key"], 0)))), batch["target"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    task.score(plan.cache, plan.scored, task.predict(model, plan.cache, plan.scored, plan.size))


def seconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def semi_supervised_seconds(plan: Plan, name: str, cell: Cell) -> tuple[float, float]:
    """Seconds of the supervised training and of the algorithm's, without its preparation."""
    data = TrainingData(plan.cache, plan.task, plan.size, cell.training, (), plan.unlabelled(cell))
    model = plan.arms["scratch"].model(plan.task, plan.new_encoder, 0)
    algorithm = build_algorithm(name)
    if name == "self-training":
        trained = model.__class__(plan.new_encoder(1), plan.task.outputs).eval()
        algorithm = build_algorithm(name, "teachers=1")
        algorithm.trained = [trained]  # type: ignore[attr-defined]
        algorithm.prepare = lambda *_: None  # type: ignore[method-assign]
    supervised = seconds(lambda: train_model(model, data, cell.settings, 0))
    return supervised, seconds(lambda: train_semi_supervised(model, data, cell.settings, 0, algorithm))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    patients, rounds, steps = (100, 2, 20) if given.quick else (600, 5, 100)
    ratios: dict[str, list[float]] = {name: [] for name in GOALS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = StudySettings(
            make_cache(root, patients).path,
            root / "study",
            "classification",
            ["scratch"],
            ["10%"],
            "finding",
            ResNet(2, 1, 10, 16, max_pool=False),
            SIZE,
            FinetuneConfig(steps=steps, growth=0.0, batch_size=32),
            StudyDesign(draws=1 + rounds),
        )
        plan = make_plan(settings)
        warm, *cells = plan.cells
        bare_cell(plan, warm)
        run_cell(plan, warm)
        for cell in cells:
            by_hand = seconds(lambda cell=cell: bare_cell(plan, cell))  # type: ignore[misc]
            ours = seconds(lambda cell=cell: run_cell(plan, cell))  # type: ignore[misc]
            ratios["cells"].append(ours / by_hand)
            print(f"cell: bare {by_hand:.2f} s, medssl {ours:.2f} s, {cell.settings.steps} steps of 32")
            for name in ("mean-teacher", "self-training"):
                supervised, semi = semi_supervised_seconds(plan, name, cell)
                ratios[name].append(semi / supervised)
                print(f"{name}: supervised {supervised:.2f} s, semi-supervised {semi:.2f} s")
    medians = {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    print(json.dumps({"ratios": medians, "goals": GOALS, "met": all(medians[n] <= GOALS[n] for n in GOALS)}))


if __name__ == "__main__":
    main()
