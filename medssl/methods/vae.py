"""VAE: an autoencoder whose latent distribution is close to a standard normal, so that new scans can be sampled.

Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014 (arXiv 1312.6114).

    medssl pretrain --data CACHE --out runs/vae --method VAE
    medssl sample runs/vae --count 16 --out samples

`beta` weights the divergence as in Higgins et al., beta-VAE, ICLR 2017. Deviation: the decoder's standard deviation is
not a network's second output but the one that fits the batch, its root mean squared error (Rybkin et al., Simple and
Effective VAE Training with Calibrated Decoders, ICML 2021, arXiv 2006.13202): scans of any contrast then need no tuning.
The loss is the negative lower bound in nats a voxel, and may be below 0, as densities are. It counts air too, unlike
SimMIM's: a scan that is drawn from the prior must know where the body ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.autoencoder import check_narrow
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.devices import mean_over_devices
from medssl.methods.shared.restoring import FromLatent, ToLatent
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys, make_keys, normal_like


class VAE(Method):
    """The negative evidence lower bound, in nats a voxel.

    Args:
        latent: Length of the latent vector.
        beta: Weight of the divergence from the prior; 1 gives the lower bound itself.

    Raises:
        MedsslError: `latent` is below 1 or `beta` below 0, or `check` finds that `latent` is not shorter than the crop.
    """

    def __init__(self, encoder: Encoder, latent: int = 128, beta: float = 1.0):
        super().__init__(encoder)
        if latent < 1 or beta < 0:
            raise MedsslError(f"latent is {latent}, beta is {beta}: expected at least 1, and 0 or more")
        self.latent, self.beta = latent, beta
        self.to_latent = ToLatent(encoder, 2 * latent)
        self.from_latent = FromLatent(encoder, latent, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def posterior(self, x: Tensor) -> Normal:
        """(B, C, *S) -> a normal distribution for each latent number, (B, latent)."""
        numbers = self.to_latent(self.encoder.features(x))
        mean, log_variance = numbers.to(torch.promote_types(numbers.dtype, torch.float32)).chunk(2, dim=1)
        return Normal(mean, (0.5 * log_variance).exp())

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        latent = self.posterior(x)
        noise = normal_like(latent.mean, derive_keys(batch["key"], salts.LATENT_NOISE))
        restored = self.from_latent(latent.mean + latent.stddev * noise, x.shape[2:])  # the reparametrisation
        deviation = mean_over_devices((restored - x).square().mean().detach()).sqrt().clamp(min=1e-4)
        likelihood = Normal(restored, deviation).log_prob(x).mean()
        divergence = kl_divergence(latent, Normal(0.0, 1.0)).sum() / x.numel()
        return self.beta * divergence - likelihood

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["views"][0]
        return {"source": x, "corrupted": x, "restored": self.from_latent(self.posterior(x).mean, x.shape[2:])}

    @torch.no_grad()
    def sample(self, count: int, size: Sequence[int], seed: int = 0) -> Tensor:
        """Scans sampled from the prior, (count, C, *size): the decoder's mean, without the noise of single voxels.

        Args:
            count: Number of scans.
            size: Voxels of a scan along each axis.
            seed: Seed of the latent vectors.
        """
        keys = make_keys(seed, (torch.arange(count),))
        device = self.from_latent.linear.weight.device
        latents = normal_like(torch.empty(count, self.latent), keys).to(device)
        return torch.cat([self.from_latent(latent[None], size) for latent in latents])

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_narrow(self.latent, crop, self.encoder.in_channels)
