"""What ultrasound does to an image: speckle and acoustic shadow.

    view = Compose([Shadow(), Speckle()])
    y = view(x, view.draw(keys))                           # (B, C, *S) -> (B, C, *S)

Rays run along `depth_axis` from its first voxel on, as from a linear probe, or in a sector that was straightened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.views.base import Params, Range, View, broadcast_along, check_axes, check_range, per_sample
from medssl.views.kspace import add_complex_noise
from medssl.views.random import derive_keys, uniform


class Speckle(View):
    """x times speckle: the size of the sum of one steady echo and many small random ones in each voxel.

    The mean square of the factor is 1. Wagner et al., Statistics of speckle in ultrasound B-scans, IEEE Trans. Sonics and
    Ultrasonics 1983.

    Args:
        max_sigma: The deviation of the small echoes, relative to the steady one, is drawn from 0 to max_sigma.
        grain: Standard deviation, in voxels, of the Gaussian that the small echoes are smoothed with (the point spread
            function); 0 for none.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Speckle(max_sigma=0.3, grain=0.8)
    """

    def __init__(self, max_sigma: float = 0.3, grain: float = 0.8, probability: float = 0.5):
        super().__init__()
        check_range("Speckle's max_sigma", max_sigma)
        check_range("Speckle's grain", grain)
        self.max_sigma, self.grain, self.probability = max_sigma, grain, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(grain=0))

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.max_sigma)[:, 0], "key": derive_keys(keys, 41)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        steady = torch.ones_like(x[:, :1])  # one factor for all channels
        factor = add_complex_noise(steady, params["sigma"], params["key"], self.grain)
        return x * factor / per_sample(1 + 2 * params["sigma"] ** 2, x).sqrt()


class Shadow(View):
    """A dark band below some depth, as behind a stone or a rib, with a Gaussian profile across.

    Smistad et al., Highlighting nerves and blood vessels for ultrasound-guided axillary nerve block procedures using
    neural networks, Journal of Medical Imaging 2018.

    Args:
        strength: Range of the share of x that is lost in the middle of the shadow.
        width: Range of the profile's standard deviation, as a share of the image.
        start: Range of the depth at which the shadow begins, as a share of the image.
        depth_axis: The array axis along which the sound travels.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Shadow(strength=(0.3, 0.9), depth_axis=0)
    """

    onset = 0.02  # share of the depth over which the shadow sets in

    def __init__(
        self,
        strength: Range = (0.3, 0.9),
        width: Range = (0.02, 0.12),
        start: Range = (0.1, 0.8),
        depth_axis: int = 0,
        probability: float = 0.3,
    ):
        super().__init__()
        check_range("Shadow's strength", strength, 0, 1)
        check_range("Shadow's width", width, 1e-3, 1)
        check_range("Shadow's start", start, 0, 1)
        self.strength, self.width, self.start = strength, width, start
        self.depth_axis, self.probability = depth_axis, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(depth_axis=1))

    def parameters_of(self, keys: Tensor) -> Params:
        ranges = {"strength": self.strength, "width": self.width, "start": self.start}
        drawn = {name: uniform(derive_keys(keys, i), 1, *ends)[:, 0] for i, (name, ends) in enumerate(ranges.items())}
        return {**drawn, "centre": uniform(derive_keys(keys, 9), 3)}  # of the profile, on each axis

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        (depth_axis,) = check_axes((self.depth_axis,), x)
        shade = per_sample(params["strength"], x)
        for axis, size in enumerate(x.shape[2:]):
            place = torch.linspace(0, 1, size, device=x.device)
            if axis == depth_axis:
                profile = ((place - params["start"][:, None]) / self.onset).clamp(0, 1)
            else:
                distance = (place - params["centre"][:, axis, None]) / params["width"][:, None]
                profile = (-0.5 * distance**2).exp()
            shade = shade * broadcast_along(profile, x, axis)
        return x * (1 - shade)
