"""Vision transformer in 2D and 3D (Dosovitskiy et al., ICLR 2021; arXiv 2010.11929), for crops of any size.

ViT(dims=2, patch=16, width=768, depth=12, heads=12)   # ViT-B/16
ViT(dims=3, patch=(8, 8, 4))                           # thick slices, on a CPU
tokens = ViT(dims=3).tokens(x, keep)                   # (B, K, width): only the kept patches are encoded

Positions are sines and cosines of the patch's place, computed for the grid at hand, so that a crop of another size needs
no interpolation. There is no class token: `forward` averages the patches, which is as good (He et al. 2022, table 9) and
leaves one way to read a scan. The finer levels of the pyramid are transposed convolutions of the last token map (Li et
al., Exploring plain vision transformer backbones, ECCV 2022; arXiv 2203.16527). They belong to `features` alone: a
pretext that looks at tokens or vectors leaves them as they were drawn, and segmentation learns them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import TokenEncoder


class ViT(TokenEncoder):
    """patch: voxels of a patch's edge, powers of two, one number or one an axis. width: length of a token.

    The default is ViT-Ti (Touvron et al. 2021) at half its depth, with patches for crops of 32 to 96 voxels.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        patch: int | tuple[int, ...] = 8,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
    ):
        edges = (patch,) * dims if isinstance(patch, int) else tuple(patch)
        if len(edges) != dims or max(edges) < 2 or any(n < 1 or n & (n - 1) for n in edges):
            raise MedsslError(
                f"patch is {patch}: expected a power of two (2, 4, 8, 16, ...), or one for each of {dims} axes"
            )
        if width % 8 or heads < 1 or width % heads or depth < 1:
            raise MedsslError(
                f"width is {width}, heads {heads}, depth {depth}: expected a width that 8 and the heads divide, and a "
                f"depth of 1 or more"
            )
        strides = finer_strides(edges)
        channels = [max(8, width // 2**i) for i in reversed(range(len(strides)))]
        super().__init__(dims, in_channels, channels, strides)
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.embed = nn.Linear(in_channels * math.prod(edges), width)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.finer = nn.ModuleList(
            _up(dims, channels[i + 1], channels[i], [b // a for a, b in zip(strides[i], strides[i + 1])])
            for i in reversed(range(len(strides) - 1))
        )
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        self.check_size(x.shape[2:])
        patches, places = to_patches(x, self.strides[-1]), positions(self.grid(x.shape[2:]), self.width, x.device)
        if keep is not None:
            patches, places = take(patches, keep), places[keep]
        return self.norm(run_blocks(self.blocks, self.embed(patches) + places, attend))

    def features(self, x: Tensor) -> list[Tensor]:
        levels = [self.tokens(x).transpose(1, 2).unflatten(2, self.grid(x.shape[2:]))]
        for up in self.finer:
            levels.append(up(levels[-1]))
        return levels[::-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)  # the coarsest level, averaged, without the finer ones


def blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    """`depth` pre-norm transformer blocks, initialised as in MAE; torch's own, with fused attention."""
    made = nn.ModuleList(
        nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(depth)
    )
    for module in made.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return made


def run_blocks(layers: nn.ModuleList, tokens: Tensor, attend: Tensor | None = None) -> Tensor:
    """(B, N, D) through the blocks; `attend` (B, N, N) is True where token i may look at token j."""
    mask = None
    if attend is not None:
        attention: Any = layers[0].self_attn
        mask = ~attend.repeat_interleave(attention.num_heads, dim=0)  # torch's masks say what may not be seen
    for layer in layers:
        tokens = layer(tokens, src_mask=mask)
    return tokens


def positions(grid: Sequence[int], width: int, device: torch.device | None = None) -> Tensor:
    """(N, width) sines and cosines of each patch's place, an equal share of the width an axis (Vaswani et al. 2017).

    What the axes cannot share evenly stays 0. Places count in patches, whatever the size of the crop.
    """
    count = width // (2 * len(grid))
    speeds = 1 / 10000 ** (torch.arange(count, device=device, dtype=torch.float32) / count)
    places = torch.cartesian_prod(*[torch.arange(n, device=device, dtype=torch.float32) for n in grid])
    angles = places.reshape(-1, len(grid), 1) * speeds  # (N, axes, count)
    found = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return nn.functional.pad(found, (0, width - found.shape[1]))


def to_patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, N, C * voxels of a patch): patches in raster order, the last axis fastest; channel by channel."""
    grid, dims = [n // p for n, p in zip(x.shape[2:], patch)], len(patch)
    split = x.reshape(*x.shape[:2], *[n for pair in zip(grid, patch) for n in pair])
    return (
        split.permute(0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2)).flatten(1 + dims).flatten(1, dims)
    )


def from_patches(patches: Tensor, patch: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The inverse of `to_patches`: (B, N, C * voxels of a patch) -> (B, C, *S)."""
    dims = len(grid)
    apart = patches.reshape(len(patches), *grid, -1, *patch)
    order = [0, 1 + dims, *[axis for i in range(dims) for axis in (1 + i, 2 + dims + i)]]
    return apart.permute(order).reshape(len(patches), apart.shape[1 + dims], *[g * p for g, p in zip(grid, patch)])


def take(tokens: Tensor, which: Tensor) -> Tensor:
    """(B, N, D) and numbers of tokens (B, K) -> (B, K, D)."""
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[2]))


def finer_strides(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """The pyramid's strides, fine to coarse: halved from the patch until none is above 2."""
    strides = [tuple(patch)]
    while max(strides[0]) > 2:
        strides.insert(0, tuple(n // 2 if n == max(strides[0]) else n for n in strides[0]))
    return strides


def _up(dims: int, source: int, target: int, ratio: Sequence[int]) -> nn.Module:
    kind: Any = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return nn.Sequential(kind(source, target, tuple(ratio), tuple(ratio)), norm(target, affine=True), nn.GELU())
