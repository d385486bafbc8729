"""The documents' table of methods: every method on chest films (2D) and hippocampus MRI (3D) under one small budget.

    python tests/benchmarks/every_method.py --data DATA --out comparisons --steps 300
    python tests/benchmarks/every_method.py --data DATA --out comparisons --steps 300 --only hippocampus

    python tests/benchmarks/every_method.py --data DATA --out comparisons --steps 300 --study

Chest films are told apart by their finding; hippocampi by the third of the cohort that their volume (from the masks, which
no pretext sees) lies in. Stopped and started again it goes on. Prints the table as Markdown; `OUT/NAME/table.csv` has all
columns, `OUT/NAME/runs` the curves. `--study` goes on: of each family the method on the ResNet whose probes were best on the
validation patients, fine-tuned beside `scratch` and scored on the test patients, which nothing was chosen by.
The last line is JSON: seconds of all pretraining, what could not run.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

import medssl
from medssl.encoders.resenc import ResidualUNet
from medssl.encoders.resnet import ResNet
from medssl.encoders.vit import ViT
from medssl.preprocessing.cache import Cache

STEPS = 300
THIRDS = ("small", "middle", "large")


def chest(data: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """Prepared at 64 x 64 pixels, and the options of `compare`."""
    source = data / "chest_xray"
    if not (out / "cache" / "cache.json").exists():
        labels = {"labels": source / "images.csv", "patient": "patient", "label": ["finding"]}
        medssl.index([source], out / "manifest", modality="DX", **labels)
        medssl.prepare(out / "manifest", out / "cache", size=(64, 64))
    return out / "cache", {"label": "finding", "crop": (64, 64), "train": medssl.TrainConfig(STEPS, 64)}


def hippocampus(data: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """Prepared at 1 mm, with the third of the volumes as label."""
    source = data / "hippocampus"
    if not (out / "cache" / "cache.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        table = pd.read_csv(source / "volumes.csv")
        volume_ml = [volume_of(source / "labels" / file) for file in table["file"]]
        table["volume"] = pd.qcut(volume_ml, 3, labels=list(THIRDS)).astype(str)
        table.to_csv(out / "labels.csv", index=False)
        labels = {"labels": out / "labels.csv", "patient": "subject", "label": ["volume"], "mask": "../labels/{name}"}
        medssl.index([source / "images"], out / "manifest", modality="MR", **labels)
        medssl.prepare(out / "manifest", out / "cache", spacing_mm=(1.0, 1.0, 1.0))
    shallow = ResidualUNet(3, 1, width=16, blocks=(1, 1, 1))  # strides up to 4, for methods that need tiles of 8 voxels
    encoders = [ResNet(3, 1, 10, 16, max_pool=False), ViT(3, 1), shallow]
    return out / "cache", {
        "label": "volume",
        "crop": (32, 32, 32),
        "train": medssl.TrainConfig(STEPS, 8),
        "encoders": encoders,
    }


def volume_of(mask: Path) -> float:
    """ml of a mask."""
    image: Any = nibabel.load(mask)
    return float((np.asarray(image.dataobj) > 0).sum() * np.prod(image.header.get_zooms()[:3]) / 1000)


COHORTS: dict[str, Callable[[Path, Path], tuple[Path, dict[str, Any]]]] = {"chest": chest, "hippocampus": hippocampus}


FAMILIES = {
    "contrastive": ("SimCLR", "MoCo", "PatientContrast"),
    "non-contrastive": ("BYOL", "SimSiam", "BarlowTwins", "VICReg", "DINO"),
    "relational": ("Rotation", "Jigsaw", "RelativeLocation", "VoCo", "VolumeFusion"),
    "masked": ("MAE", "SimMIM", "SparK", "IBOT"),
    "generative": ("Autoencoder", "DenoisingAutoencoder", "VAE", "ModelsGenesis", "AIM", "NextSlice"),
    "joint": ("Joint",),
}
BUDGETS = {"chest": ["1%", "10%"], "hippocampus": ["10%", "100%"]}


def best_of_families(validation: pd.DataFrame, encoder: str = "ResNet") -> dict[str, str]:
    """family -> its best method by the mean of all probes, among those on one encoder, so that arms can be paired."""
    mean = validation[validation["encoder"] == encoder].groupby("method")["auroc"].mean()
    known = {family: [m for m in methods if m in mean.index] for family, methods in FAMILIES.items()}
    return {family: str(mean[methods].idxmax()) for family, methods in known.items() if methods}


def full_study(name: str, data: Path, out: Path, settings: dict[str, Any], shared: dict[str, Any]) -> pd.DataFrame:
    """The best of each family, chosen on validation, fine-tuned on the test split's budgets."""
    explored = medssl.compare(data, out, score_on="validation", **settings, **shared)
    best = best_of_families(explored)
    if not best:
        raise SystemExit(f"{name}: no method finished on the ResNet, so there is nothing to fine-tune")
    print(f"\n{name}, chosen on the validation patients: {', '.join(f'{k} {v}' for k, v in best.items())}")
    arms = ["scratch", *(str(out / "runs" / "ResNet" / method) for method in best.values())]
    train = medssl.FinetuneConfig(steps=100, batch_size=settings["train"].batch_size // 2)
    return medssl.study(
        data,
        out / "families",
        "classification",
        arms,
        BUDGETS[name],
        label=settings["label"],
        crop=settings["crop"],
        train=train,
        design=medssl.StudyDesign(modes=["finetune"]),
        split=shared["split"],
    )


def markdown(table: pd.DataFrame, cache: Cache) -> str:
    """A row per method, a column per probe and budget; the random encoders first, then by the mean of the columns."""
    scored = table.dropna(subset=["auroc"]).copy()
    scored["cell"] = [f"{r.auroc:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in scored.itertuples()]
    scored["column"] = scored["probe"] + " " + scored["budget"]
    key = ["method", "encoder"]
    cells = scored.pivot_table(index=key, columns="column", values="cell", aggfunc="first")
    order = scored.groupby(key)["auroc"].mean().sort_values(ascending=False).index
    cost = scored.groupby(key)["seconds"].first()
    lines = [
        f"| method | encoder | {' | '.join(cells.columns)} | pretraining, s |",
        "|" + "---|" * (len(cells.columns) + 3),
    ]
    lines += [f"| {' | '.join(name)} | {' | '.join(cells.loc[name])} | {cost[name]:.0f} |" for name in order]
    lines += [f"| {r.method} | not: {r.note} |" for r in table[table["auroc"].isna()].itertuples()]
    return "\n".join([f"{len(cache.manifest)} scans of {cache.manifest['patient'].nunique()} patients", "", *lines])


def paired(table: pd.DataFrame) -> str:
    """A row per arm, a column per budget: AUROC, and the paired difference to scratch."""
    auroc = table[table["metric"] == "auroc"].copy()
    with_gain = auroc["difference"].notna()
    auroc["cell"] = [f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in auroc.itertuples()]
    gain = [
        f"; {r.difference:+.3f} [{r.difference_low:+.3f}, {r.difference_high:+.3f}]"
        for r in auroc[with_gain].itertuples()
    ]
    auroc.loc[with_gain, "cell"] += gain
    cells = auroc.pivot_table(index="arm", columns="budget_name", values="cell", aggfunc="first", sort=False)
    lines = [f"| arm, fine-tuned | {' | '.join(cells.columns)} |", "|" + "---|" * (len(cells.columns) + 1)]
    return "\n".join([*lines, *(f"| {arm} | {' | '.join(row)} |" for arm, row in zip(cells.index, cells.to_numpy()))])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--score-on", choices=("test", "validation"), default="test", help="validation to explore")
    parser.add_argument("--split-seed", type=int, default=1, help="0 was looked at by the README's first studies")
    parser.add_argument("--only", nargs="*", choices=list(COHORTS), default=list(COHORTS))
    parser.add_argument("--study", action="store_true", help="then fine-tune the best of each family")
    parser.add_argument("--methods", nargs="*", help="names; all by default")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    import medssl.methods

    chosen = given.methods and [getattr(medssl.methods, name) for name in given.methods]
    report: dict[str, Any] = {}
    for name in given.only:
        data, settings = COHORTS[name](given.data, given.out / name)
        settings["train"] = replace(settings["train"], steps=given.steps)
        shared = {"methods": chosen, "draws": given.draws, "split": medssl.SplitSpec(given.split_seed)}
        table = medssl.compare(data, given.out / name, score_on=given.score_on, **settings, **shared)
        print(f"\n{name}: {given.steps} steps of {settings['train'].batch_size}, label {settings['label']}")
        print(markdown(table, Cache(data)))
        seconds = table.drop_duplicates(["method", "encoder"])["seconds"].sum()
        if given.study:
            print(paired(full_study(name, data, given.out / name, settings, shared)))
        report[name] = {"seconds": round(float(seconds)), "not": sorted(table.loc[table["auroc"].isna(), "method"])}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
