"""Colour: for photographs of the fundus and the skin, and for slides stained with haematoxylin and eosin.

view = ColourJitter(hue=0.05, saturation=0.3, value=0.2)
view = StainJitter(stains="macenko")
y = view(x, view.draw(keys))                           # (B, 3, *S) of 0..1, RGB; values outside are clipped
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View, check_range, per_sample
from medssl.views.random import derive_keys, uniform

# Optical density of red, green, blue in haematoxylin and in eosin: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 2001
RUIFROK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
MAX_PERCENTILE_VOXELS = 100_000  # that a percentile is taken of


class ColourJitter(View):
    """Random hue, saturation and value (HSV; Smith, SIGGRAPH 1978).

    Args:
        hue: Hue turns by up to this share of the full circle.
        saturation: Saturation is multiplied by 1 - saturation to 1 + saturation.
        value: Value is multiplied by 1 - value to 1 + value.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = ColourJitter(hue=0.05, saturation=0.3, value=0.2)
    """

    channels = 3

    def __init__(self, hue: float = 0.05, saturation: float = 0.3, value: float = 0.2, probability: float = 0.8):
        super().__init__()
        check_range("ColourJitter's hue", hue, 0, 0.5)
        check_range("ColourJitter's saturation", saturation, 0, 1)
        check_range("ColourJitter's value", value, 0, 1)
        self.hue, self.saturation, self.value, self.probability = hue, saturation, value, probability

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(keys, 3, -1, 1)
        return {
            "hue": drawn[:, 0] * self.hue,
            "saturation": 1 + drawn[:, 1] * self.saturation,
            "value": 1 + drawn[:, 2] * self.value,
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        hue, saturation, value = to_hsv(x.clamp(0, 1))
        hue = (hue + per_sample(params["hue"], x)) % 1
        saturation = (saturation * per_sample(params["saturation"], x)).clamp(0, 1)
        return from_hsv(hue, saturation, (value * per_sample(params["value"], x)).clamp(0, 1))


class StainJitter(View):
    """Random amounts of haematoxylin and eosin; what neither stain explains stays.

    Tellez et al., IEEE TMI 2018; Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 2001; Macenko et al., ISBI 2009.

    Args:
        scale: Each amount is multiplied by 1 - scale to 1 + scale.
        shift: To each amount -shift to shift is added, in optical density.
        stains: The colours of the stains: "ruifrok", fixed, or "macenko", estimated from each image.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = StainJitter(scale=0.2, shift=0.05, stains="macenko")
    """

    channels = 3
    min_density = 0.15  # of tissue, in natural logarithms: Macenko et al.'s beta
    min_tissue = 0.01  # share of an image; one with less has no stains to estimate and is given Ruifrok's

    def __init__(
        self,
        scale: float = 0.2,
        shift: float = 0.05,
        stains: Literal["ruifrok", "macenko"] = "ruifrok",
        probability: float = 0.8,
    ):
        super().__init__()
        check_range("StainJitter's scale", scale, 0, 1)
        check_range("StainJitter's shift", shift)
        if stains not in ("ruifrok", "macenko"):
            raise MedsslError(f"stains is {stains!r}: expected 'ruifrok' or 'macenko'")
        self.scale, self.shift, self.stains, self.probability = scale, shift, stains, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(stains="macenko"))

    def parameters_of(self, keys: Tensor) -> Params:
        return {
            "scale": 1 + uniform(derive_keys(keys, 1), 2, -self.scale, self.scale),
            "shift": uniform(derive_keys(keys, 2), 2, -self.shift, self.shift),
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        rgb = x.clamp(0, 1)
        density = -rgb.clamp(min=1 / 512).log().flatten(2)  # (B, 3, voxels)
        stains = self.stains_of(density.detach())  # (B, 3, 2)
        amounts = torch.linalg.pinv(stains) @ density  # (B, 2, voxels)
        change = amounts * (params["scale"] - 1)[..., None] + params["shift"][..., None]
        return (rgb * (-(stains @ change)).exp().reshape(x.shape)).clamp(max=1)

    def stains_of(self, density: Tensor) -> Tensor:
        """(B, 3, voxels) -> (B, 3, 2): the optical densities of haematoxylin and eosin, each of length 1."""
        ruifrok = torch.tensor(RUIFROK, device=density.device).T
        ruifrok = (ruifrok / ruifrok.norm(dim=0)).expand(len(density), 3, 2)
        if self.stains == "ruifrok":
            return ruifrok
        tissue = density.amax(1) > self.min_density  # (B, voxels)
        enough = tissue.float().mean(1) > self.min_tissue
        return torch.where(enough[:, None, None], estimate_stains(density, tissue), ruifrok)


def estimate_stains(density: Tensor, tissue: Tensor) -> Tensor:
    """The colours of the two stains by Macenko et al.'s method.

    In the plane of the first two principal axes of the tissue's densities, these are the outermost directions (1st and
    99th percentile).

    Args:
        density: (B, 3, voxels) optical densities.
        tissue: (B, voxels) bool.

    Returns:
        (B, 3, 2), first the stain that absorbs more red, haematoxylin.
    """
    weight = tissue[:, None].float()
    mean = (density * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)
    centred = ((density - mean) * weight).double()  # so that axes of nearly equal length do not depend on the batch
    axes = torch.linalg.eigh(centred @ centred.mT)[1][:, :, 1:].float()  # (B, 3, 2), the second axis first
    axes = axes * torch.where(axes.sum(1, keepdim=True) < 0, -1.0, 1.0)
    across, along = (axes.mT @ density).unbind(1)
    angles = torch.atan2(across, along).masked_fill(~tissue, torch.nan)
    angles = angles[:, :: -(-angles.shape[1] // MAX_PERCENTILE_VOXELS)]
    ends = angles.nanquantile(torch.tensor([0.01, 0.99], device=angles.device), dim=1).T.nan_to_num()  # (B, 2)
    stains = axes @ torch.stack([ends.sin(), ends.cos()], 1)  # (B, 3, 2)
    return torch.where(stains[:, :1, :1] < stains[:, :1, 1:], stains.flip(2), stains)


def to_hsv(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, *S) of 0..1 -> hue (as a share of the circle), saturation and value, each (B, 1, *S)."""
    red, green, blue = rgb.split(1, 1)
    value, lowest = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    chroma = value - lowest
    step = torch.where(chroma > 0, chroma, 1.0)
    from_green_or_blue = torch.where(value == green, 2 + (blue - red) / step, 4 + (red - green) / step)
    sixths = torch.where(value == red, (green - blue) / step, from_green_or_blue)
    return sixths / 6 % 1, chroma / torch.where(value > 0, value, 1.0), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse of `to_hsv`: (B, 3, *S) of red, green, blue.

    Args:
        hue: (B, 1, *S), as a share of the circle.
        saturation: (B, 1, *S) of 0..1.
        value: (B, 1, *S) of 0..1.
    """
    turns = [(start + 6 * hue) % 6 for start in (5, 3, 1)]
    return torch.cat([value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)) for k in turns], 1)
