"""Intensities sent through a curve, the same curve for all voxels of a sample.

view = Compose([HistogramShift(), BezierCurve()])
y = view(x, view.draw(keys))                           # (B, C, *S) of about 0..1 -> the same shape
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.views.base import Params, View, check_range, per_sample
from medssl.views.random import derive_keys, uniform


class HistogramShift(View):
    """Intensities through a rising, piecewise linear curve with random control points.

    It simulates the differences between scanners' histograms, which the piecewise linear curves of Nyul et al. (IEEE TMI
    2000) remove.

    Args:
        points: Control points between the two ends, which stay at 0 and 1.
        strength: How far a point moves at most, as a share of the way that keeps the curve rising.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = HistogramShift(points=8, strength=0.8)
    """

    def __init__(self, points: int = 8, strength: float = 0.8, probability: float = 0.5):
        super().__init__()
        check_range("HistogramShift's points", points, 1)
        check_range("HistogramShift's strength", strength, 0, 1)
        self.points, self.strength, self.probability = points, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"moves": uniform(keys, self.points, -0.5, 0.5) * self.strength}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return apply_curve(x, self.table(params))

    def table(self, params: Params) -> Tensor:
        """(B, points + 2): the curve's values at equal steps from 0 to 1."""
        moves = torch.nn.functional.pad(params["moves"], (1, 1))
        steps = torch.arange(self.points + 2, device=moves.device)
        return (steps + moves) / (self.points + 1)


class BezierCurve(View):
    """Intensities through a monotone Bezier curve whose two inner points are drawn from the unit square.

    Zhou et al., Models Genesis, Medical Image Analysis 2021 (arXiv 2004.07882): "non-linear transformation".

    Args:
        inverting: Share of the curves that fall from (0, 1) to (1, 0); the others rise from (0, 0) to (1, 1).
        probability: Chance that a sample gets the view.

    Example:
        >>> view = BezierCurve(inverting=0.5, probability=0.9)
    """

    steps = 1024  # of the curve, and of the table it is read from

    def __init__(self, inverting: float = 0.5, probability: float = 0.9):
        super().__init__()
        check_range("inverting", inverting, 0, 1)
        self.inverting, self.probability = inverting, probability

    def parameters_of(self, keys: Tensor) -> Params:
        inverted = uniform(derive_keys(keys, 1), 1)[:, 0] < self.inverting
        return {"points": uniform(keys, 4).reshape(-1, 2, 2), "inverted": inverted}  # points: (B, 2, (x, y))

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return apply_curve(x, self.table(params))

    def table(self, params: Params) -> Tensor:
        """(B, steps): the curve's values at equal steps from 0 to 1."""
        t = torch.linspace(0, 1, self.steps, device=params["points"].device)
        first, second = params["points"][:, :1], params["points"][:, 1:]  # (B, 1, 2)
        weights = torch.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3])[..., None]
        curve = weights[0] * first + weights[1] * second + weights[2]  # (B, steps, 2)
        across, up = curve.sort(dim=1).values.unbind(2)  # sorted, as in the paper's code: monotone for any points
        up = torch.where(params["inverted"][:, None], up.flip(1), up)
        return _resample_curve(across, up, t)


def apply_curve(x: Tensor, table: Tensor) -> Tensor:
    """x through each sample's piecewise linear curve; values outside of 0..1 keep their excess.

    Args:
        x: (B, C, *S).
        table: (B, n) the curve's values at n equal steps from 0 to 1. It runs from 0 to 1 or from 1 to 0.
    """
    inside = x.clamp(0, 1)
    place = (inside * (table.shape[1] - 1)).flatten(1)
    left = place.detach().long().clamp(max=table.shape[1] - 2)
    value = table.gather(1, left) + table.diff(dim=1).gather(1, left) * (place - left)
    return value.reshape(x.shape) + (x - inside) * per_sample(table[:, -1] - table[:, 0], x)


def _resample_curve(across: Tensor, up: Tensor, places: Tensor) -> Tensor:
    """(B, n): the values at `places` (n,) of the curves through the points (across, up), each (B, n), across rising."""
    n = len(places)
    right = torch.searchsorted(across.contiguous(), places.expand(len(across), -1).contiguous()).clamp(1, n - 1)
    x0, x1, y0, y1 = (values.gather(1, right - back) for values in (across, up) for back in (1, 0))
    share = ((places - x0) / (x1 - x0).clamp(min=1e-9)).clamp(0, 1)
    return torch.lerp(y0, y1, share)
