"""What a lower dose does to a radiograph and to CT: fewer photons, so more noise where more is absorbed.

    view = LowDoseXray(photons=(1e3, 1e5))                 # images 0..1
    view = Compose([LowDoseCT(photons=(1e5, 1e6)), Window()])          # CT in HU, before its window

A ray that passes through the line integral p of attenuation keeps photons * exp(-p) of its photons (Beer and Lambert);
their number is Poisson distributed, and the detector adds electronic noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.views.base import Params, Range, View, check_axes, check_range, per_sample
from medssl.views.kspace import filter_kspace, frequency
from medssl.views.random import derive_keys, log_uniform, normal_like


class LowDoseXray(View):
    """A radiograph of 0..1 taken again with fewer photons per pixel.

    The image is taken to be free of noise, so the whole noise of the lower dose is added.

    Args:
        photons: Range, log-uniform, of photons per pixel in the open beam.
        attenuation: The line integral at an intensity of 1; at 0 there is nothing in the beam.
        electronic: Standard deviation of the detector's noise, in photons.
        bright_is_dense: Whether bone is bright (MONOCHROME2) or dark.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = LowDoseXray(photons=(3e3, 1e5))
    """

    def __init__(
        self,
        photons: Range = (3e3, 1e5),
        attenuation: float = 4.0,
        electronic: float = 3.0,
        bright_is_dense: bool = True,
        probability: float = 0.3,
    ):
        super().__init__()
        check_range("LowDoseXray's photons", photons, 1)
        check_range("LowDoseXray's attenuation", attenuation, 0.01)
        check_range("LowDoseXray's electronic", electronic)
        self.photons, self.attenuation, self.electronic = photons, attenuation, electronic
        self.bright_is_dense, self.probability = bright_is_dense, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(bright_is_dense=False))

    def parameters_of(self, keys: Tensor) -> Params:
        return {"photons": log_uniform(keys, self.photons), "key": derive_keys(keys, 51)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        photons = per_sample(params["photons"], x)
        dense = x if self.bright_is_dense else 1 - x
        counts = poisson_like(photons * (-self.attenuation * dense).exp(), derive_keys(params["key"], 1))
        counts = counts + self.electronic * normal_like(x, derive_keys(params["key"], 2))
        measured = (photons / counts.clamp(min=1)).log() / self.attenuation
        return measured if self.bright_is_dense else 1 - measured


class LowDoseCT(View):
    """The noise of a lower dose added to CT in HU. It works on the image: a crop has no projections.

    The noise at a voxel is that of filtered back projection with a ramp filter, `projections` views and elements of 1 mm
    (Barrett, Gordon and Hershel, Comput. Biol. Med. 1976): pi^2 / (12 views mm^2) times the mean variance of the line
    integrals of the two rays through it along `axes`. Since a crop does not know the rest of the body, each ray is taken
    to be `body_mm` long and to have the crop's mean attenuation along it. The noise has the ramp filter's spectrum (power
    in proportion to the frequency), is Gaussian, and is independent from slice to slice. Noise that the scan already has
    stays.

    Args:
        photons: Range, log-uniform, of photons per detector element and view in the open beam.
        body_mm: Length of a ray's path through the body.
        electronic: Standard deviation of the detector's noise, in photons.
        axes: The two array axes in plane.
        probability: Chance that a sample gets the view.

    Example:
        >>> from medssl.views import Compose
        >>> from medssl.views.intensity import Window
        >>> view = Compose([LowDoseCT(photons=(1e5, 1e6)), Window()])
    """

    water_per_mm = 0.0192  # attenuation at 70 keV
    projections = 1000

    def __init__(
        self,
        photons: Range = (1e5, 1e6),
        body_mm: float = 300.0,
        electronic: float = 5.0,
        axes: tuple[int, int] = (0, 1),
        probability: float = 0.3,
    ):
        super().__init__()
        check_range("LowDoseCT's photons", photons, 1)
        check_range("LowDoseCT's body_mm", body_mm, 1)
        check_range("LowDoseCT's electronic", electronic)
        self.photons, self.body_mm, self.electronic = photons, body_mm, electronic
        self.axes, self.probability = axes, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"photons": log_uniform(keys, self.photons), "key": derive_keys(keys, 52)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        across, along = (frequency(x, axis) for axis in check_axes(self.axes, x))
        radii = (across**2 + along**2).sqrt()
        ramp = (radii * (radii <= 0.5)).sqrt()
        noise = filter_kspace(normal_like(x, params["key"]), ramp / ramp.square().mean().sqrt())
        return x + self.sigma_hu(x, params["photons"]) * noise

    def sigma_hu(self, x: Tensor, photons: Tensor) -> Tensor:
        """The standard deviation of the noise in HU at each voxel; broadcasts over x.

        Args:
            x: (B, C, *S) in HU.
            photons: (B,) photons per detector element and view in the open beam.
        """
        attenuation = self.water_per_mm * (1 + x / 1000).clamp(min=0)
        variance = torch.zeros_like(per_sample(photons, x))
        for axis in self.axes:
            line_integral = self.body_mm * attenuation.mean(dim=axis + 2, keepdim=True)
            counts = (per_sample(photons, x) * (-line_integral).exp()).clamp(min=1)
            variance = variance + (1 / counts + (self.electronic / counts) ** 2) / 2
        return 1000 / self.water_per_mm * (math.pi**2 / (12 * self.projections) * variance).sqrt()


def poisson_like(mean: Tensor, keys: Tensor) -> Tensor:
    """Poisson numbers of the given mean, not rounded, and so with a gradient.

    From normal numbers by Cornish and Fisher's expansion up to the skewness (Revue de l'Institut International de
    Statistique 1938): within 0.7 of a Poisson quantile for means of 5 or more.

    Args:
        mean: (B, C, *S), 5 or more.
        keys: (B,) int64, one per sample.
    """
    normal = normal_like(mean, keys)
    return mean + mean.sqrt() * normal + (normal**2 - 1) / 6
