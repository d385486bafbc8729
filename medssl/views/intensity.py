"""Changes of intensity: CT windows in HU, gamma, brightness and contrast, noise, blur.

Scans reach these views as they lie in the cache: CT in HU (a `Window` comes first), everything else about 0..1, where
0 is air. Ranges are in those units; sigma of a blur is in voxels.
"""

from __future__ import annotations

import math

from torch import Tensor

from medssl.errors import MedsslError
from medssl.views.base import Params, View, mix, normal_like, rows, uniform
from medssl.views.separable import along, gaussian


class Window(View):
    """CT: HU -> 0..1 by a window whose level and width are jittered by up to `jitter` of the width.

    tails: the share of 0..1 that is kept on either side for what lies outside of the window, down to air (-1000 HU) and
    up to dense bone (1500 HU), so that lung and bone are not lost to a soft-tissue window. 0 is the radiologist's window.
    """

    air_hu, bone_hu = -1000.0, 1500.0

    def __init__(self, level_hu: float = 40.0, width_hu: float = 400.0, jitter: float = 0.0, tails: float = 0.0):
        super().__init__()
        if width_hu <= 0 or not 0 <= tails < 0.5:
            raise MedsslError(
                f"width_hu is {width_hu}, tails is {tails}: expected a width above 0 and tails from 0 to 0.5"
            )
        self.level_hu, self.width_hu, self.jitter, self.tails = level_hu, width_hu, jitter, tails

    def parameters_of(self, keys: Tensor) -> Params:
        move = uniform(keys, 2, -self.jitter, self.jitter) * self.width_hu
        return {"level_hu": self.level_hu + move[:, 0], "width_hu": self.width_hu + move[:, 1]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        level, width = rows(params["level_hu"], x), rows(params["width_hu"], x)
        low, high = level - width / 2, level + width / 2
        inside = (x - low) / width
        below, above = (x - self.air_hu) / (low - self.air_hu), (x - high) / (self.bone_hu - high)
        outside = below.clamp(0, 1) + above.clamp(0, 1)  # 0..1 below the window, 1 in it, 1..2 above
        return self.tails * outside + (1 - 2 * self.tails) * inside.clamp(0, 1)


class Gamma(View):
    """x -> x^gamma on 0..1, gamma log-uniform in 1/`most`..`most`; values outside keep their excess."""

    def __init__(self, most: float = 1.5, probability: float = 0.5):
        super().__init__()
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"gamma": uniform(keys, 1, -math.log(self.most), math.log(self.most))[:, 0].exp()}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        inside = x.clamp(0, 1)
        return (x - inside).add_(inside.clamp(min=1e-6).pow(rows(params["gamma"], x)))


class BrightnessContrast(View):
    """x -> (x - mean) * contrast + mean + brightness, each sample about its own mean."""

    def __init__(self, brightness: float = 0.2, contrast: float = 0.3, probability: float = 0.8):
        super().__init__()
        self.brightness, self.contrast, self.probability = brightness, contrast, probability

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(keys, 2, -1, 1)
        return {"brightness": drawn[:, 0] * self.brightness, "contrast": 1 + drawn[:, 1] * self.contrast}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        contrast = rows(params["contrast"], x)
        return (x * contrast).add_(mean * (1 - contrast) + rows(params["brightness"], x))


class Noise(View):
    """Gaussian noise with a standard deviation drawn from 0..`most`."""

    def __init__(self, most: float = 0.05, probability: float = 0.5):
        super().__init__()
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.most)[:, 0], "key": mix(keys, 11)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return normal_like(x, params["key"]).mul_(rows(params["sigma"], x)).add_(x)


class Blur(View):
    """A Gaussian blur with sigma drawn from 0.1..`most` voxels, axis by axis."""

    def __init__(self, most: float = 1.5, probability: float = 0.5):
        super().__init__()
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0.1, self.most)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        reach = math.ceil(4 * self.most)
        for axis, n in enumerate(x.shape[2:]):
            x = along(x, gaussian(n, params["sigma"], reach), axis)
        return x
