"""What pretraining and fine-tuning share: the optimiser with its schedule, the progress bar, and muted warnings of libraries."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import cosine_schedule
from torch import nn

from medssl.core.progress import ProgressBar
from medssl.training.config import TrainConfig


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate.

    Attributes:
        module: Where the weights are.
        share: Their learning rate as a share of the peak rate.
        start: Step at which they begin to learn, with a warm-up of their own.
    """

    module: nn.Module
    share: float = 1.0
    start: int = 0


def adamw(groups: Sequence[Group], train: TrainConfig, rate: Callable[[int], float] | None = None) -> dict[str, Any]:
    """Build AdamW with a linear warm-up of each group, and one schedule for all.

    Args:
        groups: Modules with their learning rates; a weight in several modules belongs to the first.
        train: Its `lr` is the peak learning rate; `weight_decay` holds for matrices and kernels, see `decays`; `warmup` is
            limited to half of `steps`, the length of the whole schedule.
        rate: The learning rate of a step over its peak, apart from the warm-up; a cosine schedule by default.

    Returns:
        Optimiser and schedule, in the form that Lightning's `configure_optimizers` returns.
    """
    parameters, factors, assigned = list[dict](), list[Callable[[int], float]](), set[int]()
    for group in groups:
        weights = {n: p for n, p in group.module.named_parameters() if p.requires_grad and id(p) not in assigned}
        assigned |= {id(p) for p in weights.values()}
        decayed, others = ([p for n, p in weights.items() if decays(n, p) is side] for side in (True, False))
        for decay, members in ((train.weight_decay, decayed), (0.0, others)):
            if members:
                parameters.append({"params": members, "lr": train.lr * group.share, "weight_decay": decay})
                factors.append(partial(_rate_factor, start=group.start, train=train, rate=rate))
    optimizer = torch.optim.AdamW(parameters, lr=train.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rate_factor(step: int, start: int, train: TrainConfig, rate: Callable[[int], float] | None = None) -> float:
    """The learning rate over its peak: the schedule of all weights, times the warm-up from `start` on."""
    warmup = max(1, min(train.warmup, train.steps // 2))
    falling = _cosine(step, warmup, max(1, train.steps - warmup)) if rate is None else rate(step)
    return falling * min(1.0, max(0, step - start + 1) / warmup)


def _cosine(step: int, warmup: int, length: int) -> float:
    return cosine_schedule(min(step - warmup, length), length, 1.0, 0.0) if step >= warmup else 1.0


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is decayed: the weight of a linear layer or a convolution is, and one under a weight norm.

    Norms, biases, mask tokens and tables of positions are not, whatever their shape.

    >>> decays("encoder.stem.weight", nn.Parameter(torch.zeros(4, 3))), decays("mask_token", nn.Parameter(torch.zeros(1, 4)))
    (True, False)
    """
    return parameter.ndim > 1 and name.rpartition(".")[2] in ("weight", "in_proj_weight", "original0", "original1")


class StepBar(pl.Callback):
    """A progress bar over optimiser steps, on standard error."""

    def __init__(self) -> None:
        self.bar = ProgressBar()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar.start()
            self.task = self.bar.add_task("loss", total=trainer.max_steps, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        every = max(1, trainer.max_steps // 200)  # reading the loss waits for the GPU
        if trainer.is_global_zero and trainer.global_step % every == 0:
            self.bar.update(self.task, completed=trainer.global_step, description=f"loss {float(outputs['loss']):.3f}")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()


def quiet_third_parties() -> None:
    """Mute the warnings of libraries about settings that are intended here, or about their own internals."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*ckpt_path.*",
        ".*lr_scheduler.step.*",
        ".*LeafSpec.*",
        ".*always_return_as_numpy.*",
        ".*torch.jit.*",
        ".*find_unused_parameters.*",
    ):
        warnings.filterwarnings("ignore", text)
