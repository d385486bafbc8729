"""How long a pretraining run will take here and how much memory it needs, from a few of its own steps.

forecast = measure(TrialRun(method, cache, scans, size, train, monitoring, hardware, seed))
forecast.hours, forecast.memory_mib
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from torch.utils.data import default_collate

from medssl.methods import Method
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, FieldReader, source_within
from medssl.training.callbacks.health import Health
from medssl.training.config import Hardware, Monitoring, TrainConfig
from medssl.training.engine import quiet_third_parties
from medssl.training.estimate import estimate
from medssl.training.recompute import recomputed

USABLE_MEMORY = 0.8  # of the device's, for a run to be sure to fit
SMALL_BATCH = 4  # whose memory tells how much a sample needs


@dataclass(frozen=True)
class Forecast:
    """What a run will cost on this machine, if it takes all its steps.

    Attributes:
        hours: Of all steps and measurements.
        memory_mib: Peak memory, of the GPU or of the process.
        step_seconds: Of one optimiser step, with loading its samples.
        measurement_seconds: Of all measurements of the representation.
        device: cpu or cuda.
    """

    hours: float
    memory_mib: float
    step_seconds: float
    measurement_seconds: float
    device: str


@dataclass(frozen=True)
class TrialRun:
    """What a trial is made with.

    Attributes:
        method: The method, with its views set up.
        cache: Where the scans are.
        scans: Those that are trained on.
        readers: Readers of the sample fields that the method asks for.
        size: Voxels of a crop along each axis.
        train: The optimisation.
        monitoring: How the representation is measured.
        hardware: Where it runs.
        seed: Seed of the crops.
    """

    method: Method
    cache: Cache
    scans: Sequence[str]
    readers: Sequence[FieldReader]
    size: tuple[int, ...]
    train: TrainConfig
    monitoring: Monitoring
    hardware: Hardware
    seed: int


def measure(trial: TrialRun) -> Forecast:
    """Run three steps on a copy of the method, load two batches and measure the representation once.

    Args:
        trial: The run; its views must have been set up.
    """
    train, trainer = trial.train, _trainer(trial)
    batch, loading = _batch(trial, train.batch_size)
    measured = _three_steps(trial, batch, trainer)
    step = train.accumulate * (measured["seconds"] + loading / max(1, trial.hardware.workers))
    health = Health(trial.cache, trial.scans, trial.size, train, trial.monitoring)
    with trainer.strategy.precision_plugin.forward_context():
        monitoring = health.estimate_seconds(trial.method, train.steps, 1)
    hours = (train.steps * step + monitoring) / 3600
    return Forecast(hours, measured["memory_mib"], step, monitoring, trainer.strategy.root_device.type)


def fitting_batch(trial: TrialRun, memory_mib: int) -> int:
    """The batch size, halved until it fits into the memory: what a sample needs is measured with a small batch.

    Args:
        trial: The run with the wanted batch size.
        memory_mib: Memory of the device.
    """
    wanted, least = trial.train.batch_size, trial.method.min_batch_size
    small = min(wanted, max(SMALL_BATCH, least))
    batch, _ = _batch(trial, small)
    trainer = _trainer(trial)
    before = _memory_in_use_mib(trainer.strategy.root_device)
    needed = (_three_steps(trial, batch, trainer)["memory_mib"] - before) / small
    while before + needed * wanted > USABLE_MEMORY * memory_mib and wanted // 2 >= least:
        wanted //= 2
    return wanted


def with_train(trial: TrialRun, **changes: Any) -> TrialRun:
    """The same trial with other settings of the optimisation.

    Args:
        trial: The run.
        changes: Fields of `TrainConfig`.
    """
    return replace(trial, train=replace(trial.train, **changes))


def _three_steps(trial: TrialRun, batch: dict[str, Any], trainer: pl.Trainer) -> dict[str, float]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with recomputed(trial.method, trial.hardware.checkpoint_activations):
        return estimate(trial.method, batch, 1, trainer, lambda m, b: m.loss(m.make_views(b)))


def _batch(trial: TrialRun, size: int) -> tuple[dict[str, Any], float]:
    """A batch, and the seconds that loading it takes once its files have been opened."""
    source = source_within(trial.cache, trial.scans, trial.method.source_size(trial.size), trial.size)
    crops = Crops(trial.cache, list(trial.scans), source, trial.seed, fields=trial.readers)
    for _ in range(2):
        start = time.perf_counter()
        batch = default_collate([crops[i] for i in range(size)])
    return batch, time.perf_counter() - start


def _trainer(trial: TrialRun) -> pl.Trainer:
    """A trainer that only provides the device and the precision."""
    quiet_third_parties()
    return pl.Trainer(
        max_steps=1,
        accelerator=trial.hardware.accelerator,
        devices=1,
        precision=trial.train.precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _memory_in_use_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20
