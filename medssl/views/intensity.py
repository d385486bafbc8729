"""Changes of intensity: CT windows in HU, gamma, curves, brightness and contrast, noise, blur, sharpening, inversion.

    view = Compose([Window(jitter_hu=40), Gamma(), Noise()])

Scans reach these views as they lie in the cache: CT in HU (a `Window` comes first), everything else about 0..1, where
0 is air. Ranges are in those units; sigma of a blur is in voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View, per_sample
from medssl.views.kspace import expect, through_curve
from medssl.views.random import derive_keys, normal_like, uniform
from medssl.views.separable import convolved, gaussian


class Window(View):
    """CT: HU -> 0..1 by a window whose level and width each move by up to `jitter_hu`.

    tails: the share of 0..1 that is kept on either side for what lies outside of the window, down to air (-1000 HU) and
    up to dense bone (1500 HU), so that lung and bone are not lost to a soft-tissue window. 0 is the radiologist's window.
    """

    air_hu, bone_hu = -1000.0, 1500.0

    def __init__(self, level_hu: float = 40.0, width_hu: float = 400.0, jitter_hu: float = 0.0, tails: float = 0.0):
        super().__init__()
        if not 0 <= jitter_hu < width_hu or not 0 <= tails < 0.5:
            raise MedsslError(
                f"width_hu is {width_hu}, jitter_hu is {jitter_hu}, tails is {tails}: expected a width above 0, a jitter "
                f"from 0 and below the width, and tails from 0 to 0.5"
            )
        self.level_hu, self.width_hu, self.jitter_hu, self.tails = level_hu, width_hu, jitter_hu, tails

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


class Gamma(View):
    """x -> x^gamma on 0..1, gamma log-uniform in 1/`most`..`most`; values outside keep their excess."""

    def __init__(self, most: float = 1.5, probability: float = 0.5):
        super().__init__()
        expect("Gamma's most", most, 1)
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"gamma": uniform(keys, 1, -math.log(self.most), math.log(self.most))[:, 0].exp()}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        inside = x.clamp(0, 1)
        power = inside.clamp(min=1e-6).log().mul_(per_sample(params["gamma"], x)).exp_()  # quicker than pow
        return (x - inside).add_(power)


class BrightnessContrast(View):
    """x -> (x - mean) * contrast + mean + brightness, each sample about its own mean.

    about_air: x -> x * contrast + brightness instead, so that without brightness air stays 0, as black as it was.
    """

    def __init__(
        self, brightness: float = 0.2, contrast: float = 0.3, probability: float = 0.8, about_air: bool = False
    ):
        super().__init__()
        self.about_air = about_air
        expect("brightness", brightness)
        expect("contrast", contrast, 0, 1)
        self.brightness, self.contrast, self.probability = brightness, contrast, probability

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
    """Gaussian noise with a standard deviation drawn from 0..`most`."""

    def __init__(self, most: float = 0.05, probability: float = 0.5):
        super().__init__()
        expect("Noise's most", most)
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.most)[:, 0], "key": derive_keys(keys, 11)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return normal_like(x, params["key"]).mul_(per_sample(params["sigma"], x)).add_(x)


class Blur(View):
    """A Gaussian blur with sigma drawn from 0.1..`most` voxels, axis by axis."""

    def __init__(self, most: float = 1.5, probability: float = 0.5):
        super().__init__()
        expect("Blur's most", most, 0.1)
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0.1, self.most)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return convolved(x, gaussian(params["sigma"], reach=math.ceil(4 * self.most)))


class Sharpen(View):
    """Unsharp masking: x + amount * (x - x blurred by `sigma` voxels), amount drawn from 0..`most`."""

    def __init__(self, most: float = 1.0, sigma: float = 1.0, probability: float = 0.5):
        super().__init__()
        expect("Sharpen's most", most)
        expect("Sharpen's sigma", sigma, 0.1)
        self.most, self.sigma, self.probability = most, sigma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"amount": uniform(keys, 1, 0, self.most)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        sigma = torch.full_like(params["amount"], self.sigma)
        return x + per_sample(params["amount"], x) * (
            x - convolved(x, gaussian(sigma, reach=math.ceil(4 * self.sigma)))
        )


class HistogramShift(View):
    """0..1 through a rising piecewise linear curve: `points` values, its ends apart, each moved towards its neighbours.

    strength: how far at most, as a share of the way that keeps the curve rising. It undoes what Nyul et al. (IEEE TMI 2000) do:
    their piecewise linear curves make the histograms of scanners alike.
    """

    def __init__(self, points: int = 8, strength: float = 0.8, probability: float = 0.5):
        super().__init__()
        expect("HistogramShift's points", points, 1)
        expect("HistogramShift's strength", strength, 0, 1)
        self.points, self.strength, self.probability = points, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"moves": uniform(keys, self.points, -0.5, 0.5) * self.strength}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return through_curve(x, self.table(params))

    def table(self, params: Params) -> Tensor:
        """(B, points + 2): the curve's values at equal steps from 0 to 1."""
        moves = torch.nn.functional.pad(params["moves"], (1, 1))
        steps = torch.arange(self.points + 2, device=moves.device)
        return (steps + moves) / (self.points + 1)


class BezierCurve(View):
    """0..1 through a monotone Bezier curve from (0, 0) to (1, 1), or, in a share `inverting`, from (0, 1) to (1, 0).

    The two inner points are drawn from the unit square. Zhou et al., Models Genesis, Medical Image Analysis 2021
    (arXiv 2004.07882), "non-linear transformation".
    """

    steps = 1024  # of the curve, and of the table it is read from

    def __init__(self, inverting: float = 0.5, probability: float = 0.9):
        super().__init__()
        expect("inverting", inverting, 0, 1)
        self.inverting, self.probability = inverting, probability

    def parameters_of(self, keys: Tensor) -> Params:
        inverted = uniform(derive_keys(keys, 1), 1)[:, 0] < self.inverting
        return {"points": uniform(keys, 4).reshape(-1, 2, 2), "inverted": inverted}  # points: (B, 2, (x, y))

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return through_curve(x, self.table(params))

    def table(self, params: Params) -> Tensor:
        """(B, steps): the curve's values at equal steps from 0 to 1."""
        t = torch.linspace(0, 1, self.steps, device=params["points"].device)
        first, second = params["points"][:, :1], params["points"][:, 1:]  # (B, 1, 2)
        weights = torch.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3])[..., None]
        curve = weights[0] * first + weights[1] * second + weights[2]  # (B, steps, 2)
        across, up = curve.sort(dim=1).values.unbind(2)  # sorted, as in the paper's code: monotone for any points
        up = torch.where(params["inverted"][:, None], up.flip(1), up)
        right = torch.searchsorted(across.contiguous(), t.expand(len(across), -1).contiguous()).clamp(1, self.steps - 1)
        ends = [values.gather(1, right - side) for values in (across, up) for side in (1, 0)]
        share = ((t - ends[0]) / (ends[1] - ends[0]).clamp(min=1e-9)).clamp(0, 1)
        return torch.lerp(ends[2], ends[3], share)


class Invert(View):
    """x -> 1 - x: a radiograph with bone dark (MONOCHROME1) for one with bone bright."""

    def __init__(self, probability: float = 0.5):
        super().__init__()
        self.probability = probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return 1 - x
