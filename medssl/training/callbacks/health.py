"""Measure the representation during pretraining, and stop a run whose features collapse to one direction or one point.

    medssl pretrain --data CACHE --method SimCLR --label finding --monitor-every 100 --on-collapse stop

Every `monitor_every` steps a full measurement on up to 256 images or 64 volumes writes these numbers to `metrics.csv` and
to the run's record. They are taken from the middle of each scan, with the encoder in evaluation mode:

    effective_rank   number of directions that the features use: Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885),
                     here after subtracting the mean
    feature_std      standard deviation of the normalised features over scans, averaged; 0 if all scans have the same
    uniformity       log mean exp(-2 d^2) over pairs of scans, and
    alignment        mean d^2 between a scan and a contrastive view of it: Wang and Isola, ICML 2020 (arXiv 2005.10242);
                     lower is better for both
    gradient_norm    of all weights, before clipping
    knn              with --label: balanced accuracy of the nearest neighbours in other patients
    dense_rank       effective rank of the features of places within scans, for masked methods
    dense_auroc      if there are masks: how well a linear model tells from one place's features whether a structure lies
                     there, fitted on half of the patients and scored on the others; masks never enter the loss

With `--patience 4` the run ends when the watched measure has not improved over four full measurements, 20 of which are then
made in a run of full length; `training/plateau.py` has the rule and the learning rate that goes with it. Watched is

    view_retrieval   how well a scan is found by another contrastive view of it among the measured scans: mean of 1 / rank. The
                     effective rank is not watched: it fell while a probe rose (docs, how to choose a pretext)


A quick check on a few scans runs at least twice an epoch, but not more often than every 25 steps. Two collapsed checks in a
row stop the run; a single one may be due to the first, unsteady steps.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.datasets.labels import label_codes
from medssl.encoders.base import Encoder
from medssl.evaluation import representation
from medssl.preprocessing.cache import Cache
from medssl.training.config import Monitoring, TrainConfig
from medssl.training.plateau import MIN_GAIN, Plateau
from medssl.views import recipes

FULL_SCANS = {2: 256, 3: 64}  # scans of a full measurement, by dims: a volume costs far more
QUICK_SCANS = {2: 32, 3: 16}  # scans of a quick check
MIN_STEPS_BETWEEN = 25  # steps between quick checks, so that they cost little in a small cohort
MEASUREMENTS, MEASUREMENTS_WITH_PATIENCE = 4, 20  # full measurements in a run of full length
WATCHED = "view_retrieval"  # what a run with patience ends by; no label enters it
COLLAPSED_RANK_SHARE, COLLAPSED_STD_SHARE = 0.1, 0.01  # of what the encoder had at the start


class Health(pl.Callback):
    """Measures the encoder that the run will save, during the run.

    Attributes:
        initial: Effective rank and feature_std before the first step.
        latest: All measures of the last full measurement, with `loss` and, after a collapse, `collapsed_at_step`.
        measured_step: Step of the last full measurement.
        plateau: The rule by which a run with patience ends; None for one without.

    Args:
        cache: Cache with the scans.
        scans: Scans that are trained on; a fixed random sample of them is measured.
        size: Voxels of a crop along each axis.
        train: Settings of the optimisation.
        monitoring: Settings of the measurements.

    Raises:
        MedsslError: Fewer than two classes of the label are among the measured scans.
    """

    def __init__(
        self, cache: Cache, scans: Sequence[str], size: Sequence[int], train: TrainConfig, monitoring: Monitoring
    ):
        order = np.random.default_rng(0).permutation(len(scans))
        self.scans = [scans[i] for i in order[: FULL_SCANS[cache.dims]]]
        self.quick_scans = self.scans[: QUICK_SCANS[cache.dims]]
        self.cache, self.size, self.on_collapse = cache, tuple(size), monitoring.on_collapse
        self.plateau = Plateau(monitoring.patience, train.steps) if monitoring.patience else None
        measurements = MEASUREMENTS_WITH_PATIENCE if self.plateau else MEASUREMENTS
        self.every = monitoring.monitor_every or max(1, train.steps // measurements)
        self.cohort, self.samples_per_step = len(scans), train.batch_size * train.accumulate
        self.initial: dict[str, float] | None = None
        self.latest: dict[str, float] = {}
        self.measured_step = 0
        self.gradient_norm = float("nan")
        self.collapsed_checks = 0  # in a row
        self.stop_reason: str | None = None
        self.stopping = False  # the same on all devices
        self.codes = label_codes(cache.manifest, monitoring.label)[0] if monitoring.label else {}
        if monitoring.label:
            self._check_label()

    def _check_label(self) -> None:
        labelled = [self.codes[scan] for scan in self.scans if scan in self.codes]
        if len(set(labelled)) < 2:
            raise MedsslError(
                f"{len(labelled)} of the {len(self.scans)} scans that are monitored have a label, of {len(set(labelled))} "
                "classes: expected two classes; leave --label out"
            )

    def steps_between(self, devices: int) -> int:
        """Steps between quick checks: half an epoch, but at least MIN_STEPS_BETWEEN and at most `every`."""
        return min(self.every, max(MIN_STEPS_BETWEEN, self.cohort // (2 * self.samples_per_step * devices)))

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.initial is None and trainer.is_global_zero:
            with trainer.strategy.precision_plugin.forward_context():
                self.initial = self._quick_check(module.method.final_encoder)
        self._shorten(trainer, module)  # a resumed run may have decided already

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        if self._is_full(trainer.global_step + 1, trainer):
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            self.gradient_norm = float(torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        step = trainer.global_step
        full = self._is_full(step, trainer)
        if trainer.fit_loop._should_accumulate() or not (full or step % self.steps_between(trainer.world_size) == 0):
            return
        if trainer.is_global_zero:
            try:
                with trainer.strategy.precision_plugin.forward_context():
                    quick = self._quick_check(module.method.final_encoder)
                    if full:
                        self._measure(trainer, module, float(trainer.callback_metrics["loss"]))
                self._note_collapse(quick, step)
            except MedsslError as error:  # the other devices wait for the decision below
                self.stop_reason = str(error)
        self.stopping = trainer.strategy.reduce_boolean_decision(self.stop_reason is not None, all=False)
        if full and self.plateau is not None:
            self._end_at_plateau(self.plateau, trainer, module)

    def _end_at_plateau(self, plateau: Plateau, trainer: pl.Trainer, module: Any) -> None:
        """Note the watched measure, and once it has stopped improving let the rate fall from here on, on all devices."""
        step = trainer.global_step
        if trainer.is_global_zero and self.measured_step == step:
            plateau.observe(self.latest[WATCHED], step)
        reached = trainer.strategy.reduce_boolean_decision(plateau.reached, all=False)
        if reached and step < plateau.decay_from:
            plateau.decay_from = step
            self._shorten(trainer, module)
            if trainer.is_global_zero:
                console.print(f"{self.plateau_reason()}; the learning rate falls, the run ends at step {plateau.end}")

    def _shorten(self, trainer: pl.Trainer, module: Any) -> None:
        """Make the plateau's end the last step of the trainer and of the method's own schedules."""
        if self.plateau is not None:
            trainer.fit_loop.epoch_loop.max_steps = self.plateau.end
            module.method.progress.total_steps = self.plateau.end

    def outcome(self) -> dict[str, float]:
        """When a run with patience stopped improving and when it ended, for its record; nothing for one without."""
        plateau = self.plateau
        if plateau is None:
            return {}
        when = {"plateau_at_step": float(plateau.decay_from)} if self.plateau_reason() else {}
        return {"watched_best": plateau.best, "watched_best_step": float(plateau.best_step), **when}

    def plateau_reason(self) -> str | None:
        """Why the run ends before its longest length, for its record; None if it does not."""
        plateau = self.plateau
        if plateau is None or plateau.end == plateau.steps:
            return None
        return (
            f"{WATCHED} has not improved by {MIN_GAIN:.0%} for {plateau.patience} measurements at step {plateau.decay_from}: its "
            f"best was {plateau.best:.3g} at step {plateau.best_step}"
        )

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self._stop_if_decided(trainer)  # here, so that the other callbacks have finished the step

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._stop_if_decided(trainer)

    def _stop_if_decided(self, trainer: pl.Trainer) -> None:
        if self.stopping:
            reason = (
                f"the first device found a collapsed representation; the run is stopped at step {trainer.global_step}"
            )
            raise MedsslError(self.stop_reason or reason)

    def state_dict(self) -> dict[str, Any]:
        plateau = {} if self.plateau is None else {"plateau": asdict(self.plateau)}
        return {"first": self.initial, "last": self.latest, "suspected": self.collapsed_checks, **plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.initial, self.latest, self.collapsed_checks = state["first"], state["last"], state["suspected"]
        if self.plateau is not None:
            vars(self.plateau).update(state["plateau"])  # in place: the schedule of the learning rate reads it

    def estimate_seconds(self, method: Any, steps: int, devices: int) -> float:
        """How long all checks and measurements of so many steps will take, from a trial on the quick scans."""
        encoder, start = method.final_encoder, time.perf_counter()
        self._quick_check(encoder)
        quick = time.perf_counter() - start
        self._details(encoder, representation.embed(encoder, self.cache, self.quick_scans, self.size))
        details = max(0.0, time.perf_counter() - start - 2 * quick)
        if self.plateau is not None:
            details += 2 * quick * len(self.scans) / len(self.quick_scans)  # the two views of view_retrieval
        measurements, checks = -(-steps // self.every), 1 + steps // self.steps_between(devices)
        scans_ratio = len(self.scans) / len(self.quick_scans)
        return quick * (checks + measurements * (1 + scans_ratio)) + details * measurements

    def _is_full(self, step: int, trainer: pl.Trainer) -> bool:
        return step % self.every == 0 or step == trainer.max_steps

    def _quick_check(self, encoder: Encoder) -> dict[str, float]:
        return rank_and_std(representation.embed(encoder, self.cache, self.quick_scans, self.size))

    def _measure(self, trainer: pl.Trainer, module: Any, loss: float) -> None:
        encoder = module.method.final_encoder
        features = representation.embed(encoder, self.cache, self.scans, self.size)
        measures = rank_and_std(features)
        measures |= {"uniformity": representation.uniformity(features), "gradient_norm": self.gradient_norm}
        if self.plateau is not None:
            measures[WATCHED] = self._view_retrieval(encoder)
        measures |= self._knn(features) | self._details(encoder, features[: len(self.quick_scans)])
        collapse = {k: v for k, v in self.latest.items() if k == "collapsed_at_step"}
        self.measured_step, self.latest = trainer.global_step, measures | collapse | {"loss": loss}
        module.log_dict(measures, rank_zero_only=True)

    def _view_retrieval(self, encoder: Encoder) -> float:
        """How well scans are found by another view of them; the two views are the same at every measurement."""
        view = recipes.contrastive(self.cache.data_spec, self.size)
        first, second = (
            representation.embed(encoder, self.cache, self.scans, self.size, view, seed=seed) for seed in (0, 1)
        )
        return representation.view_retrieval(first, second)

    def _knn(self, features: np.ndarray) -> dict[str, float]:
        labelled = [i for i, scan in enumerate(self.scans) if scan in self.codes]
        if not labelled:
            return {}
        scans = [self.scans[i] for i in labelled]
        labels = np.array([self.codes[scan] for scan in scans])
        return {"knn": representation.knn(features[labelled], labels, self._patients(scans))}

    def _details(self, encoder: Encoder, features: np.ndarray) -> dict[str, float]:
        """Alignment and the dense measures of the quick scans, whose features are given; each needs a forward pass."""
        cache, scans = self.cache, self.quick_scans
        view = recipes.contrastive(cache.data_spec, self.size)
        viewed = representation.embed(encoder, cache, scans, self.size, view)
        places = representation.embed(encoder, cache, scans, self.size, dense=True)
        measures = {
            "alignment": representation.alignment(features, viewed),
            "dense_rank": representation.dense_rank(places),
        }
        return measures | self._dense_auroc(places)

    def _dense_auroc(self, places: np.ndarray) -> dict[str, float]:
        has_mask = self.cache.manifest.set_index("scan")["has_mask"][self.quick_scans].to_numpy()
        if not has_mask.any():
            return {}
        scans = [scan for scan, masked in zip(self.quick_scans, has_mask) if masked]
        truth = representation.structures(self.cache, scans, self.size, places.shape[2:])
        auroc = representation.dense_auroc(places[has_mask], truth, self._patients(scans))
        return {} if auroc is None else {"dense_auroc": auroc}

    def _patients(self, scans: Sequence[str]) -> np.ndarray:
        return self.cache.manifest.set_index("scan")["patient"][list(scans)].to_numpy()

    def _note_collapse(self, quick: dict[str, float], step: int) -> None:
        """Count collapsed checks in a row, warn at the first, and decide to stop at the second."""
        initial = self.initial or quick
        if not has_collapsed(quick, initial):
            self.collapsed_checks = 0
            return
        self.collapsed_checks += 1
        self.latest |= quick
        self.latest.setdefault("collapsed_at_step", float(step))
        message = (
            f"the representation is collapsing at step {step}: the effective rank of {len(self.quick_scans)} scans is "
            f"{quick['effective_rank']:.2f} ({initial['effective_rank']:.2f} at the start), the standard deviation of their "
            f"features {quick['feature_std']:.1e} ({initial['feature_std']:.1e} at the start). Try a lower --lr, a larger "
            f"--batch-size, stronger views, or another method"
        )
        if self.collapsed_checks == 1 or self.on_collapse == "warn":
            warnings.warn(message, stacklevel=2)
        else:
            self.stop_reason = f"{message}; the run is stopped (--on-collapse warn continues it)"


def rank_and_std(features: np.ndarray) -> dict[str, float]:
    """The effective rank and the mean standard deviation of features (N, D).

    Raises:
        MedsslError: A feature is not finite.
    """
    broken = int((~np.isfinite(features)).any(1).sum())
    if broken:
        raise MedsslError(
            f"the encoder gives numbers that are not finite for {broken} of {len(features)} scans, so its weights are "
            f"unusable; start over (--resume false) with a lower --lr or --precision 32-true"
        )
    return {
        "effective_rank": representation.effective_rank(features),
        "feature_std": representation.feature_std(features),
    }


def has_collapsed(now: dict[str, float], initial: dict[str, float]) -> bool:
    """Whether features have lost nine tenths of their directions beyond the first, or 99% of their standard deviation.

    Both bounds are relative to the start: a tiny encoder has few directions, and a random one a small deviation.
    """
    few_directions = now["effective_rank"] - 1 < COLLAPSED_RANK_SHARE * (initial["effective_rank"] - 1)
    return few_directions or now["feature_std"] < COLLAPSED_STD_SHARE * initial["feature_std"]
