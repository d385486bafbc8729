"""The next slices of a volume, or the next frame of a sequence, from those before: autoregression for any encoder.

Mathieu et al., Deep multi-scale video prediction beyond mean square error, ICLR 2016 (arXiv 1511.05440), with its
absolute error; slices stand in for frames where there is one time only.

    medssl pretrain --data CACHE --method NextSlice --method.ahead 4
    medssl pretrain --data CACHE_OF_SEQUENCES --method NextSlice --method.along frames

The slices to predict become one learned value in the input. A U-Net decoder predicts them, and segmentation starts from
it. Deviations: one scale, and no adversarial loss; air and padding do not count.
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
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys, uniform


class NextSlice(Method):
    """The mean absolute error of the next slices or frames.

    Args:
        along: "slices", the last axis, or "frames", the channels of a cache of sequences (`prepare --frames sequence`).
        ahead: How many are predicted at once; several, because neighbours of a thin-sliced scan are nearly equal.

    Raises:
        MedsslError: `ahead` is below 1, or leaves no slice or frame to predict from.
    """

    decoder: Decoder

    def __init__(self, encoder: Encoder, along: Literal["slices", "frames"] = "slices", ahead: int = 4):
        super().__init__(encoder)
        self.along, self.ahead = along, ahead
        self.sample_fields = ("frames",) if along == "frames" else ()
        if ahead < 1 or (along == "frames" and ahead >= encoder.in_channels):
            limit = f" to {encoder.in_channels - 1}, one less than the frames" if along == "frames" else ""
            raise MedsslError(f"ahead is {ahead} along {along}: expected a whole number from 1{limit}")
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_channels, *[1] * encoder.dims))
        self.decoder = Decoder(encoder, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, (future, counted) = batch["views"][0], self.future_of(batch)
        return masked_mean((self.predict(x, future) - x).abs(), batch["valid_views"][0] * counted)

    def future_of(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Two masks that broadcast to (B, C, *S): what is masked, and the first `ahead` of it, which the loss counts."""
        x = batch["views"][0]
        axis = 1 if self.along == "frames" else x.ndim - 1
        count = x.shape[axis]
        known = (
            1 + (uniform(derive_keys(batch["key"], salts.FIRST_TO_PREDICT), 1) * (count - self.ahead)).long()
        )  # (B, 1)
        place = torch.arange(count, device=x.device) - known  # (B, count)
        shape = [len(x), *[count if a == axis else 1 for a in range(1, x.ndim)]]
        return (place >= 0).reshape(shape), ((place >= 0) & (place < self.ahead)).reshape(shape)

    def predict(self, x: Tensor, future: Tensor) -> Tensor:
        """Every voxel (B, C, *S), predicted from what is not masked.

        Args:
            x: (B, C, *S).
            future: Bool, broadcasts to x: what is masked.
        """
        return self.decoder(self.encoder.features(torch.where(future, self.mask_token, x)))

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What lies beyond the prediction is left black in all three."""
        x, (future, counted) = batch["views"][0], self.future_of(batch)
        black = torch.zeros_like(x)
        known, source = torch.where(future, black, x), torch.where(future & ~counted, black, x)
        return {"source": source, "corrupted": known, "restored": torch.where(counted, self.predict(x, future), known)}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if self.along == "slices" and crop[-1] <= self.ahead:
            raise MedsslError(
                f"the crop {tuple(crop)} has {crop[-1]} slices, the last axis: expected more than the {self.ahead} that are "
                f"predicted; pass a larger --crop or a smaller --method.ahead"
            )
