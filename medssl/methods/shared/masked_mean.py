"""Shared by losses that count some voxels only: a mean over what a mask marks."""

from __future__ import annotations

from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x over the voxels where `mask` is 1; 0 if there are none.

    Args:
        x: (B, C, *S), or any other shape.
        mask: 0 or 1, of x's shape or one that broadcasts to it, such as (B, 1, *S).
    """
    return (x * mask).sum() / mask.expand_as(x).sum().clamp(min=1)
