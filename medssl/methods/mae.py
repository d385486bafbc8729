"""Masked autoencoder: encode the few visible patches, let a small decoder predict the many masked ones.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv 2111.06377).

    medssl pretrain --data CACHE --encoder ViT --method MAE --crop 48 48 48

Masked patches never enter the encoder, so a step costs a fraction of one on all patches. Deviations: no class
token; the paper's decoder (8 blocks, 512 wide) belongs to a ViT-L, here it is 4 blocks, 192 wide, for the small default
ViT; air and padding neither count in the loss nor in a patch's mean and variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder, blocks, from_patches, positions, run_blocks, take
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.masked_mean import masked_mean
from medssl.methods.shared.patches import check_mask_kind, check_masks_some, patches_and_body, targets, with_tokens
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.masking import MaskKind, masking_order
from medssl.views.random import derive_keys


class MAE(Method):
    """The mean squared error of the masked patches.

    Args:
        mask_ratio: Share of the patches that is masked.
        mask_kind: How they are chosen, see `medssl.views.masking.masking_order`.
        decoder_depth: Transformer blocks of the decoder.
        decoder_width: Width of the decoder.
        decoder_heads: Attention heads of the decoder.
        normalise: Whether to predict each patch with mean 0 and variance 1, which gave the paper better features.
    """

    encoder: TokenEncoder

    def __init__(
        self,
        encoder: Encoder,
        mask_ratio: float = 0.75,
        mask_kind: MaskKind = "random",
        decoder_depth: int = 4,
        decoder_width: int = 192,
        decoder_heads: int = 3,
        normalise: bool = True,
    ):
        super().__init__(with_tokens(encoder, "MAE"))
        if not 0 < mask_ratio < 1:
            raise MedsslError(f"mask_ratio is {mask_ratio}: expected a share between 0 and 1")
        if decoder_depth < 1 or decoder_heads < 1 or decoder_width < 8 or decoder_width % decoder_heads:
            raise MedsslError(
                f"decoder_depth is {decoder_depth}, decoder_width {decoder_width}, decoder_heads {decoder_heads}: expected "
                f"numbers above 0, and a width of 8 or more that the heads divide"
            )
        self.mask_ratio, self.mask_kind, self.normalise = mask_ratio, mask_kind, normalise
        self.decoder_depth, self.decoder_width, self.decoder_heads = decoder_depth, decoder_width, decoder_heads
        self.patch = encoder.strides[-1]
        self.project = nn.Linear(encoder.out_dim, decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))
        self.blocks = blocks(decoder_width, decoder_depth, decoder_heads)
        self.norm = nn.LayerNorm(decoder_width)
        self.head = nn.Linear(decoder_width, encoder.in_channels * torch.Size(self.patch).numel())

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        visible, masked = self.visible_and_masked(batch)
        x, body = patches_and_body(batch["views"][0], batch["valid_views"][0], self.patch)
        counted = take(body, masked)
        target, _, _ = targets(take(x, masked), counted, self.normalise)
        return masked_mean((self.predict(batch["views"][0], visible, masked) - target).square(), counted)

    def visible_and_masked(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Numbers of patches (B, K) and (B, N - K), of the visible and the masked ones, as many in each sample."""
        x = batch["views"][0]
        order = masking_order(
            derive_keys(batch["key"], salts.MASK), self.encoder.grid(x.shape[2:]), self.mask_kind, x
        ).argsort(1)
        count = round(self.mask_ratio * order.shape[1])
        masked, visible = order.split([count, order.shape[1] - count], dim=1)
        return visible, masked

    def predict(self, x: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """The masked patches, predicted from the visible ones alone.

        Args:
            x: (B, C, *S).
            visible: (B, K) int64, the numbers of the visible patches.
            masked: (B, N - K) int64, the numbers of the others.

        Returns:
            (B, N - K, C * voxels of a patch).
        """
        places = positions(self.encoder.grid(x.shape[2:]), self.decoder_width, x.device)
        encoded = self.project(self.encoder.tokens(x, visible)) + places[visible]
        tokens = torch.cat([encoded, self.mask_token + places[masked]], dim=1)  # in any order: each knows its place
        return self.head(self.norm(run_blocks(self.blocks, tokens)[:, visible.shape[1] :]))

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """As in the paper's figures a normalised patch is shown with the level and contrast of the true one."""
        x, (visible, masked) = batch["views"][0], self.visible_and_masked(batch)
        patches, body = patches_and_body(x, batch["valid_views"][0], self.patch)
        _, mean, deviation = targets(take(patches, masked), take(body, masked), self.normalise)
        predicted = self.predict(x, visible, masked) * deviation + mean
        where = masked[..., None].expand_as(predicted)
        grid = self.encoder.grid(x.shape[2:])
        made = {
            "corrupted": patches.scatter(1, where, 0.0),
            "restored": patches.scatter(1, where, predicted.to(x.dtype)),
        }
        return {"source": x} | {name: from_patches(p, self.patch, grid) for name, p in made.items()}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_mask_kind(self.mask_kind, crop)
        check_masks_some(self.encoder, crop, self.mask_ratio)
