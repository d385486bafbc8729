"""SimMIM: mask blocks of the scan, predict their voxels, and count only what was masked.

Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022 (arXiv 2111.09886).

    medssl pretrain --data CACHE --method SimMIM --method.mask_ratio 0.6

Deviations: the masked voxels become one learned value in the input, so any encoder works; and a U-Net decoder restores
them where the paper has one linear layer (`--method.decoder_kind linear`), because segmentation then starts from the
trained decoder. Air and padding are masked too but never counted. With `restore_intensity` the input's intensities are
changed at random and the unchanged scan is predicted, everywhere: with few labels, differences between scanners are what
a segmenter fails on. With `place_weight` the decoder also predicts where in its scan each voxel lies, an anatomical
coordinate as in Lei et al., Contrastive learning of relative position regression (MICCAI 2021, arXiv 2012.07043), here
absolute and at every voxel, masked ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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


class SimMIM(Method):
    """The mean absolute error of masked voxels.

    Args:
        mask_ratio: Share of the blocks that is masked.
        mask_block: Voxels of a block's edge (32 in the paper, at 224 pixels).
        decoder_kind: "unet", or "linear" as in the paper.
        restore_intensity: Whether intensities are changed too, and every voxel of body counts.
        place_weight: Weight of the mean absolute error in place (-1 to 1 along each axis); 0 leaves it out.

    Raises:
        MedsslError: `mask_ratio` is not between 0 and 1, `place_weight` is below 0, or `check` finds that the crop does not
            divide into blocks.
    """

    def __init__(
        self,
        encoder: Encoder,
        mask_ratio: float = 0.6,
        mask_block: int = 8,
        decoder_kind: Literal["unet", "linear"] = "unet",
        restore_intensity: bool = False,
        place_weight: float = 0.0,
    ):
        super().__init__(encoder)
        if not 0 < mask_ratio < 1:
            raise MedsslError(f"mask_ratio is {mask_ratio}: expected a share between 0 and 1")
        if place_weight < 0:
            raise MedsslError(f"place_weight is {place_weight}: expected 0 or more")
        self.mask_ratio, self.mask_block, self.decoder_kind = mask_ratio, mask_block, decoder_kind
        self.restore_intensity, self.corruption = restore_intensity, recipes.restoration()
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_channels, *[1] * encoder.dims))
        self.place_weight = place_weight
        self.hides_padding = place_weight > 0
        self.sample_fields = ("coordinates",) if place_weight else ()
        predicted = encoder.in_channels + (encoder.dims if place_weight else 0)
        if decoder_kind == "unet":
            self.decoder = Decoder(encoder, predicted)
        else:
            stride = encoder.strides[-1]
            kind: Any = nn.ConvTranspose2d if encoder.dims == 2 else nn.ConvTranspose3d
            self.head = kind(encoder.channels[-1], predicted, stride, stride)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        if self.place_weight:
            return (recipes.relational(data_spec, size, reflect=True),)
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, mask = batch["views"][0], self.mask_of(batch)
        body = batch["valid_views"][0]
        restored, places = self.predict(self.seen(batch), mask)
        loss = masked_mean((restored - x).abs(), body if self.restore_intensity else body * mask)
        if not self.place_weight:
            return loss
        return loss + self.place_weight * masked_mean((places - batch["coordinate_views"][0]).abs(), body)

    def seen(self, batch: dict[str, Any]) -> Tensor:
        """The view before it is masked, with changed intensities where they are to be restored."""
        x, keys = batch["views"][0], derive_keys(batch["key"], salts.INTENSITY_CHANGE)
        return self.corruption(x, self.corruption.draw(keys)) if self.restore_intensity else x

    def predict(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The restored scan (B, C, *S), and the places (B, dims, *S) if they are predicted too.

        Args:
            x: (B, C, *S).
            mask: (B, 1, *S), 1 where masked.
        """
        pyramid = self.encoder.features(torch.where(mask > 0, self.mask_token, x))
        predicted = self.decoder(pyramid) if self.decoder is not None else self.head(pyramid[-1])
        return predicted[:, : x.shape[1]], predicted[:, x.shape[1] :]

    def mask_of(self, batch: dict[str, Any]) -> Tensor:
        """(B, 1, *S), 1 where masked: in each sample the same number of blocks, chosen by its key."""
        size = batch["views"][0].shape[2:]
        return patch_mask(derive_keys(batch["key"], salts.MASK), size, self.mask_block, self.mask_ratio)

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x, mask = batch["views"][0], self.mask_of(batch)
        seen, masked = self.seen(batch), mask > 0
        restored, _ = self.predict(seen, mask)
        whole = restored if self.restore_intensity else torch.where(masked, restored, x)
        return {"source": x, "corrupted": torch.where(masked, torch.zeros_like(x), seen), "restored": whole}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_blocks(crop, self.mask_block, "blocks")
