"""Primus, the vision transformer of nnU-Net (Wald et al. 2025, arXiv 2503.01835), in 3D, its authors' own network.

    Primus(preset="M", size=(160, 160, 160))               # OpenMind's PrimusM
    Primus(width=1056, depth=40, heads=16)                 # nnFoundationViT

`net` is the network of dynamic-network-architectures with its own names (`down_projection.*`, `eva.*`), without the decoder. It has
learned positions, interpolated for another crop than `size`, and rotary ones, scaled to the crop as timm scales them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from dynamic_network_architectures.architectures.primus import _PRIMUS_CONFIGS
from dynamic_network_architectures.architectures.primus import Primus as OriginalPrimus
from timm.layers import build_rotary_pos_embed
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.finer import add_finer, finer_channels, finer_levels, finer_strides
from medssl.encoders.tokens import TokenEncoder, resize_positions, take


class Primus(TokenEncoder):
    """The transformer of Primus: EVA-02 blocks with SwiGLU, learned and rotary positions.

    Args:
        dims: 3: it takes volumes.
        in_channels: Channels of a scan.
        size: Voxels along each axis of the crop that the learned positions are for.
        patch: Voxels along the edge of a patch, a power of two.
        preset: S, B, M or L: the published width, depth and heads; they replace the next three.
        width: Length of a token; an even multiple of 6 for each head.
        depth: Number of transformer blocks.
        heads: Attention heads of a block.
        drop_path: Share of the blocks that are left out in training, for the last block.

    Raises:
        MedsslError: The width does not suit the heads, or the patch does not divide the size.
    """

    allowed_dims: ClassVar[tuple[int, ...]] = (3,)

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        size: tuple[int, ...] = (96, 96, 96),
        patch: int = 8,
        preset: Literal["S", "B", "M", "L"] | None = None,
        width: int = 396,
        depth: int = 12,
        heads: int = 6,
        drop_path: float = 0.0,
    ):
        self.check_arguments(dims, in_channels)
        if preset is not None:
            config = _PRIMUS_CONFIGS[preset]
            width, depth, heads = config["embed_dim"], config["eva_depth"], config["eva_numheads"]
        if width % (6 * heads) or len(size) != 3 or any(n % patch for n in size):
            raise MedsslError(
                f"width is {width}, heads {heads}, size {tuple(size)}, patch {patch}: expected a width that 6 x heads divides, for "
                f"rotary positions along three axes, and three sizes that the patch divides"
            )
        strides = finer_strides((patch,) * 3)
        channels = finer_channels(width, strides)
        super().__init__(dims, in_channels, channels, strides)
        self.size, self.patch, self.width, self.depth, self.heads = tuple(size), patch, width, depth, heads
        self.net: Any = OriginalPrimus(
            in_channels, width, (patch,) * 3, 1, depth, heads, input_shape=tuple(size), drop_path_rate=drop_path
        )
        del self.net.up_projection
        self.finer = finer_levels(dims, channels, strides)

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        self.check_size(x.shape[2:])
        eva, grid = self.net.eva, self.grid(x.shape[2:])
        tokens = self.net.down_projection(x).flatten(2).transpose(1, 2)
        tokens = tokens + resize_positions(eva.pos_embed, self.grid(self.size), grid)
        rotary = self._rotary(grid, tokens)
        if keep is not None:
            tokens, rotary = take(tokens, keep), rotary[keep][:, None]  # (B, 1, K, 2 * a head's width)
        mask = None if attend is None else attend[:, None]
        for block in eva.blocks:
            tokens = block(tokens, rope=rotary, attn_mask=mask)
        return eva.norm(tokens)

    def _rotary(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        """(N, 2 * a head's width): sines and cosines for each patch; the original's own for its own grid."""
        rope, made_for = self.net.eva.rope, self.grid(self.size)
        if grid == made_for:
            return rope.get_embed()
        waves = build_rotary_pos_embed(
            list(grid),
            dim=rope.dim,
            in_pixels=False,
            ref_feat_shape=list(made_for),
            device=like.device,
            dtype=torch.float32,
        )
        return torch.cat(waves, -1)

    def features(self, x: Tensor) -> list[Tensor]:
        return add_finer(self.finer, self.tokens(x).transpose(1, 2).unflatten(2, self.grid(x.shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)

    def layers(self) -> list[nn.Module]:
        stem = nn.Module()
        stem.add_module("down_projection", self.net.down_projection)
        stem.register_parameter("pos_embed", self.net.eva.pos_embed)
        return [stem, *self.net.eva.blocks, nn.ModuleList([self.net.eva.norm, self.finer])]
