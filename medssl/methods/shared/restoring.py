"""Shared by restoring methods: corrupt and restore with a U-Net, or compress to a latent vector and decode it.

    class Mine(Restoring):
        def corrupt(self, x, keys):
            return x.flip(2)

Two ways keep a network that restores scans from learning the identity. Either its input is corrupted (`Restoring`: the
decoder may then have skip connections, and segmentation starts from it), or the whole scan passes a short latent vector
(`ToLatent`, `FromLatent`: skip connections would bypass it, so there are none, and segmentation does not use the decoder).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.decoder import Decoder
from medssl.methods.base import Method
from medssl.methods.shared.masked_mean import masked_mean
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View

CELLS = 4  # along each axis of the map before and after the latent vector, so that its layers fit any crop


class Restoring(Method):
    """A method that corrupts a scan and restores it with a U-Net: the mean squared error over body alone.

    Air is left out as in SimMIM: the skip connections copy it at no cost, and in a crop of a torso it would dominate the mean.
    """

    def __init__(self, encoder: Encoder):
        super().__init__(encoder)
        self.decoder = Decoder(encoder, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    @abstractmethod
    def corrupt(self, x: Tensor, keys: Tensor) -> Tensor:
        """The corrupted input (B, C, *S).

        Args:
            x: (B, C, *S).
            keys: (B,) int64, which decide how each sample is corrupted.
        """

    def restore(self, corrupted: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        assert self.decoder is not None
        return self.decoder(self.encoder.features(corrupted))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        restored = self.restore(self.corrupt(x, batch["key"]))
        return masked_mean((restored - x).square(), batch["valid_views"][0])

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["views"][0]
        corrupted = self.corrupt(x, batch["key"])
        return {"source": x, "corrupted": corrupted, "restored": self.restore(corrupted)}


class ToLatent(nn.Module):
    """The encoder's coarsest level as a vector: pooled to CELLS along each axis, flattened, one linear layer.

    The encoder's own vector, an average over the crop, no longer holds where things are, which the decoder must know (the
    dense bottleneck of Baur et al., Medical Image Analysis 2021, arXiv 2004.03271).

    Args:
        encoder: Whose pyramid is read.
        numbers: Length of the vector.
    """

    def __init__(self, encoder: Encoder, numbers: int):
        super().__init__()
        self.pool: Any = F.adaptive_avg_pool2d if encoder.dims == 2 else F.adaptive_avg_pool3d
        self.linear = nn.Linear(encoder.channels[-1] * CELLS**encoder.dims, numbers)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """[..., (B, channels[-1], *S // strides[-1])] -> (B, numbers)."""
        return self.linear(self.pool(pyramid[-1], CELLS).flatten(1))


class FromLatent(nn.Module):
    """A scan decoded from a vector: a linear layer to a small map, then the encoder's levels in reverse, without skips.

    Each norm covers all channels at once: one for each channel, as in the U-Net decoder, would remove a sample's brightness.

    Args:
        encoder: Whose channels and strides the levels take.
        numbers: Length of the vector.
        out_channels: Channels of the decoded scan.
    """

    def __init__(self, encoder: Encoder, numbers: int, out_channels: int):
        super().__init__()
        channels = encoder.channels
        self.channels, self.stride, self.dims = channels[-1], encoder.strides[-1], encoder.dims
        self.linear = nn.Linear(numbers, channels[-1] * CELLS**encoder.dims)
        ratios = [[b // a for a, b in zip(fine, coarse)] for fine, coarse in zip(encoder.strides, encoder.strides[1:])]
        levels = list(zip(channels[1:], channels[:-1], ratios))[::-1]
        if max(encoder.strides[0]) > 1:
            levels.append((channels[0], channels[0], list(encoder.strides[0])))
        conv: Any = nn.Conv2d if encoder.dims == 2 else nn.Conv3d
        self.levels = nn.Sequential(*[_level(conv, *level) for level in levels])
        self.head = conv(channels[0], out_channels, 1)

    def forward(self, latent: Tensor, size: Sequence[int]) -> Tensor:
        """The decoded scans (B, out_channels, *size).

        Args:
            latent: (B, numbers).
            size: Voxels of a scan along each axis.
        """
        small = self.linear(latent).reshape(len(latent), self.channels, *[CELLS] * self.dims)
        grid = [n // s for n, s in zip(size, self.stride)]
        mode = "bilinear" if self.dims == 2 else "trilinear"
        return self.head(self.levels(F.interpolate(small, size=grid, mode=mode, align_corners=False)))


def _level(conv: Any, source: int, target: int, ratio: Sequence[int]) -> nn.Module:
    larger = nn.Upsample(scale_factor=tuple(float(r) for r in ratio), mode="nearest")
    return nn.Sequential(
        larger, conv(source, target, 3, padding=1), nn.GroupNorm(1, target), nn.LeakyReLU(inplace=True)
    )
