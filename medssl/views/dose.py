"""What a lower dose does to a radiograph and to CT: fewer photons, so more noise where more is absorbed.

    view = LowDoseXray(photons=(1e3, 1e5))                 # images 0..1
    view = Compose([LowDoseCT(photons=(1e5, 1e6)), Window()])          # CT in HU, before its window

A ray that passes through the line integral p of attenuation keeps photons * exp(-p) of its photons (Beer and Lambert);
their number is Poisson distributed, and the detector adds electronic noise (as a deviation in photons).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.views.base import Params, View, per_sample
from medssl.views.kspace import expect, filtered, frequency, plane
from medssl.views.random import derive_keys, log_uniform, normal_like

Range = tuple[float, float]


class LowDoseXray(View):
    """A radiograph of 0..1 taken anew with fewer photons a pixel.

    photons: the range, log-uniform, of photons a pixel in the open beam. attenuation: the line integral at 1; at 0 there
    is nothing in the beam. bright_is_dense: bone is bright (MONOCHROME2); False where it is dark.
    The image is taken as free of noise, so what is drawn is the whole noise of that dose.
    """

    def __init__(
        self, photons: Range = (3e3, 1e5), attenuation: float = 4.0, electronic: float = 3.0,
        bright_is_dense: bool = True, probability: float = 0.3,
    ):  # fmt: skip
        super().__init__()
        expect("LowDoseXray's photons", photons, 1)
        expect("LowDoseXray's attenuation", attenuation, 0.01)
        expect("LowDoseXray's electronic", electronic)
        self.photons, self.attenuation, self.electronic = photons, attenuation, electronic
        self.bright_is_dense, self.probability = bright_is_dense, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"photons": log_uniform(keys, self.photons), "key": derive_keys(keys, 51)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        photons = per_sample(params["photons"], x)
        dense = x if self.bright_is_dense else 1 - x
        counts = poisson_like(photons * (-self.attenuation * dense).exp(), derive_keys(params["key"], 1))
        counts = counts + self.electronic * normal_like(x, derive_keys(params["key"], 2))
        found = (photons / counts.clamp(min=1)).log() / self.attenuation
        return found if self.bright_is_dense else 1 - found


class LowDoseCT(View):
    """The noise of a lower dose added to CT in HU, in the image: no projections are made, since a crop has none.

    photons: the range, log-uniform, of photons a detector element and view in the open beam.
    The size of the noise at a voxel is that of filtered back projection (ramp filter, `projections` views, elements of
    1 mm; Barrett, Gordon and Hershel, Comput. Biol. Med. 1976): pi^2 / (12 views mm^2) times the mean variance of the
    line integrals of the two rays through it along `axes`. A crop does not know the rest of the body: each ray is taken
    to be `body_mm` long and of the crop's mean attenuation along it. The noise is smooth as a ramp filter leaves it
    (power spectrum in proportion to the frequency), Gaussian, and independent from slice to slice; streaks bend only
    along the two axes, and what the scan's own noise was is left as it is.
    """

    water_per_mm = 0.0192  # attenuation at 70 keV
    projections = 1000

    def __init__(
        self, photons: Range = (1e5, 1e6), body_mm: float = 300.0, electronic: float = 5.0,
        axes: tuple[int, int] = (0, 1), probability: float = 0.3,
    ):  # fmt: skip
        super().__init__()
        expect("LowDoseCT's photons", photons, 1)
        expect("LowDoseCT's body_mm", body_mm, 1)
        expect("LowDoseCT's electronic", electronic)
        self.photons, self.body_mm, self.electronic = photons, body_mm, electronic
        self.axes, self.probability = axes, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"photons": log_uniform(keys, self.photons), "key": derive_keys(keys, 52)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        across, along = (frequency(x, axis + 2) for axis in plane(self.axes, x))
        radii = (across**2 + along**2).sqrt()
        ramp = (radii * (radii <= 0.5)).sqrt()
        noise = filtered(normal_like(x, params["key"]), ramp / ramp.square().mean().sqrt())
        return x + self.sigma_hu(x, params["photons"]) * noise

    def sigma_hu(self, x: Tensor, photons: Tensor) -> Tensor:
        """The deviation of the noise in HU at each voxel, in a shape that meets x."""
        attenuation = self.water_per_mm * (1 + x / 1000).clamp(min=0)
        variance = torch.zeros_like(per_sample(photons, x))
        for axis in self.axes:
            line_integral = self.body_mm * attenuation.mean(dim=axis + 2, keepdim=True)
            counts = (per_sample(photons, x) * (-line_integral).exp()).clamp(min=1)
            variance = variance + (1 / counts + (self.electronic / counts) ** 2) / 2
        return 1000 / self.water_per_mm * (math.pi**2 / (12 * self.projections) * variance).sqrt()


def poisson_like(mean: Tensor, keys: Tensor) -> Tensor:
    """Poisson numbers of the given mean (B, C, *S), from normal ones by Cornish and Fisher's expansion to the skewness.

    Within 0.7 of a Poisson quantile from a mean of 5 on, not rounded, and so with a gradient (Revue de l'Institut
    International de Statistique 1938).
    """
    normal = normal_like(mean, keys)
    return mean + mean.sqrt() * normal + (normal**2 - 1) / 6
