"""What ultrasound does to a picture: speckle and acoustic shadow.

    view = Compose([Shadow(), Speckle()])
    y = view(x, view.draw(keys))                           # (B, C, *S) -> (B, C, *S)

Rays run along `depth_axis`, from its first voxel on: the picture of a linear probe, or of a sector straightened out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.views.base import Params, View, per_sample
from medssl.views.kspace import expect, magnitude, on_axis, plane
from medssl.views.random import derive_keys, uniform

Range = tuple[float, float]


class Speckle(View):
    """x times speckle: the size of one steady echo and of many small ones, of deviation sigma against it, in each voxel.

    most: sigma is drawn from 0..`most`; the mean square of the factor is 1. grain: voxels of the Gaussian that the small
    echoes are smooth over (the point spread function); 0 for none.
    Wagner et al., Statistics of speckle in ultrasound B-scans, IEEE Trans. Sonics and Ultrasonics 1983.
    """

    def __init__(self, most: float = 0.3, grain: float = 0.8, probability: float = 0.5):
        super().__init__()
        expect("Speckle's most", most)
        expect("Speckle's grain", grain)
        self.most, self.grain, self.probability = most, grain, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.most)[:, 0], "key": derive_keys(keys, 41)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        steady = torch.ones_like(x[:, :1])  # one factor for all channels
        factor = magnitude(steady, params["sigma"], params["key"], self.grain)
        return x * factor / per_sample(1 + 2 * params["sigma"] ** 2, x).sqrt()


class Shadow(View):
    """A dark band from some depth on, as behind a stone or a rib: x loses up to `strength`, in a Gaussian profile across.

    width: the range of the profile's sigma, start: of the depth it begins at, both as shares of the image.
    Smistad et al., Highlighting nerves and blood vessels for ultrasound-guided axillary nerve block procedures using
    neural networks, Journal of Medical Imaging 2018: Gaussian shadows.
    """

    onset = 0.02  # share of the depth over which the shadow sets in

    def __init__(
        self, strength: Range = (0.3, 0.9), width: Range = (0.02, 0.12), start: Range = (0.1, 0.8), depth_axis: int = 0,
        probability: float = 0.3,
    ):  # fmt: skip
        super().__init__()
        expect("Shadow's strength", strength, 0, 1)
        expect("Shadow's width", width, 1e-3, 1)
        expect("Shadow's start", start, 0, 1)
        self.strength, self.width, self.start = strength, width, start
        self.depth_axis, self.probability = depth_axis, probability

    def parameters_of(self, keys: Tensor) -> Params:
        ranges = {"strength": self.strength, "width": self.width, "start": self.start}
        drawn = {name: uniform(derive_keys(keys, i), 1, *ends)[:, 0] for i, (name, ends) in enumerate(ranges.items())}
        return {**drawn, "centre": uniform(derive_keys(keys, 9), 3)}  # of the profile, on each axis

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        (depth_axis,) = plane((self.depth_axis,), x)
        shade = per_sample(params["strength"], x)
        for axis, size in enumerate(x.shape[2:]):
            place = torch.linspace(0, 1, size, device=x.device)
            if axis == depth_axis:
                profile = ((place - params["start"][:, None]) / self.onset).clamp(0, 1)
            else:
                away = (place - params["centre"][:, axis, None]) / params["width"][:, None]
                profile = (-0.5 * away**2).exp()
            shade = shade * on_axis(profile, x, axis + 2)
        return x * (1 - shade)
