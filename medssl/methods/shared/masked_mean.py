"""Shared by losses that count some voxels only: a mean over what a mask marks."""

from __future__ import annotations

from torch import Tensor

from medssl.methods.shared.devices import device_count, sum_over_devices


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x over the voxels where `mask` is 1; 0 if there are none.

    On several devices the mean of what they return is the mean over the voxels of all: each divides by their mean number.

    Args:
        x: (B, C, *S), or any other shape.
        mask: 0 or 1, of x's shape or one that broadcasts to it, such as (B, 1, *S).
    """
    count = sum_over_devices(mask.expand_as(x).sum().detach()).clamp(min=1) / device_count()
    return (x * mask).sum() / count
