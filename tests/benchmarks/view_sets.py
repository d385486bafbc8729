"""What the contrastive recipe is worth: SimCLR with three sets of views, same encoder, same budget, same scans.

    python tests/benchmarks/view_sets.py --data DATA --steps 300 [--seeds 3] [--only chest_xray] [--out FOLDER]

recipe: `recipes.contrastive`. first: the first list of it, kept below. lightly: lightly's default SimCLR transform on
grey images, without normalisation, through `PerSample`; lightly has nothing for volumes. untrained: the same encoder
as it was drawn. All is scored on the training patients' scans, in evaluation mode: kNN among other patients' scans
(balanced accuracy), and a linear probe that learns from 10% of the patients and is scored on the other 90% (AUROC,
mean of 10 draws, the same for every set). The test patients are never looked at.

chest_xray: normal against pneumonia, 64 x 64, batch 128. hippocampus: there is no label of a scan, so the probe tells
volumes whose hippocampus is larger than the median from the others, 32 cubed, batch 16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRViewTransform
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.transforms import v2

from medssl.datasets.index import index
from medssl.encoders import ResNet
from medssl.evaluation import representation as probes
from medssl.methods import SimCLR
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.config import Monitoring, TrainConfig
from medssl.training.pretrain import pretrain
from medssl.training.samples import pretraining_scans
from medssl.views.base import Compose, Params, View
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Noise
from medssl.views.interop import PerSample
from medssl.views.spatial import Resample

DRAWS, SHARE = 10, 0.1
SETTINGS: dict[str, dict[str, Any]] = {
    "chest_xray": {
        "table": "images.csv",
        "index": {"patient": "patient", "label": ["finding"], "modality": "DX"},
        "prepare": {"size": (64, 64)},
        "crop": (64, 64),
        "batch_size": 128,
        "encoder": ResNet(2, 1, 10, 16, max_pool=False),
    },
    "hippocampus": {
        "table": "volumes.csv",
        "index": {"patient": "subject", "mask": "../labels/{name}", "modality": "MR"},
        "prepare": {"spacing_mm": (1.0, 1.0, 1.0)},
        "crop": (32, 32, 32),
        "batch_size": 16,
        "encoder": ResNet(3, 1, 10, 16, max_pool=False),
    },
}


class FirstViews(SimCLR):
    """The first contrastive list: the same for films and for volumes of MR."""

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        turns = (15.0,) * (3 if len(size) == 3 else 1)
        crop = Resample(size, zoom=(0.5, 1.1), aspect=1.3, rotate_degrees=turns, spacing_mm=data_spec.spacing_mm)
        parts = [crop, Gamma(1.8, 0.8), BrightnessContrast(0.2, 0.3, 0.8), Blur(1.5, 0.4), Noise(0.06, 0.4)]
        return tuple(Compose(parts) for _ in range(2))


class LightlyViews(SimCLR):
    """lightly's default for SimCLR, image by image."""

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        transform = v2.Compose([v2.ToPILImage(), SimCLRViewTransform(input_size=size[0], normalize=None)])
        return tuple(Cropped(transform, size) for _ in range(2))


class Cropped(PerSample):
    """SimCLR reads no mask, so the body of the crop may be taken as all of it."""

    def __init__(self, transform: Any, size: Sequence[int]):
        super().__init__(transform)
        self.size = tuple(size)

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        return mask.new_ones(*mask.shape[:2], *self.size)


SETS: dict[str, type[SimCLR] | None] = {
    "recipe": SimCLR,
    "first": FirstViews,
    "lightly": LightlyViews,
    "untrained": None,
}


def labels_of(name: str, cache: Cache, scans: Sequence[str]) -> np.ndarray:
    if name == "chest_xray":
        return cache.manifest.set_index("scan").loc[list(scans), "label.finding"].ne("normal").to_numpy().astype(int)
    volumes = np.array([(cache.read_mask(scan) > 0).sum() for scan in scans])
    return (volumes > np.median(volumes)).astype(int)


def linear(features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """AUROC of the probe on patients it did not learn from, the mean of the draws."""
    people, found = np.unique(patients), []
    for draw in range(DRAWS):
        order = np.random.default_rng([7, draw]).permutation(people)
        taught = np.isin(patients, order[: max(2, round(SHARE * len(people)))])
        scores = probes.linear_scores(features[taught], labels[taught], features[~taught], 2)
        found.append(roc_auc_score(labels[~taught], scores[:, 1]))
    return float(np.mean(found))


def scored(name: str, method: type[SimCLR] | None, cache: Cache, out: Path, steps: int, seed: int) -> dict[str, float]:
    """kNN and linear probe of one pretraining run."""
    about = SETTINGS[name]
    torch.manual_seed(seed)
    encoder = ResNet(cache.dims, 1, 10, 16, max_pool=False)
    if method is not None:
        train = TrainConfig(steps, about["batch_size"], lr=2e-3, weight_decay=1e-4)
        monitoring = Monitoring(monitor_every=steps)
        pretrain(cache.path, out, encoder, method, about["crop"], train, monitoring=monitoring, seed=seed)
        encoder.load_state_dict(load_file(out / "encoder.safetensors"))
    scans = pretraining_scans(cache)
    features = probes.embed(encoder, cache, scans, about["crop"])
    patients = cache.manifest.set_index("scan").loc[scans, "patient"].to_numpy()
    labels = labels_of(name, cache, scans)
    return {"knn": probes.knn(features, labels, patients), "linear": linear(features, labels, patients)}


def cache_of(name: str, data: Path, folder: Path) -> Cache:
    about = SETTINGS[name]
    index([data / name], folder / f"{name}_manifest", labels=data / name / about["table"], **about["index"])
    return prepare(folder / f"{name}_manifest", folder / f"{name}_cache", **about["prepare"])


def compared(name: str, data: Path, folder: Path, steps: int, seeds: int) -> list[dict[str, Any]]:
    """A row a set of views; prints each as soon as it is known."""
    cache, rows = cache_of(name, data, folder), []
    for kind, method in SETS.items():
        if kind == "lightly" and cache.dims == 3:
            print(f"| {name} | lightly | has no transform for volumes | |", flush=True)
            continue
        runs = [scored(name, method, cache, folder / f"{name}_{kind}_{seed}", steps, seed) for seed in range(seeds)]
        row: dict[str, Any] = {"data": name, "views": kind}
        for score in ("knn", "linear"):
            values = [run[score] for run in runs]
            row[score] = [round(float(f(values)), 4) for f in (np.mean, np.min, np.max)]
        rows.append(row)
        cells = [f"{row[score][0]:.3f} [{row[score][1]:.3f}, {row[score][2]:.3f}]" for score in ("knn", "linear")]
        print(f"| {name} | {kind} | {cells[0]} | {cells[1]} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds chest_xray and hippocampus")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(SETTINGS), nargs="+", default=sorted(SETTINGS))
    parser.add_argument("--out", type=Path, help="keeps the runs, and goes on where it stopped")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"SimCLR, {given.steps} steps, {given.seeds} seeds: mean [lowest, highest]")
    print("| data | views | kNN, balanced accuracy | linear probe on 10%, AUROC |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        rows = [row for name in given.only for row in compared(name, given.data, folder, given.steps, given.seeds)]
    print(json.dumps({"steps": given.steps, "seeds": given.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
