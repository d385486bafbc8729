"""What pretraining and fine-tuning share: the optimiser, the progress bar, and silence about settings chosen on purpose."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn


def adamw(
    groups: Sequence[tuple[nn.Module, float]], lr: float, weight_decay: float, warmup: int, steps: int
) -> dict[str, Any]:
    """AdamW with a linear warm-up and a cosine schedule, as Lightning takes it.

    Args:
        groups: Modules, each with its share of the learning rate; a weight in several modules belongs to the first.
        lr: Peak learning rate.
        weight_decay: Of matrices and kernels; vectors (norms, biases, tokens) are not decayed.
        warmup: Steps of warm-up, at most half of `steps`.
        steps: Length of the whole schedule.
    """
    parameters, seen = [], set()
    for module, share in groups:
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in own}
        for decay, chosen in ((weight_decay, [p for p in own if p.ndim > 1]), (0.0, [p for p in own if p.ndim <= 1])):
            if chosen:
                parameters.append({"params": chosen, "lr": lr * share, "weight_decay": decay})
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = CosineWarmupScheduler(optimizer, warmup_epochs=max(1, min(warmup, steps // 2)), max_epochs=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Bar(Progress):
    """What, how far, since when, how long still; where no bar can move (the log of a cluster), a line every tenth."""

    def __init__(self, console: Console):
        shown = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        super().__init__(*shown, console=console, speed_estimate_period=24 * 3600)

    def update(self, task_id: TaskID, **given: Any) -> None:
        task = self.tasks[self.task_ids.index(task_id)]
        before = int(10 * task.percentage / 100)
        super().update(task_id, **given)
        if not self.console.is_terminal and not task.finished and int(10 * task.percentage / 100) > before:
            left = "" if task.time_remaining is None else f", about {spoken(task.time_remaining)} to go"
            self.console.print(
                f"{task.description}: {task.completed:.0f} of {task.total:.0f} after {spoken(task.elapsed or 0)}{left}"
            )


class StepBar(pl.Callback):
    """A progress bar over optimiser steps, on standard error."""

    def __init__(self) -> None:
        self.bar = Bar(Console(stderr=True))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar.start()
            self.task = self.bar.add_task("loss", total=trainer.max_steps, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        if (
            trainer.is_global_zero and trainer.global_step % max(1, trainer.max_steps // 200) == 0
        ):  # seldom: it waits for the GPU
            self.bar.update(self.task, completed=trainer.global_step, description=f"loss {float(outputs['loss']):.3f}")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()


def quiet_third_parties() -> None:
    """Silence the warnings of libraries about settings chosen here on purpose, or about their own internals."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*ckpt_path.*",
        ".*lr_scheduler.step.*",
        ".*LeafSpec.*",
        ".*always_return_as_numpy.*",
        ".*torch.jit.*",
    ):
        warnings.filterwarnings("ignore", text)


def spoken(seconds: float) -> str:
    """75 -> '1 min 15 s', for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
