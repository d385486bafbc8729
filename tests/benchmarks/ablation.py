"""What each technique of fine-tuning changes, one at a time, on the validation patients of one task.

    python -m tests.benchmarks.ablation --data CACHE --task classification --label finding --run runs/simclr --crop 64 64
    python -m tests.benchmarks.ablation --data CACHE --task segmentation --run runs/simmim --crop 32 32 32 --steps 200

Every row is a study with the base settings and one change, for scratch and for the pretraining run, with the same draws, so
that differences from the base are paired by draw. Choose settings here; publish on the test patients with other draws. Ends
with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.datasets.splits import SplitSpec
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig

CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "no balanced classes": {"balanced": False},
    "no averaging": {"averaging": 0.0},
    "strong augmentation": {"augmentation": "strong"},
    "structures pasted": {"pasting": 0.5},
    "half the steps": {},
    "twice the steps": {},
    "learning rate x 3": {},
    "learning rate / 3": {},
    "no head first": {"head_first": 0.0},
    "head first 30%": {"head_first": 0.3},
    "encoder at 0.3": {"encoder_share": 0.3},
    "encoder frozen": {"encoder_share": 0.0},
    "layer decay 0.7": {"layer_decay": 0.7},
    "adapters of rank 4": {"adapter_rank": 4},
    "start from the probe": {"probe_start": True},
}
SCALED = {
    "half the steps": ("steps", 0.5),
    "twice the steps": ("steps", 2.0),
    "learning rate x 3": ("lr", 3.0),
    "learning rate / 3": ("lr", 1 / 3),
}
ONLY_CLASSIFICATION = ("start from the probe", "no balanced classes")
ONLY_SEGMENTATION = ("structures pasted",)
ONLY_PRETRAINED = (
    "no head first",
    "head first 30%",
    "encoder at 0.3",
    "encoder frozen",
    "layer decay 0.7",
    "adapters of rank 4",
    "start from the probe",
)


def changed(base: FinetuneConfig, name: str) -> FinetuneConfig:
    """The base settings with one change."""
    if name in SCALED:
        field, factor = SCALED[name]
        value = getattr(base, field) * factor
        return replace(base, **{field: round(value) if field == "steps" else value})
    return replace(base, **CHANGES[name])


def scores(folder: Path, metric: str) -> dict[tuple[str, str], dict[int, float]]:
    """(arm, budget) -> draw -> score, of the fine-tuned cells of a study."""
    cells = runs.table(folder / "cells")
    own = cells["folder"].isin(runs.read(folder).config["cell_ids"]) & (cells["status"] == "finished")
    cells = cells[own & (cells["config.mode"] == "finetune")]
    table: dict[tuple[str, str], dict[int, float]] = {}
    for row in cells.to_dict("records"):
        key = ("scratch" if row["config.arm"] == "scratch" else "pretrained", row["config.budget_name"])
        table.setdefault(key, {})[int(row["config.draw"])] = float(row[f"metrics.{metric}"])
    return table


def print_markdown(table: pd.DataFrame) -> None:
    for cells in (table.columns, ["---"] * len(table.columns), *table.to_numpy()):
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=("classification", "segmentation"), required=True)
    parser.add_argument("--run", type=Path, required=True, help="a pretraining run that saw no validation patient")
    parser.add_argument("--label")
    parser.add_argument("--split-column")
    parser.add_argument("--crop", type=int, nargs="+", required=True)
    parser.add_argument("--budgets", nargs="+", default=["1%"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--growth", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=None, help="keeps the studies, so that a second call does what is missing"
    )
    parser.add_argument("--quick", action="store_true", help="the base and two changes, 5 steps, one draw")
    given = parser.parse_args()
    base = FinetuneConfig(
        steps=5 if given.quick else given.steps,
        growth=0.0 if given.quick else given.growth,
        batch_size=given.batch_size,
        lr=given.lr,
        precision=given.precision,
    )
    foreign = ONLY_SEGMENTATION if given.task == "classification" else ONLY_CLASSIFICATION
    names = [name for name in CHANGES if name not in foreign]
    names = names[:3] if given.quick else names
    design = StudyDesign(["finetune"], 1 if given.quick else given.draws, score_on="validation")
    metric = "auroc" if given.task == "classification" else "dice"
    out = given.out or Path(tempfile.mkdtemp())
    rows, reference = [], {}
    for number, name in enumerate(names):
        folder = out / f"{number:02d}"
        arms = [str(given.run)] if name in ONLY_PRETRAINED else ["scratch", str(given.run)]
        settings = {"train": changed(base, name), "design": design, "split": SplitSpec(column=given.split_column)}
        study(
            given.data,
            folder,
            given.task,
            arms,
            given.budgets,
            given.label,
            crop=tuple(given.crop),
            jobs=1 if given.quick else given.jobs,
            **settings,
        )
        for (arm, budget), by_draw in scores(folder, metric).items():
            reference.setdefault((arm, budget), by_draw)
            gains = [value - reference[arm, budget][draw] for draw, value in by_draw.items()]
            spread = f" +- {np.std(gains, ddof=1) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
            gain = "" if name == "base" else f"{np.mean(gains):+.3f}{spread}"
            rows.append(
                {
                    "change": name,
                    "arm": arm,
                    "budget": budget,
                    metric: round(np.mean([*by_draw.values()]), 3),
                    "gain": gain,
                }
            )
    print_markdown(pd.DataFrame(rows).sort_values(["budget", "arm"], kind="stable"))
    print(json.dumps({"ratios": {}, "goals": {}, "met": None, "draws": design.draws, "rows": rows}))


if __name__ == "__main__":
    main()
