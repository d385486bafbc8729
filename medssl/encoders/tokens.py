"""Encoders of patches (tokens), and the parts that they share with methods that mask or predict patches.

tokens = ViT(dims=3).tokens(x, keep)                   # (B, K, width): only the kept patches are encoded
patches = to_patches(x, (8, 8, 8))                     # (B, N, C * 512)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder


class TokenEncoder(Encoder):
    """An encoder of patches, each as large as the coarsest stride, that can encode some of them alone."""

    @abstractmethod
    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        """Encode all patches, or some of them.

        Args:
            x: (B, in_channels, *S).
            keep: (B, K) numbers of the patches to encode, the same count in each sample; all of them by default.
            attend: (B, N, N), True where patch i may attend to patch j.

        Returns:
            (B, N, out_dim), patches in raster order, or (B, K, out_dim).
        """

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """The number of patches that a crop has along each axis."""
        return tuple(n // p for n, p in zip(size, self.strides[-1]))


def to_patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """The voxels of each patch: (B, C, *S) -> (B, N, C * voxels of a patch), channel by channel.

    Args:
        x: (B, C, *S).
        patch: Voxels of a patch along each axis; they divide S.

    Returns:
        Patches in raster order, the last axis fastest.
    """
    grid, dims = [n // p for n, p in zip(x.shape[2:], patch)], len(patch)
    split = x.reshape(*x.shape[:2], *[n for pair in zip(grid, patch) for n in pair])
    in_order = split.permute(0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2))
    return in_order.flatten(1 + dims).flatten(1, dims)


def from_patches(patches: Tensor, patch: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The inverse of `to_patches`.

    Args:
        patches: (B, N, C * voxels of a patch).
        patch: Voxels of a patch along each axis.
        grid: Patches along each axis.

    Returns:
        (B, C, *S).
    """
    dims = len(grid)
    apart = patches.reshape(len(patches), *grid, -1, *patch)
    order = [0, 1 + dims, *[axis for i in range(dims) for axis in (1 + i, 2 + dims + i)]]
    return apart.permute(order).reshape(len(patches), apart.shape[1 + dims], *[g * p for g, p in zip(grid, patch)])


def take(tokens: Tensor, numbers: Tensor) -> Tensor:
    """The tokens of the given numbers, (B, K, D).

    Args:
        tokens: (B, N, D).
        numbers: (B, K) int64, which of the N tokens, in each sample.
    """
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[2]))


def positions(grid: Sequence[int], width: int, device: torch.device | None = None) -> Tensor:
    """(N, width) sines and cosines of each patch's position in the grid (Vaswani et al. 2017).

    Each axis has an equal share of the width, and the rest is 0. Positions are counted in patches, whatever the size of
    the crop.

    Args:
        grid: Patches along each axis.
        width: Length of a position's vector.
        device: Where the result lies; the CPU by default.
    """
    count = width // (2 * len(grid))
    frequencies = 1 / 10000 ** (torch.arange(count, device=device, dtype=torch.float32) / count)
    places = torch.cartesian_prod(*[torch.arange(n, device=device, dtype=torch.float32) for n in grid])
    angles = places.reshape(-1, len(grid), 1) * frequencies  # (N, axes, count)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return nn.functional.pad(waves, (0, width - waves.shape[1]))


def resize_positions(table: Tensor, made_for: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Learned positions for another grid of patches, interpolated linearly; unchanged for their own grid.

    Args:
        table: (1, N, D), in raster order.
        made_for: Patches along each axis, N in all.
        grid: Patches along each axis of the crop.

    Returns:
        (1, patches of the crop, D).
    """
    if tuple(made_for) == tuple(grid):
        return table
    maps = table.transpose(1, 2).unflatten(2, tuple(made_for))
    mode = "bilinear" if len(made_for) == 2 else "trilinear"
    return nn.functional.interpolate(maps, size=tuple(grid), mode=mode, align_corners=False).flatten(2).transpose(1, 2)


def blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    """Pre-norm transformer blocks of torch, with fused attention, initialised as in MAE (He et al. 2022).

    Args:
        width: Length of a token.
        depth: Number of blocks.
        heads: Attention heads of a block; they divide `width`.
    """
    layers = nn.ModuleList(
        nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(depth)
    )
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return layers


def run_blocks(layers: nn.ModuleList, tokens: Tensor, attend: Tensor | None = None) -> Tensor:
    """The tokens after all blocks, (B, N, D).

    Args:
        layers: What `blocks` returned.
        tokens: (B, N, D).
        attend: (B, N, N), True where token i may attend to token j; everywhere by default.
    """
    mask = None
    if attend is not None:
        attention: Any = layers[0].self_attn
        mask = ~attend.repeat_interleave(attention.num_heads, dim=0)  # torch masks what must not be attended to
    for layer in layers:
        tokens = layer(tokens, src_mask=mask)
    return tokens
