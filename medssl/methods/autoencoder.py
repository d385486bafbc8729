"""Autoencoder: a scan through a narrow code and back.

Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006; on scans Baur et al.,
Autoencoders for Unsupervised Anomaly Segmentation in Brain MR Images, Medical Image Analysis 2021 (arXiv 2004.03271).

    medssl pretrain --data CACHE --method Autoencoder --method.code 128

What keeps it from the identity is the code, of far fewer numbers than voxels: nothing leads around it, so the decoder
has no skips and does not go along into segmentation. Unlike SimMIM's, the loss counts air too: with a narrow code
nothing is copied for free, and the outline of the body is part of what the code must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.shared.restoring import FromCode, ToCode
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View


class Autoencoder(Method):
    """code: how many numbers a scan must pass through (128 in Baur et al.; 30 for the faces of Hinton's)."""

    def __init__(self, encoder: Encoder, code: int = 128):
        super().__init__(encoder)
        if code < 1:
            raise MedsslError(f"code is {code}: expected how many numbers a scan passes through, for example 128")
        self.code = code
        self.to_code = ToCode(encoder, code)
        self.from_code = FromCode(encoder, code, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def restore(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S), by way of (B, code)."""
        return self.from_code(self.to_code(self.encoder.features(x)), x.shape[2:])

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        return F.mse_loss(self.restore(x), x)

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["views"][0]
        return {"source": x, "corrupted": x, "restored": self.restore(x)}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_narrow(self.code, crop, self.encoder.in_channels, "code")


def check_narrow(numbers: int, crop: Sequence[int], channels: int, name: str) -> None:
    """Raise MedsslError for a code that is no narrower than the scan: it would hold a copy."""
    voxels = channels
    for n in crop:
        voxels *= n
    if numbers >= voxels:
        raise MedsslError(
            f"{name} is {numbers} and a crop of {tuple(crop)} has {voxels} values: expected fewer, or the code is a copy; "
            f"pass --method.{name} {max(1, voxels // 16)} or a larger --crop"
        )
