"""Denoising autoencoder: some voxels are lost, the whole scan is asked for.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, ICML 2008, and JMLR 11, 2010.

    medssl pretrain --data CACHE --method DenoisingAutoencoder --method.noise gaussian --method.strength 0.2

The paper's point is that damage, not a narrow code, keeps the network from the identity: its codes are wider than the
input. So here the code is the encoder's whole pyramid, joined by a U-Net's skips, and the decoder goes along into
segmentation. With skips, fine noise asks for little more than smoothing: `coarse` noise is as coarse as lesions, as in
Kascenas et al., The Role of Noise in Denoising Models for Anomaly Detection in Medical Images, 2023 (arXiv 2301.08330).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared import salts
from medssl.methods.shared.restoring import Restoring
from medssl.views.random import derive_keys, normal_like, uniform

COARSE = (
    8  # voxels between the values of coarse noise: 16 x 16 of them on slices of 128 x 128, as Kascenas et al. have it
)


class DenoisingAutoencoder(Restoring):
    """noise: masking (a share of the voxels set to 0, ICML 2008), gaussian (JMLR 2010), coarse (Kascenas et al.).

    strength: the share lost, or the noise's standard deviation in the unit of scans, where 1 is the width of the window.
    """

    def __init__(
        self, encoder: Encoder, noise: Literal["masking", "gaussian", "coarse"] = "masking", strength: float = 0.25
    ):
        super().__init__(encoder)
        if strength <= 0 or (noise == "masking" and strength >= 1):
            raise MedsslError(
                f"strength is {strength}: expected a share between 0 and 1 for masking noise, or a standard deviation above 0"
            )
        self.noise, self.strength = noise, strength

    def corrupt(self, x: Tensor, keys: Tensor) -> Tensor:
        keys = derive_keys(keys, salts.NOISE)
        if self.noise == "masking":
            lost = uniform(keys, x[0, 0].numel()) < self.strength
            return torch.where(lost.reshape(len(x), 1, *x.shape[2:]), 0.0, x)
        if self.noise == "gaussian":
            return x + self.strength * normal_like(x, keys)
        grid = [max(2, n // COARSE) for n in x.shape[2:]]
        drawn = normal_like(x.new_empty(*x.shape[:2], *grid), keys)
        return x + self.strength * F.interpolate(
            drawn, size=x.shape[2:], mode="bilinear" if x.ndim == 4 else "trilinear"
        )
