"""What pretraining and fine-tuning share: the loader, the optimiser, checkpoints that survive a kill, an estimate."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import logging
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from pytorch_lightning.plugins.io import TorchCheckpointIO
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
from torch.utils.data import DataLoader

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, Stopped
from medssl.preprocessing.crops import Crops, Steps


class CropData(pl.LightningDataModule):
    """`Crops` in `Steps`, for any number of devices and workers."""

    def __init__(self, crops: Crops, batch_size: int, total: int, start: int = 0, workers: int = 0):
        super().__init__()
        self.crops, self.batch_size, self.total, self.start, self.workers = crops, batch_size, total, start, workers

    def train_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        steps = Steps(self.batch_size, self.total, self.start, rank, world)
        context = {"multiprocessing_context": "spawn", "persistent_workers": True} if self.workers else {}
        pinned = torch.cuda.is_available()
        return DataLoader(self.crops, batch_sampler=steps, num_workers=self.workers, pin_memory=pinned, **context)  # type: ignore[arg-type]


def adamw(
    groups: Sequence[tuple[nn.Module, float]], lr: float, weight_decay: float, warmup: int, steps: int
) -> dict[str, Any]:
    """AdamW with warm-up and cosine, as Lightning takes it; each module has its share of the learning rate.

    Vectors (norms, biases, tokens) are not decayed.
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


class SafeCheckpoints(TorchCheckpointIO):
    """Checkpoints led by their own SHA-256, written beside the target, synced, replaced; read without pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), hashlib.sha256(content).digest() + content)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        content = Path(path).read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise MedsslError(
                f"the checkpoint {Path(path).name} ({len(content)} bytes) does not match its checksum: it is damaged; restore it from a "
                f"copy, or remove it to start again"
            )
        return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)


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


class KeepCheckpoint(pl.Callback):
    """Saves every `every` steps and when asked to stop (SIGTERM, SIGUSR1, Ctrl-C): then the run can be resumed."""

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.asked = path, every, 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM)):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                return

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return  # in the middle of a step: gradients would be lost
        step = trainer.global_step
        asked = trainer.strategy.reduce_boolean_decision(bool(self.asked), all=False)
        if step % self.every == 0 or asked:
            trainer.save_checkpoint(self.path)
        if asked:
            self._restore()
            raise Stopped(
                f"stopped by signal {self.asked} after step {step} of {trainer.max_steps}: the checkpoint is safe; "
                f"run the same command again to go on"
            )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore()

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:  # asked twice: at once, from the last checkpoint
            self._restore()
            raise KeyboardInterrupt
        self.asked = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class SoundGradients(pl.Callback):
    """Refuses what this build of torch trains wrongly: 3D convolutions in bfloat16 on the CPU over maps that are not as deep
    as the kernel (two voxels for one of 3).

    Found with torch 2.15.0 on a CPU that has AVX512-BF16: the gradient of their weights is noise (cosine to that of
    float32 between 0 and 0.6; maps one deep are right), without a word. It is measured at the start, so that a mended
    torch runs.
    """

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        low = trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16")
        if low and not bfloat16_is_sound():
            for part in module.modules():
                if isinstance(part, nn.Conv3d | nn.ConvTranspose3d) and (part.kernel_size[0], part.stride[0]) != (3, 2):
                    part.register_forward_pre_hook(_refuse_shallow)


@functools.cache
def bfloat16_is_sound(depth: int = 2) -> bool:
    """Whether the weights of a 3D convolution over so deep a map get their gradient in bfloat16, here on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv, x = nn.Conv3d(16, 16, 3, padding=1, bias=False), torch.randn(4, 16, depth, 4, 4)
        found = []
        for low in (False, True):
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                (grad,) = torch.autograd.grad(conv(x).float().pow(2).sum(), conv.weight)
            found.append(grad.flatten())
    exact, rounded = found
    return bool(torch.cosine_similarity(exact, rounded, dim=0) > 0.99)  # false for NaN, too


def _refuse_shallow(conv: Any, given: tuple[torch.Tensor, ...]) -> None:
    learns = torch.is_grad_enabled() and conv.weight.requires_grad
    if learns and 1 < given[0].shape[2] < conv.kernel_size[0]:
        raise MedsslError(
            f"--precision bf16 came with a 3D feature map of {tuple(given[0].shape[2:])} voxels, on the CPU: this torch "
            f"({torch.__version__}) computes wrong gradients for maps less deep than the kernel; use --precision 32-true, a "
            f"deeper --crop, or a GPU"
        )


def estimate(module: nn.Module, batch: dict[str, Any], steps: int, trainer: pl.Trainer, step: Any) -> dict[str, float]:
    """Seconds and MiB that `steps` more steps will take, from three steps on a copy of the module."""
    device = trainer.strategy.root_device
    trial = copy.deepcopy(module).to(device).train()
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        with trainer.strategy.precision_plugin.forward_context():
            loss = step(trial, dict(moved))
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
    return {"seconds": steps * min(times[1:]), "memory_mib": (used + 2 * weights) / 2**20}


def _peak_rss() -> int:
    """Bytes of memory the process has held at most; where the system does not say, what it holds now."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def quiet_third_parties() -> None:
    """Silence what libraries say about settings chosen here on purpose, or about their own insides."""
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
