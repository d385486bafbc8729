"""The transformer of UNETR in 2D and 3D (Hatamizadeh et al., WACV 2022; arXiv 2103.10504), MONAI's own ViT.

    UNETR(dims=3, size=(96, 96, 96))                       # ViT-B/16, as published

`net` is MONAI's ViT: what MONAI's UNETR calls `vit.X` is `net.X` here. It has one learned position for each patch of the size that
it was made for; for another crop they are interpolated. The finer levels are those of our ViT, see `finer.py`.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.vit import ViT as MonaiViT
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.finer import add_finer, finer_channels, finer_levels, finer_strides
from medssl.encoders.foreign import part_of
from medssl.encoders.tokens import TokenEncoder, resize_positions, take


class UNETR(TokenEncoder):
    """MONAI's vision transformer with learned positions.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        size: Voxels along each axis of the crop that the positions are for; 96 by default.
        patch: Voxels along the edge of a patch, a power of two.
        width: Length of a token.
        depth: Number of transformer blocks.
        heads: Attention heads of a block; they divide `width`.

    Raises:
        MedsslError: The patch does not divide the size, or the heads do not divide the width.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        size: tuple[int, ...] | None = None,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        size = tuple(size or (96,) * dims)
        if len(size) != dims or any(n % patch for n in size) or width % heads:
            raise MedsslError(
                f"size is {size}, patch {patch}, width {width}, heads {heads}: expected {dims} sizes that the patch divides, and "
                f"a width that the heads divide"
            )
        strides = finer_strides((patch,) * dims)
        channels = finer_channels(width, strides)
        super().__init__(dims, in_channels, channels, strides)
        self.size, self.patch, self.width, self.depth, self.heads = size, patch, width, depth, heads
        self.net: Any = MonaiViT(in_channels, size, patch, width, 4 * width, depth, heads, spatial_dims=dims)
        block: Any
        for block in self.net.blocks:
            block.norm_cross_attn.requires_grad_(False)  # MONAI builds it and never calls it
            block.attn.use_flash_attention = True  # torch's fused attention, which also takes a mask
        self.finer = finer_levels(dims, channels, strides)

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        self.check_size(x.shape[2:])
        embedding = self.net.patch_embedding
        tokens = embedding.patch_embeddings(x).flatten(2).transpose(1, 2)
        tokens = tokens + resize_positions(embedding.position_embeddings, self.grid(self.size), self.grid(x.shape[2:]))
        tokens = embedding.dropout(tokens if keep is None else take(tokens, keep))
        mask = None if attend is None else attend[:, None]
        for block in self.net.blocks:
            tokens = block(tokens, attn_mask=mask)
        return self.net.norm(tokens)

    def features(self, x: Tensor) -> list[Tensor]:
        return add_finer(self.finer, self.tokens(x).transpose(1, 2).unflatten(2, self.grid(x.shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x).mean(1)

    def layers(self) -> list[nn.Module]:
        names = [name for name, weight in self.net.named_parameters() if weight.requires_grad]
        stem = [name for name in names if name.startswith("patch_embedding.")]
        blocks = [[n for n in names if n.startswith(f"blocks.{i}.")] for i in range(self.depth)]
        parts = [part_of(self.net, group) for group in (stem, *blocks)]
        return [*parts, nn.ModuleList([self.net.norm, self.finer])]
