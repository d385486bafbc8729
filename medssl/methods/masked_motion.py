"""Masked sequences (cine, fMRI, diffusion): mask the same blocks in every frame, predict the frames and how they change.

Tong et al., VideoMAE, NeurIPS 2022 (arXiv 2203.12602), for the tubes: a block masked in one frame alone could be copied
from the next. Yang et al., MotionMAE, 2022 (arXiv 2210.04154), for the differences of successive frames as a second target.

    medssl prepare MANIFEST --frames sequence --out CACHE
    medssl pretrain --data CACHE --encoder.in-channels 20 --method MaskedMotion

The cache holds the frames of a sequence as channels, so any encoder with that many channels works. Deviations: masked
tubes become one learned value for each frame and a U-Net decoder restores them, as in SimMIM; differences are those of the
predicted frames, without a second head; the error is absolute; the paper's 90% is for 16 frames of 224 pixels. Air and
padding do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.decoder import Decoder
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.masked_mean import masked_mean
from medssl.methods.shared.patches import check_blocks
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.masking import patch_mask
from medssl.views.random import derive_keys


class MaskedMotion(Method):
    """The mean absolute error of masked tubes, in the frames and in their differences.

    Args:
        mask_ratio: Share of the tubes that is masked.
        mask_block: Voxels of a tube's edge.
        motion_weight: Weight of the error in the differences of successive frames; 0 leaves it out.
    """

    decoder: Decoder
    sample_fields = ("frames",)

    def __init__(self, encoder: Encoder, mask_ratio: float = 0.75, mask_block: int = 8, motion_weight: float = 1.0):
        super().__init__(encoder)
        if encoder.in_channels < 2:
            raise MedsslError(
                f"MaskedMotion came with an encoder of {encoder.in_channels} channel: expected one for each frame, two or more; "
                f"prepare 4D scans with --frames sequence and pass --encoder.in-channels FRAMES"
            )
        if not 0 < mask_ratio < 1 or motion_weight < 0:
            raise MedsslError(
                f"mask_ratio is {mask_ratio}, motion_weight {motion_weight}: expected a share between 0 and 1, and 0 or more"
            )
        self.mask_ratio, self.mask_block, self.motion_weight = mask_ratio, mask_block, motion_weight
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_channels, *[1] * encoder.dims))
        self.decoder = Decoder(encoder, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, tubes = batch["views"][0], self.tubes_of(batch)
        predicted, counted = self.predict(x, tubes), batch["valid_views"][0] * tubes
        error = masked_mean((predicted - x).abs(), counted)
        motion = masked_mean((predicted.diff(dim=1) - x.diff(dim=1)).abs(), counted)
        return error + self.motion_weight * motion

    def tubes_of(self, batch: dict[str, Any]) -> Tensor:
        """(B, 1, *S), 1 where every frame is masked: the same number of blocks in each sample, chosen by its key."""
        return patch_mask(
            derive_keys(batch["key"], salts.MASK), batch["views"][0].shape[2:], self.mask_block, self.mask_ratio
        )

    def predict(self, x: Tensor, tubes: Tensor) -> Tensor:
        """Every frame (B, frames, *S), restored from what lies outside the tubes.

        Args:
            x: (B, frames, *S).
            tubes: (B, 1, *S), 1 where every frame is masked.
        """
        return self.decoder(self.encoder.features(torch.where(tubes > 0, self.mask_token, x)))

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x, masked = batch["views"][0], self.tubes_of(batch) > 0
        restored = torch.where(masked, self.predict(x, masked.float()), x)
        return {"source": x, "corrupted": torch.where(masked, torch.zeros_like(x), x), "restored": restored}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_blocks(crop, self.mask_block, "tubes")
