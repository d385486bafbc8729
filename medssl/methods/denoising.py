"""Denoising autoencoder: noise is added or voxels are removed, and the whole scan is restored.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, ICML 2008, and JMLR 11, 2010.

    medssl pretrain --data CACHE --method DenoisingAutoencoder --method.noise gaussian --method.strength 0.2

In the paper corruption, not a short latent vector, keeps the network from copying: its latent vectors are longer than the
input. So here a U-Net restores the scan from the encoder's whole pyramid, and segmentation starts from its decoder. With
skip connections, fine noise teaches little more than smoothing: `coarse` noise is as coarse as lesions, as in
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

COARSE = 8  # voxels between the values of coarse noise: 16 x 16 values on slices of 128 x 128, as in Kascenas et al.


class DenoisingAutoencoder(Restoring):
    """The mean squared error over body of the scan that a U-Net restores from a noisy one.

    Args:
        noise: "masking" sets voxels to 0 (ICML 2008), "gaussian" adds noise to each voxel (JMLR 2010), "coarse" adds
            interpolated noise (Kascenas et al.).
        strength: The share of voxels that masking sets to 0, or the standard deviation of the noise, where 1 is the width
            of the intensity window.

    Raises:
        MedsslError: `strength` is not above 0, or masking would leave no voxel.
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
