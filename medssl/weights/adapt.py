"""Tensors brought to an encoder of other axes, channels, dimensions or crops than they were trained with.

reversed_axes(kernel)                              # (O, I, Z, Y, X) -> (O, I, X, Y, Z)
with_channels(kernel, 2)                           # (O, 3, *K) -> (O, 2, *K)
inflated(kernel, 7)                                # (O, I, H, W) -> (O, I, X, Y, Z)
resampled(positions, (14, 14), (32, 32))           # (1, 196, D) -> (1, 1024, D)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def reversed_axes(kernel: Tensor) -> Tensor:
    """The kernel for scans whose spatial axes are in the reverse order: (O, I, *K) -> (O, I, *reversed K).

    nnU-Net and nnssl see volumes as (Z, Y, X), medssl as (X, Y, Z).

    Args:
        kernel: Weights of a convolution; what has no spatial axis stays as it is.
    """
    if kernel.ndim < 4:
        return kernel
    return kernel.permute(0, 1, *range(kernel.ndim - 1, 1, -1)).contiguous()


def with_channels(kernel: Tensor, channels: int) -> Tensor:
    """The first convolution for another number of channels: the mean over its own, shared out evenly over the new ones.

    The sum over the channels stays the same, so that equal channels give what one channel, repeated, gave before.

    Args:
        kernel: (O, I, *K).
        channels: Channels that it shall take.
    """
    if kernel.shape[1] == channels:
        return kernel
    total = kernel.sum(1, keepdim=True)
    return (total / channels).expand(-1, channels, *kernel.shape[2:]).contiguous()


def inflated(kernel: Tensor, depth: int) -> Tensor:
    """A kernel of images as one of volumes: repeated along the third axis and divided by its length (Carreira and Zisserman 2017).

    A volume that is the same in every slice then gives what the slice gave, away from its first and last slices. Rows of an image
    run along Y of a volume and columns along X, as in an axial slice on a screen.

    Args:
        kernel: (O, I, H, W).
        depth: Length of the kernel along Z.

    Returns:
        (O, I, X, Y, Z).
    """
    volume = kernel.transpose(2, 3)[..., None] / depth
    return volume.expand(*volume.shape[:-1], depth).contiguous()


def resampled(positions: Tensor, grid: Sequence[int], wanted: Sequence[int], prefix: int = 0) -> Tensor:
    """Learned positions of patches for another grid, by interpolation.

    Args:
        positions: (1, prefix + N, D), patches in raster order.
        grid: Patches along each axis that the positions were learned for.
        wanted: Patches along each axis that they are needed for.
        prefix: Number of class tokens and registers in front, which stay as they are.

    Returns:
        (1, prefix + M, D).
    """
    front, patches = positions[:, :prefix], positions[:, prefix:]
    if tuple(grid) == tuple(wanted) or patches.shape[1] != math.prod(grid):
        return positions
    maps = patches.transpose(1, 2).unflatten(2, tuple(grid)).float()
    new = F.interpolate(maps, size=tuple(wanted), mode=MODES[len(grid)], align_corners=False)
    return F.pad(new.flatten(2).transpose(1, 2).to(positions.dtype), (0, 0, prefix, 0)) + F.pad(
        front, (0, 0, 0, math.prod(wanted))
    )
