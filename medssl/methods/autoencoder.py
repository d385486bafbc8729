"""Autoencoder: a scan is compressed to a few numbers and restored from them.

Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006; on scans Baur et al.,
Autoencoders for Unsupervised Anomaly Segmentation in Brain MR Images, Medical Image Analysis 2021 (arXiv 2004.03271).

    medssl pretrain --data CACHE --method Autoencoder --method.latent 128

The latent vector has far fewer numbers than the scan has voxels, which keeps the network from copying the scan. The
decoder therefore has no skip connections, and segmentation does not start from it. Unlike SimMIM's, the loss counts air
too: the outline of the body is part of what the latent vector must hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.shared.restoring import FromLatent, ToLatent
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View


class Autoencoder(Method):
    """The mean squared error of a scan restored from its latent vector, over all voxels.

    Args:
        latent: Length of the latent vector (128 in Baur et al.; 30 for the faces of Hinton and Salakhutdinov).

    Raises:
        MedsslError: `latent` is below 1, or `check` finds that it is not shorter than the crop.
    """

    def __init__(self, encoder: Encoder, latent: int = 128):
        super().__init__(encoder)
        if latent < 1:
            raise MedsslError(f"latent is {latent}: expected the length of the latent vector, for example 128")
        self.latent = latent
        self.to_latent = ToLatent(encoder, latent)
        self.from_latent = FromLatent(encoder, latent, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def restore(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S), by way of (B, latent)."""
        return self.from_latent(self.to_latent(self.encoder.features(x)), x.shape[2:])

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        return F.mse_loss(self.restore(x), x)

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["views"][0]
        return {"source": x, "corrupted": x, "restored": self.restore(x)}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_narrow(self.latent, crop, self.encoder.in_channels)


def check_narrow(latent: int, crop: Sequence[int], channels: int) -> None:
    """Raise MedsslError for a latent vector that is not shorter than the crop: it could hold a copy.

    Args:
        latent: Length of the latent vector.
        crop: Voxels of the crop along each axis.
        channels: Channels of a scan.
    """
    values = channels * math.prod(crop)
    if latent >= values:
        raise MedsslError(
            f"latent is {latent} and a crop of {tuple(crop)} has {values} values: expected fewer, or the latent vector is a "
            f"copy; pass --method.latent {max(1, values // 16)} or a larger --crop"
        )
