"""Does the measure that a run with --patience watches follow what a probe with labels would say?

    python -m tests.benchmarks.watched_measure CACHE SimCLR '[32, 32]' --label label --steps 400 --batch_size 64
    python -m tests.benchmarks.watched_measure CACHE SimMIM '[16, 16, 16]' --steps 200 --batch_size 16 --lr 2e-3

A run at a constant learning rate is measured at evenly spaced steps: the label-free measures on 256 images or 64 volumes, and a
probe with labels beside them. With --label that is the AUROC of a logistic regression on 100 labelled scans, scored on 1,000
others, the mean of ten draws; without it the dense probe of the masks. All scans are of training patients. It prints the values
and Spearman's rank correlation of each measure with the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from scipy.stats import spearmanr

from medssl.core.registry import METHODS
from medssl.datasets.labels import label_codes
from medssl.encoders import ResidualUNet, ResNet
from medssl.evaluation import representation
from medssl.evaluation.metrics import auroc
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, source_within
from medssl.preprocessing.datamodule import CropData
from medssl.training.callbacks.health import FULL_SCANS
from medssl.training.config import TrainConfig
from medssl.training.engine import quiet_third_parties
from medssl.training.module import PretrainingModule
from medssl.training.samples import pretraining_scans
from medssl.views import recipes

DRAWS, LABELLED, SCORED = 10, 100, 1000


class Watch(pl.Callback):
    """Measures the encoder every so many steps."""

    def __init__(self, cache: Cache, scans: Sequence[str], size: tuple[int, ...], every: int, label: str | None):
        self.cache, self.size, self.every = cache, size, every
        self.scans = representation.evenly(scans, FULL_SCANS[cache.dims])
        self.embed = partial(representation.embed, cache=cache, size=size)
        self.codes = label_codes(cache.manifest, label)[0] if label else {}
        self.labelled = representation.evenly([scan for scan in scans if scan in self.codes], LABELLED + SCORED)
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.measure(0, module.method.final_encoder)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.measure(trainer.global_step, module.method.final_encoder)

    def measure(self, step: int, encoder: Any) -> None:
        view = recipes.contrastive(self.cache.data_spec, self.size)
        plain = self.embed(encoder, scans=self.scans)
        first, second = (self.embed(encoder, scans=self.scans, view=view, seed=seed) for seed in (0, 1))
        dense = self.embed(encoder, scans=self.scans, dense=True)
        row = {
            "step": float(step),
            "view_retrieval": representation.view_retrieval(first, second),
            "effective_rank": representation.effective_rank(plain),
            "dense_rank": representation.dense_rank(dense),
            "alignment": representation.alignment(plain, first),
            "uniformity": representation.uniformity(plain),
            "probe": self.probe(encoder) if self.labelled else self.dense_probe(dense),
        }
        self.rows.append(row)
        print({name: round(value, 3) for name, value in row.items()}, flush=True)

    def probe(self, encoder: Any) -> float:
        x, y = self.embed(encoder, scans=self.labelled), np.array([self.codes[scan] for scan in self.labelled])
        scores = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(x))
            few, rest = order[:LABELLED], order[LABELLED:]
            scores.append(auroc(y[rest], representation.linear_scores(x[few], y[few], x[rest], 2)[:, 1]))
        return float(np.mean(scores))

    def dense_probe(self, dense: np.ndarray) -> float:
        patients = self.cache.manifest.set_index("scan")["patient"][self.scans].to_numpy()
        truth = representation.structures(self.cache, self.scans, self.size, dense.shape[2:])
        return representation.dense_auroc(dense, truth, patients) or float("nan")


def main(
    data: Path,
    method: str,
    crop: list[int],
    label: str | None = None,
    steps: int = 400,
    checks: int = 10,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> None:
    cache, size = Cache(data), tuple(crop)
    torch.manual_seed(seed)
    encoder = (
        ResNet(2, cache.channels, depth=10, width=16, max_pool=False)
        if cache.dims == 2
        else ResidualUNet(3, cache.channels, width=16, blocks=(1, 1, 1, 1))
    )
    pretext = METHODS.load(method)(encoder, **({"mask_block": 4} if method == "SimMIM" else {}))
    pretext.set_up_views(cache.data_spec, size)
    scans = pretraining_scans(cache)
    crops = Crops(cache, scans, source_within(cache, scans, pretext.source_size(size), size), seed)
    quiet_third_parties()
    watch = Watch(cache, scans, size, steps // checks, label)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = PretrainingModule(pretext, TrainConfig(steps=steps, batch_size=batch_size, lr=lr), rate=lambda step: 1.0)
    trainer.fit(module, datamodule=CropData(crops, batch_size, steps))
    table = pd.DataFrame(watch.rows)
    for name in table.columns.drop(["step", "probe"]):
        print(f"{name:16s} rho {spearmanr(table[name], table['probe'])[0]:+.2f}")


if __name__ == "__main__":
    auto_cli(main)
