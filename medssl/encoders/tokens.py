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

    @property
    def encodes_patches(self) -> bool:
        """Whether this one does; False where a family has networks without patches too."""
        return True

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


class RotaryBlock(nn.TransformerEncoderLayer):
    """A pre-norm block of torch whose queries and keys are turned by their places, with torch's fused attention.

    Its weights have the names of torch's own block.
    """

    def forward(self, src: Tensor, turns: Tensor, prefix: int = 0, attend: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The tokens after the block.

        Args:
            src: (B, P + N, D).
            turns: (B or 1, N, D of a head), what `rotations` returned.
            prefix: P, the number of tokens that have no place.
            attend: (B, P + N, P + N), True where token i may attend to token j.
        """
        attention: Any = self.self_attn
        x = nn.functional.linear(self.norm1(src), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = x.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (torch.cat([t[:, :, :prefix], turn(t[:, :, prefix:], turns[:, None])], dim=2) for t in (q, k))
        mask = None if attend is None else attend[:, None]
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        src = src + attention.out_proj(seen.transpose(1, 2).flatten(2))
        return src + self.linear2(self.activation(self.linear1(self.norm2(src))))


def rotations(grid: Sequence[int], width: int, device: torch.device | None = None) -> Tensor:
    """(N, width) angles of rotary positions along each axis (Heo et al., ECCV 2024, arXiv 2403.13298: axial, base 100).

    Each axis turns an equal share of the pairs of a head's numbers; what cannot be shared stays 0. Places are counted in patches.

    Args:
        grid: Patches along each axis.
        width: Width of a head, even.
        device: Where the result lies; the CPU by default.
    """
    count = width // (2 * len(grid))
    frequencies = 1 / 100 ** (torch.arange(count, device=device, dtype=torch.float32) / max(count, 1))
    places = torch.cartesian_prod(*[torch.arange(n, device=device, dtype=torch.float32) for n in grid])
    angles = (places.reshape(-1, len(grid), 1) * frequencies).flatten(1)
    return nn.functional.pad(angles, (0, width // 2 - angles.shape[1])).repeat_interleave(2, -1)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Each pair of numbers (a, b) turned by its angle: (a cos - b sin, b cos + a sin).

    Args:
        x: (..., D).
        angles: (..., D), the same for both numbers of a pair.
    """
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * angles.cos().to(x.dtype) + swapped * angles.sin().to(x.dtype)


def with_prefix(attend: Tensor, prefix: int) -> Tensor:
    """The mask with tokens before the patches: they attend to each other alone, and every patch to them.

    Args:
        attend: (B, N, N), True where patch i may attend to patch j.
        prefix: P, the number of tokens before the patches.

    Returns:
        (B, P + N, P + N).
    """
    whole = nn.functional.pad(attend, (prefix, 0, prefix, 0))
    whole[..., :prefix] = True
    return whole


def blocks(width: int, depth: int, heads: int, rotary: bool = False) -> nn.ModuleList:
    """Pre-norm transformer blocks of torch, with fused attention, initialised as in MAE (He et al. 2022).

    Args:
        width: Length of a token.
        depth: Number of blocks.
        heads: Attention heads of a block; they divide `width`.
        rotary: Whether they are `RotaryBlock`s.
    """
    kind = RotaryBlock if rotary else nn.TransformerEncoderLayer
    layers = nn.ModuleList(
        kind(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(depth)
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
