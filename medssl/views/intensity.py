"""Changes of intensity: CT windows, gamma, brightness and contrast, noise, blur, sharpening, inversion.

    view = Compose([Window(jitter_hu=40), Gamma(), Noise()])

Scans arrive as the cache holds them: CT in HU (so a `Window` comes first), everything else at about 0..1, where 0 is air.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.scans.modality import AIR_HU
from medssl.views.base import Params, View, check_range, per_sample
from medssl.views.random import derive_keys, normal_like, uniform
from medssl.views.separable import convolve, gaussian_kernel


class Window(View):
    """CT window: HU -> 0..1, with a random level and width.

    Args:
        level_hu: The middle of the window, in HU.
        width_hu: Its width, in HU.
        jitter_hu: How far level and width each move at most, in HU.
        tails: Share of 0..1 that is reserved on either side for what lies outside of the window, down to air (-1000 HU)
            and up to dense bone (1500 HU), so that a soft-tissue window does not lose lung and bone. 0 gives the
            radiologist's window.

    Example:
        >>> view = Window(level_hu=40, width_hu=400, jitter_hu=40, tails=0.15)
    """

    air_hu, bone_hu = AIR_HU, 1500.0

    def __init__(self, level_hu: float = 40.0, width_hu: float = 400.0, jitter_hu: float = 0.0, tails: float = 0.0):
        super().__init__()
        if not 0 <= jitter_hu < width_hu or not 0 <= tails < 0.5:
            raise MedsslError(
                f"width_hu is {width_hu}, jitter_hu is {jitter_hu}, tails is {tails}: expected a width above 0, a jitter "
                f"from 0 and below the width, and tails from 0 to 0.5"
            )
        self.level_hu, self.width_hu, self.jitter_hu, self.tails = level_hu, width_hu, jitter_hu, tails

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(jitter_hu=40), cls(level_hu=0.4, width_hu=0.8, jitter_hu=0.1, tails=0.1))

    def parameters_of(self, keys: Tensor) -> Params:
        move = uniform(keys, 2, -self.jitter_hu, self.jitter_hu)
        return {"level_hu": self.level_hu + move[:, 0], "width_hu": self.width_hu + move[:, 1]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        level, width = per_sample(params["level_hu"], x), per_sample(params["width_hu"], x)
        low, high = level - width / 2, level + width / 2
        inside = ((x - low) / width).clamp(0, 1)
        if not self.tails:
            return inside
        air, bone = (low - 1).clamp(max=self.air_hu), (high + 1).clamp(min=self.bone_hu)
        below, above = (x - air) / (low - air), (x - high) / (bone - high)
        outside = below.clamp(0, 1) + above.clamp(0, 1)  # 0..1 below the window, 1 in it, 1..2 above
        return self.tails * outside + (1 - 2 * self.tails) * inside

    def to_hu(self, x: Tensor) -> Tensor:
        """HU of what the view made with its level and width as they are, not moved: its inverse from air to dense bone.

        Args:
            x: What the view gave, 0..1; of any shape.
        """
        low, high, tails = self.level_hu - self.width_hu / 2, self.level_hu + self.width_hu / 2, self.tails
        x = x.clamp(0, 1)
        inside = low + self.width_hu * ((x - tails) / (1 - 2 * tails)).clamp(0, 1)
        if not tails:
            return inside
        air, bone = min(low - 1, self.air_hu), max(high + 1, self.bone_hu)
        below, above = (1 - x / tails).clamp(min=0), (1 - (1 - x) / tails).clamp(min=0)
        return inside - (low - air) * below + (bone - high) * above


class Gamma(View):
    """Intensities to a random power: x -> x^gamma on 0..1; values outside keep their excess.

    Args:
        max_gamma: gamma is drawn log-uniformly from 1 / max_gamma to max_gamma.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Gamma(max_gamma=1.8, probability=0.8)
    """

    def __init__(self, max_gamma: float = 1.5, probability: float = 0.5):
        super().__init__()
        check_range("Gamma's max_gamma", max_gamma, 1)
        self.max_gamma, self.probability = max_gamma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"gamma": uniform(keys, 1, -math.log(self.max_gamma), math.log(self.max_gamma))[:, 0].exp()}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        inside = x.clamp(0, 1)
        power = inside.clamp(min=1e-6).log().mul_(per_sample(params["gamma"], x)).exp_()  # faster than pow
        return (x - inside).add_(power)


class BrightnessContrast(View):
    """x -> (x - mean) * contrast + mean + brightness, each sample about its own mean.

    Args:
        brightness: Brightness is drawn from -brightness to brightness, on the scale 0..1.
        contrast: Contrast is drawn from 1 - contrast to 1 + contrast.
        probability: Chance that a sample gets the view.
        about_air: x -> x * contrast + brightness instead, so that air, at 0, stays black when brightness is 0.

    Example:
        >>> view = BrightnessContrast(brightness=0.2, contrast=0.3)
    """

    def __init__(
        self, brightness: float = 0.2, contrast: float = 0.3, probability: float = 0.8, about_air: bool = False
    ):
        super().__init__()
        check_range("brightness", brightness)
        check_range("contrast", contrast, 0, 1)
        self.brightness, self.contrast = brightness, contrast
        self.probability, self.about_air = probability, about_air

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(about_air=True))

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(keys, 2, -1, 1)
        return {"brightness": drawn[:, 0] * self.brightness, "contrast": 1 + drawn[:, 1] * self.contrast}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        contrast = per_sample(params["contrast"], x)
        if self.about_air:
            return x * contrast + per_sample(params["brightness"], x)
        mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        return (x * contrast).add_(mean * (1 - contrast) + per_sample(params["brightness"], x))


class Noise(View):
    """White Gaussian noise.

    Args:
        max_sigma: The standard deviation is drawn from 0 to max_sigma, on the scale 0..1.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Noise(max_sigma=0.05)
    """

    def __init__(self, max_sigma: float = 0.05, probability: float = 0.5):
        super().__init__()
        check_range("Noise's max_sigma", max_sigma)
        self.max_sigma, self.probability = max_sigma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.max_sigma)[:, 0], "key": derive_keys(keys, 11)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return normal_like(x, params["key"]).mul_(per_sample(params["sigma"], x)).add_(x)


class Blur(View):
    """A Gaussian blur, axis by axis.

    Args:
        max_sigma: The Gaussian's standard deviation is drawn from 0.1 to max_sigma, in voxels.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Blur(max_sigma=1.5)
    """

    def __init__(self, max_sigma: float = 1.5, probability: float = 0.5):
        super().__init__()
        check_range("Blur's max_sigma", max_sigma, 0.1)
        self.max_sigma, self.probability = max_sigma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0.1, self.max_sigma)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return convolve(x, gaussian_kernel(params["sigma"], reach=math.ceil(4 * self.max_sigma)))


class Sharpen(View):
    """Unsharp masking: x + amount * (x - blurred x).

    Args:
        max_amount: The amount is drawn from 0 to max_amount.
        sigma: Standard deviation of the blur, in voxels.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Sharpen(max_amount=1.0, sigma=1.0)
    """

    def __init__(self, max_amount: float = 1.0, sigma: float = 1.0, probability: float = 0.5):
        super().__init__()
        check_range("Sharpen's max_amount", max_amount)
        check_range("Sharpen's sigma", sigma, 0.1)
        self.max_amount, self.sigma, self.probability = max_amount, sigma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"amount": uniform(keys, 1, 0, self.max_amount)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        sigma = torch.full_like(params["amount"], self.sigma)
        blurred = convolve(x, gaussian_kernel(sigma, reach=math.ceil(4 * self.sigma)))
        return x + per_sample(params["amount"], x) * (x - blurred)


class Invert(View):
    """x -> 1 - x: turns a radiograph with bright bone into one with dark bone (MONOCHROME1), and back.

    Args:
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Invert(probability=0.5)
    """

    def __init__(self, probability: float = 0.5):
        super().__init__()
        self.probability = probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return 1 - x
