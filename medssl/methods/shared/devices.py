"""Shared by losses that compare or count the samples of all devices: the one place that talks to torch.distributed.

    keys = gather_all(keys)                     # (B, D) of this device -> (devices * B, D), with gradients
    loss = error.sum() / mean_over_devices(count)

Training on several devices averages the gradients of their losses. So that a run on several devices is the run on one with
the whole batch, each device's loss must be one whose mean over the devices is the loss of the whole batch: what is
divided by must be the same on all of them. Every device must make the same calls in the same order, so none stands in a
branch that depends on a device's own samples: the others would wait for ever.
"""

from __future__ import annotations

import torch
from lightly.utils import dist
from torch import Tensor


def gather_all(x: Tensor) -> Tensor:
    """(B, ...) of this device -> (devices * B, ...), one device after the other, with gradients."""
    return torch.cat(dist.gather(x.contiguous())) if device_count() > 1 else x


def own_rows(x: Tensor) -> Tensor:
    """(B,) int64: where the rows of this device's x lie in `gather_all(x)`."""
    return torch.arange(len(x), device=x.device) + (dist.rank() * len(x) if device_count() > 1 else 0)


def sum_over_devices(x: Tensor) -> Tensor:
    """The sum of x, of any shape but the same on each device, with gradients."""
    return gather_all(x[None]).sum(0)


def mean_over_devices(x: Tensor) -> Tensor:
    """The mean of x, of any shape but the same on each device, with gradients."""
    return sum_over_devices(x) / device_count() if device_count() > 1 else x


def device_count() -> int:
    """The number of devices that train together; 1 where torch was built without support of several."""
    return dist.world_size() if torch.distributed.is_available() else 1
