"""Several devices: how many there are, how they train together, and batch norm over the samples of all of them.

    devices = find_devices(hardware)
    pl.Trainer(devices=devices.count, strategy=devices.strategy, plugins=[SharedNorms(devices.kind)])

A run on several devices is the run on one device with the same global batch (`--batch-size` x devices): a step's samples and
views are the same, losses are those of the whole batch (`methods/shared/devices.py`), and so are the statistics of batch
norm. `tests/training/two_processes.py` compares every method.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.methods.shared.devices import gather_all
from medssl.training.config import Hardware

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Devices:
    """What a training runs on.

    Attributes:
        count: How many there are.
        kind: "cpu", "cuda" or another of torch's names.
    """

    count: int
    kind: str

    @property
    def strategy(self) -> str:
        """The name of Lightning's strategy.

        A method may leave weights of its encoder without a gradient (the finer levels of a ViT in MAE): on several devices
        that must be looked for at each step.
        """
        if self.count == 1:
            return "auto"
        return f"{'ddp_notebook' if hasattr(sys, 'ps1') else 'ddp'}_find_unused_parameters_true"


def find_devices(hardware: Hardware) -> Devices:
    """The devices that `hardware` means on this machine.

    Args:
        hardware: Its `devices` may be "auto".

    Raises:
        MedsslError: The machine has no such devices.
    """
    off: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    try:
        trainer = pl.Trainer(
            accelerator=hardware.accelerator, devices=hardware.devices, enable_model_summary=False, **off
        )
        return Devices(trainer.num_devices, trainer.strategy.root_device.type)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise MedsslError(
            f"--accelerator {hardware.accelerator} --devices {hardware.devices}: expected devices of this machine; see medssl "
            f"doctor, or pass --accelerator auto --devices auto ({str(error).splitlines()[0]})"
        ) from None


def check_same_devices(out: Path, parts: dict[str, Any], resume: bool) -> None:
    """Raise MedsslError if `out` holds this run on another number of devices: its global batch was another one.

    Args:
        out: Folder of a run, or of none yet.
        parts: What the id of the run about to start is made of, see `runs.identity`.
        resume: Whether an unfinished run would be continued.
    """
    if not (out / "run.json").exists():
        return
    present, devices = runs.read(out), parts["config"]["devices"]
    before = present.config.get("devices")
    config = parts["config"] | {"devices": before}
    continued = present.status == "finished" or (resume and (out / "last.ckpt").exists())
    if before != devices and continued and present.id == runs.identity(**parts | {"config": config}):
        raise MedsslError(
            f"{out.name} holds this run on --devices {before}, and --devices {devices} came in: expected the same number, "
            f"because a step takes --batch-size scans on each device; pass --devices {before}, or another --out"
        )


class SharedBatchNorm(_BatchNorm):
    """Batch norm on CPUs whose statistics, in training, are those of the samples of all devices; each has as many of them.

    torch's `SyncBatchNorm` does this on GPUs alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), normalised over the samples of all devices."""
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [0, *range(2, x.ndim)]
        means, variances = gather_all(torch.stack([x.mean(axes), x.var(axes, correction=0)])[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)  # within the devices, and between them
        self._move_running(mean.detach(), variance.detach(), len(means) * x.numel() // x.shape[1])
        shape = [1, -1, *[1] * (x.ndim - 2)]
        normalised = (x - mean.reshape(shape)) * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            normalised = normalised * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _move_running(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Move the running statistics as torch's batch norm does, towards the unbiased variance of so many values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * values / max(1, values - 1)).to(self.running_var.dtype), share)


class SharedNorms(LayerSync):
    """While a model trains on several devices its batch norms share their statistics; afterwards they are as they were.

    Args:
        kind: Of the devices, see `Devices`.

    Raises:
        MedsslError: A batch norm is of a class that does more than torch's, so it cannot be replaced.
    """

    def __init__(self, kind: str) -> None:
        self.norm = SharedBatchNorm if kind == "cpu" else nn.SyncBatchNorm
        self.originals: dict[nn.Module, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        shared: dict[nn.Module, nn.Module] = {}
        shared |= {norm: share(norm, self.norm) for norm in model.modules() if isinstance(norm, _BatchNorm)}
        replace_modules(model, shared)
        self.originals = {new: old for old, new in shared.items()}
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        replace_modules(model, self.originals)
        return model


def share(norm: _BatchNorm, kind: type[SharedBatchNorm | nn.SyncBatchNorm]) -> _BatchNorm:
    """A batch norm of another kind with the very weights and running statistics of a given one.

    Args:
        norm: The batch norm.
        kind: The class of the new one.
    """
    if type(norm) not in PLAIN:
        raise MedsslError(
            f"the encoder's {type(norm).__name__} cannot share its statistics between devices: expected torch's BatchNorm1d, "
            f"2d or 3d; pass --devices 1, or use such a norm"
        )
    shared = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    shared._parameters, shared._buffers, shared.training = norm._parameters, norm._buffers, norm.training
    return shared


def replace_modules(model: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Put other modules in the place of some, wherever a part of the model holds them.

    Args:
        model: Changed in place.
        new: What takes a module's place.
    """
    for part in list(model.modules()):
        for name, child in list(part._modules.items()):
            if child in new:
                setattr(part, name, new[child])
