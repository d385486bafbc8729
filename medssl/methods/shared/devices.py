"""Shared by losses that compare the samples of all devices: the one place that talks to torch.distributed.

keys = gather_all(keys)            # (B, D) of this device -> (devices * B, D), with gradients
"""

from __future__ import annotations

import torch
from lightly.utils import dist
from torch import Tensor


def gather_all(x: Tensor) -> Tensor:
    """(B, ...) of this device -> (devices * B, ...), one device after the other, with gradients."""
    return torch.cat(dist.gather(x)) if dist.world_size() > 1 else x


def own_rows(x: Tensor) -> Tensor:
    """(B,) int64: where the rows of this device's x lie in `gather_all(x)`."""
    return torch.arange(len(x), device=x.device) + dist.rank() * len(x)


def can_gather() -> bool:
    """Whether losses of lightly may gather over devices: its losses refuse to where torch was built without that."""
    return torch.distributed.is_available()


def device_count() -> int:
    """The number of devices that train together."""
    return dist.world_size()


def on_all_devices(condition: Tensor) -> bool:
    """Whether a condition () holds on every device: a branch with a collective call in it must be taken by all or none."""
    return bool(gather_all(condition.float()[None]).all())
