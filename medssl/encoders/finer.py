"""Levels finer than an encoder's own: transposed convolutions of its finest map, for encoders of patches.

Li et al., Exploring plain vision transformer backbones for object detection, ECCV 2022 (arXiv 2203.16527).

    strides = finer_strides((16, 16))                      # [(2, 2), (4, 4), (8, 8), (16, 16)]
    finer = finer_levels(2, (24, 48, 96, 192), strides)
    pyramid = add_finer(finer, tokens)                     # four levels, fine to coarse
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def finer_strides(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """The strides of the pyramid, fine to coarse: the patch, its longest axes halved while they are even and above 2.

    >>> finer_strides((14, 14))
    [(7, 7), (14, 14)]
    """
    strides = [tuple(patch)]
    while max(strides[0]) > 2 and max(strides[0]) % 2 == 0:
        strides.insert(0, tuple(n // 2 if n == max(strides[0]) else n for n in strides[0]))
    return strides


def finer_channels(width: int, strides: Sequence[Sequence[int]]) -> list[int]:
    """The channels of each level, fine to coarse: `width`, halved with each finer level, 8 or more.

    Args:
        width: Channels of the coarsest level.
        strides: What `finer_strides` returned.
    """
    return [max(8, width // 2**i) for i in reversed(range(len(strides)))]


def finer_levels(dims: int, channels: Sequence[int], strides: Sequence[Sequence[int]]) -> nn.ModuleList:
    """The layers that make each level from the next coarser one, coarse to fine.

    Args:
        dims: 2 for images, 3 for volumes.
        channels: Channels of each level, fine to coarse.
        strides: Strides of each level, fine to coarse.
    """
    return nn.ModuleList(
        _up(dims, channels[i + 1], channels[i], [b // a for a, b in zip(strides[i], strides[i + 1])])
        for i in reversed(range(len(strides) - 1))
    )


def add_finer(layers: nn.ModuleList, coarsest: Tensor) -> list[Tensor]:
    """The pyramid, fine to coarse, whose last level is `coarsest`.

    Args:
        layers: What `finer_levels` returned.
        coarsest: (B, C, *S).
    """
    levels = [coarsest]
    for layer in layers:
        levels.append(layer(levels[-1]))
    return levels[::-1]


def _up(dims: int, source: int, target: int, ratio: Sequence[int]) -> nn.Module:
    kind: Any = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return nn.Sequential(kind(source, target, tuple(ratio), tuple(ratio)), norm(target, affine=True), nn.GELU())
