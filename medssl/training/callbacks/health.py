"""Is the representation healthy while it is trained? Looks at it now and then, and stops a run that collapses.

    medssl pretrain --data CACHE --method SimCLR --label finding --monitor-every 100 --on-collapse stop

Every `monitor_every` steps it looks at up to 256 images or 64 volumes, and the numbers go into `metrics.csv` and the
record; they are of the middle of each scan and the encoder in evaluation mode:

    effective_rank   directions the features use: Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885), here centred
    feature_std      of the normalised features, over scans, averaged: 0 when all scans look alike
    uniformity       log mean exp(-2 d^2) over pairs of scans; alignment: mean d^2 between a scan and a contrastive view
                     of it: Wang and Isola, ICML 2020 (arXiv 2005.10242); lower is better for both
    gradient_norm    of all weights, before clipping
    knn              balanced accuracy of nearest neighbours in other patients, with --label
    dense_rank       effective rank of the features of places within scans: what masked methods should have
    dense_auroc      a linear read-out, from one place's features, of whether a structure of the masks lies there, learned
                     on half of the patients and scored on the others; where there are masks (they never enter the loss)

At least twice an epoch (though not more often than every 25 steps) it looks at a few scans alone, so that a collapse is
known within an epoch. A run is stopped at the second look in a row that finds a collapse: first steps are rough.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.evaluation import representation as probes
from medssl.preprocessing.cache import Cache
from medssl.training.config import Monitoring, TrainConfig
from medssl.views import recipes

WATCHED = {2: 256, 3: 64}  # scans of a whole look, by dims: a volume costs far more
FEW = {2: 32, 3: 16}  # of a quick one
LEAST_STEPS = 25  # between quick looks, so that they cost little in a small cohort


class Health(pl.Callback):
    """Measures the encoder that the run keeps, during the run."""

    def __init__(
        self, cache: Cache, scans: Sequence[str], size: Sequence[int], train: TrainConfig, monitoring: Monitoring
    ):
        order = np.random.default_rng(0).permutation(len(scans))
        self.scans = [scans[i] for i in order[: WATCHED[cache.dims]]]
        self.few = self.scans[: FEW[cache.dims]]
        self.cache, self.size, self.on_collapse = cache, tuple(size), monitoring.on_collapse
        self.every = monitoring.monitor_every or max(1, train.steps // 4)
        self.cohort, self.batch_size, self.looked = len(scans), train.batch_size * train.accumulate, 0
        self.last: dict[str, float] = {}
        self.first: dict[str, float] | None = None
        self.glance: dict[str, float] | None = None
        self.lost: str | None = None
        self.suspected, self.stop, self.gradient_norm = 0, False, float("nan")
        label = monitoring.label
        self.codes = probes.label_codes(cache, label)[0] if label else {}
        if label and len({self.codes[s] for s in self.scans if s in self.codes}) < 2:
            known = sum(s in self.codes for s in self.scans)
            raise MedsslError(
                f"{known} of {len(self.scans)} watched scans have a label: expected two classes; leave --label out"
            )

    def between(self, devices: int) -> int:
        """Steps between quick looks: half an epoch, at least LEAST_STEPS, at most as many as between whole ones."""
        return min(self.every, max(LEAST_STEPS, self.cohort // (2 * self.batch_size * devices)))

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.first is None and trainer.is_global_zero:
            with trainer.strategy.precision_plugin.forward_context():
                self.first = self._glance(module.method.final_encoder)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0 or trainer.global_step + 1 == trainer.max_steps:
            found = [p.grad for p in module.parameters() if p.grad is not None]
            self.gradient_norm = float(torch.nn.utils.get_total_norm(found))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        step = trainer.global_step
        whole = step % self.every == 0 or step == trainer.max_steps
        if trainer.fit_loop._should_accumulate() or not (whole or step % self.between(trainer.world_size) == 0):
            return
        collapsed = False
        if trainer.is_global_zero:
            try:
                with trainer.strategy.precision_plugin.forward_context():
                    glance = self._glance(module.method.final_encoder)
                    if whole:
                        self._look(trainer, module, float(outputs["loss"]))
                collapsed = self._judge(glance, step)
            except MedsslError as error:  # the other devices wait for the decision below
                self.lost, collapsed = str(error), True
        self.stop = trainer.strategy.reduce_boolean_decision(collapsed, all=False)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if self.stop:  # here, so that the other callbacks have seen the step through
            raise MedsslError(self._told(trainer.global_step))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.stop:
            raise MedsslError(self._told(trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "suspected": self.suspected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.last, self.suspected = state["first"], state["last"], state["suspected"]

    def seconds(self, method: Any, steps: int, devices: int) -> float:
        """What looking will cost over so many steps, from looks at a few scans."""
        begun = time.perf_counter()
        self._glance(method.final_encoder)
        glance = time.perf_counter() - begun
        self._details(method.final_encoder, probes.embed(method.final_encoder, self.cache, self.few, self.size))
        details = max(0.0, time.perf_counter() - begun - 2 * glance)
        whole = -(-steps // self.every)
        return glance * (1 + steps // self.between(devices) + whole * (1 + len(self.scans) / len(self.few))) + (
            details * whole
        )

    def _glance(self, encoder: Encoder) -> dict[str, float]:
        """Of a few scans: is the representation still there?"""
        return spread(probes.embed(encoder, self.cache, self.few, self.size))

    def _look(self, trainer: pl.Trainer, module: Any, loss: float) -> None:
        features = probes.embed(module.method.final_encoder, self.cache, self.scans, self.size)
        found = spread(features) | {"uniformity": probes.uniformity(features), "gradient_norm": self.gradient_norm}
        known = [i for i, scan in enumerate(self.scans) if scan in self.codes]
        if known:
            labels = np.array([self.codes[self.scans[i]] for i in known])
            found["knn"] = probes.knn(features[known], labels, self._patients([self.scans[i] for i in known]))
        found |= self._details(module.method.final_encoder, features[: len(self.few)])
        collapsed = {k: v for k, v in self.last.items() if k == "collapsed_at_step"}
        self.looked, self.last = trainer.global_step, found | collapsed | {"loss": loss}
        module.log_dict(found, rank_zero_only=True)

    def _details(self, encoder: Encoder, features: np.ndarray) -> dict[str, float]:
        """Alignment and the dense features, of a few scans: each needs a forward pass of its own. features: theirs."""
        cache, few = self.cache, self.few
        view = recipes.contrastive(cache.data_spec, self.size)
        seen = probes.embed(encoder, cache, few, self.size, view)
        places = probes.embed(encoder, cache, few, self.size, dense=True)
        found = {"alignment": probes.alignment(features, seen), "dense_rank": probes.dense_rank(places)}
        masked = cache.manifest.set_index("scan")["has_mask"][few].to_numpy()
        if masked.any():
            kept = [scan for scan, has in zip(few, masked) if has]
            truth = probes.structures(cache, kept, self.size, places.shape[2:])
            score = probes.dense_auroc(places[masked], truth, self._patients(kept))
            found |= {} if score is None else {"dense_auroc": score}
        return found

    def _patients(self, scans: Sequence[str]) -> np.ndarray:
        return self.cache.manifest.set_index("scan")["patient"][list(scans)].to_numpy()

    def _judge(self, glance: dict[str, float], step: int) -> bool:
        """Whether the run is to be stopped: at the second look in a row that finds a collapse."""
        self.suspected = self.suspected + 1 if collapses(glance, self.first or glance) else 0
        self.glance = glance
        if not self.suspected:
            return False
        self.last |= glance
        self.last.setdefault("collapsed_at_step", float(step))
        if self.suspected == 1 or self.on_collapse == "warn":
            warnings.warn(self._told(step), stacklevel=2)
        return self.suspected > 1 and self.on_collapse == "stop"

    def _told(self, step: int) -> str:
        if self.lost is not None:
            return self.lost
        if self.glance is None:
            return f"stopped at step {step}: the first device saw the representation collapse"
        now, then = self.glance, self.first or self.glance
        end = (
            ""
            if self.suspected < 2 or self.on_collapse == "warn"
            else "; the run is stopped, --on-collapse warn goes on"
        )
        return (
            f"the representation is collapsing at step {step}: the effective rank of {len(self.few)} scans is "
            f"{now['effective_rank']:.2f} (it began at {then['effective_rank']:.2f}), their spread {now['feature_std']:.1e} "
            f"({then['feature_std']:.1e}). Try a lower --lr, a larger --batch-size, stronger views, or another method{end}"
        )


def spread(features: np.ndarray) -> dict[str, float]:
    """How many directions the features (N, D) use, and how far apart they are."""
    if not np.isfinite(features).all():
        raise MedsslError(
            f"the encoder gives numbers that are not finite for {int((~np.isfinite(features)).any(1).sum())} of "
            f"{len(features)} scans: its weights are lost; start over (--resume false) with a lower --lr or --precision "
            f"32-true"
        )
    return {"effective_rank": probes.effective_rank(features), "feature_std": probes.feature_std(features)}


def collapses(now: dict[str, float], first: dict[str, float]) -> bool:
    """Whether features have lost nine tenths of the directions beyond the first that a random encoder had, or 99% of
    their spread: bounds relative to the start, for a tiny encoder has few directions and a random one little spread."""
    few = now["effective_rank"] - 1 < 0.1 * (first["effective_rank"] - 1)
    return few or now["feature_std"] < 0.01 * first["feature_std"]
