"""Vision transformer in 2D and 3D (Dosovitskiy et al., ICLR 2021; arXiv 2010.11929), for crops of any size.

ViT(dims=2, patch=16, width=768, depth=12, heads=12)   # ViT-B/16
ViT(dims=3, patch=(8, 8, 4))                           # thick slices, on a CPU
ViT(dims=3, positions="rotary", registers=4)
tokens = ViT(dims=3).tokens(x, keep)                   # (B, K, width): only the kept patches are encoded

Positions are sines and cosines, added to the patches, or rotary: turns of queries and keys (Su et al. 2021, arXiv 2104.09864). Both
are computed for the grid of each crop, so that a crop of another size needs no interpolation. Registers are learned tokens
beside the patches, where a large ViT keeps what is global (Darcet et al., ICLR 2024, arXiv 2309.16588). Attention is torch's fused one.
There is no class token: `forward` averages the patches, which is as good (He et al. 2022, table 9). The finer levels of the
pyramid are transposed convolutions of the last token map (Li et al., Exploring plain vision transformer backbones, ECCV 2022;
arXiv 2203.16527). Only `features` uses them: a pretext task on tokens or vectors leaves them at their initial values, and
segmentation trains them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.finer import add_finer, finer_channels, finer_levels, finer_strides
from medssl.encoders.tokens import (
    TokenEncoder,
    blocks,
    positions,
    rotations,
    run_blocks,
    take,
    to_patches,
    with_prefix,
)


class ViT(TokenEncoder):
    """A vision transformer; by default ViT-Ti (Touvron et al. 2021) at half its depth, for crops of 32 to 96 voxels.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        patch: Voxels along the edge of a patch, a power of two: one number, or one for each axis.
        width: Length of a token; 8 and `heads` divide it.
        depth: Number of transformer blocks.
        heads: Attention heads of a block.
        positions: "sine" or "rotary"; rotary needs an even width of a head.
        registers: Learned tokens beside the patches, which are left out of the result.

    Raises:
        MedsslError: The patch, width, heads, depth or registers is not one of these.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        patch: int | tuple[int, ...] = 8,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        positions: Literal["sine", "rotary"] = "sine",
        registers: int = 0,
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
        turned = width // heads  # numbers of a head
        if registers < 0 or (positions == "rotary" and (turned < 2 * dims or turned % 2)):
            raise MedsslError(
                f"registers is {registers}, positions {positions}, a head's width {turned}: expected 0 registers or more, and for "
                f"rotary positions heads of an even width, {2 * dims} or more"
            )
        strides = finer_strides(edges)
        channels = finer_channels(width, strides)
        super().__init__(dims, in_channels, channels, strides)
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.embed = nn.Linear(in_channels * math.prod(edges), width)
        self.positions = positions
        self.blocks = blocks(width, depth, heads, rotary=positions == "rotary")
        self.norm = nn.LayerNorm(width)
        self.finer = finer_levels(dims, channels, strides)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        self.registers = nn.Parameter(0.02 * torch.randn(1, registers, width)) if registers else None

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        self.check_size(x.shape[2:])
        grid, patches = self.grid(x.shape[2:]), to_patches(x, self.strides[-1])
        tokens = self.embed(patches if keep is None else take(patches, keep))
        if self.positions == "sine":
            tokens = tokens + _placed(positions(grid, self.width, x.device), keep)
        prefix = 0 if self.registers is None else self.registers.shape[1]
        if self.registers is not None:
            tokens = torch.cat([self.registers.expand(len(x), -1, -1), tokens], dim=1)
            attend = None if attend is None else with_prefix(attend, prefix)
        if self.positions == "sine":
            tokens = run_blocks(self.blocks, tokens, attend)
        else:
            turns = _placed(rotations(grid, self.width // self.heads, x.device), keep)
            for block in self.blocks:
                tokens = block(tokens, turns, prefix, attend)
        return self.norm(tokens)[:, prefix:]

    def layers(self) -> list[nn.Module]:
        stem = nn.ModuleList([self.embed])
        if self.registers is not None:
            stem.register_parameter("registers", self.registers)
        return [stem, *self.blocks, nn.ModuleList([self.norm, self.finer])]

    def features(self, x: Tensor) -> list[Tensor]:
        return add_finer(self.finer, self.tokens(x).transpose(1, 2).unflatten(2, self.grid(x.shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)  # the coarsest level, averaged: the finer ones are not computed


def _placed(table: Tensor, keep: Tensor | None) -> Tensor:
    """(1, N, D), or (B, K, D): the rows of the patches that are encoded."""
    return table[None] if keep is None else table[keep]
