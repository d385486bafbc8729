"""Vision transformer in 2D and 3D (Dosovitskiy et al., ICLR 2021; arXiv 2010.11929), for crops of any size.

ViT(dims=2, patch=16, width=768, depth=12, heads=12)   # ViT-B/16
ViT(dims=3, patch=(8, 8, 4))                           # thick slices, on a CPU
tokens = ViT(dims=3).tokens(x, keep)                   # (B, K, width): only the kept patches are encoded

Positions are sines and cosines, computed for the grid of each crop, so that a crop of another size needs no interpolation.
There is no class token: `forward` averages the patches, which is as good (He et al. 2022, table 9). The finer levels of the
pyramid are transposed convolutions of the last token map (Li et al., Exploring plain vision transformer backbones, ECCV 2022;
arXiv 2203.16527). Only `features` uses them: a pretext task on tokens or vectors leaves them at their initial values, and
segmentation trains them.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.finer import add_finer, finer_channels, finer_levels, finer_strides
from medssl.encoders.tokens import TokenEncoder, blocks, positions, run_blocks, take, to_patches


class ViT(TokenEncoder):
    """A vision transformer; by default ViT-Ti (Touvron et al. 2021) at half its depth, for crops of 32 to 96 voxels.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        patch: Voxels along the edge of a patch, a power of two: one number, or one for each axis.
        width: Length of a token; 8 and `heads` divide it.
        depth: Number of transformer blocks.
        heads: Attention heads of a block.

    Raises:
        MedsslError: The patch, width, heads or depth is not one of these.
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
        channels = finer_channels(width, strides)
        super().__init__(dims, in_channels, channels, strides)
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.embed = nn.Linear(in_channels * math.prod(edges), width)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.finer = finer_levels(dims, channels, strides)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        self.check_size(x.shape[2:])
        patches, places = to_patches(x, self.strides[-1]), positions(self.grid(x.shape[2:]), self.width, x.device)
        if keep is not None:
            patches, places = take(patches, keep), places[keep]
        return self.norm(run_blocks(self.blocks, self.embed(patches) + places, attend))

    def layers(self) -> list[nn.Module]:
        return [self.embed, *self.blocks, nn.ModuleList([self.norm, self.finer])]

    def features(self, x: Tensor) -> list[Tensor]:
        return add_finer(self.finer, self.tokens(x).transpose(1, 2).unflatten(2, self.grid(x.shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)  # the coarsest level, averaged: the finer ones are not computed
