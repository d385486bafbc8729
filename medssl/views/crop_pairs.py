"""Crops of one scan whose relation is known: overlapping pairs and tiles.

    first, second = draw_pair(view, keys, source, overlap=(0.2, 0.8))
    offset_mm(view, first, second, source)                 # (B, d): relative location (Doersch et al. 2015, 1505.05192)
    tile = placed(view.draw(keys), tiles(4, 3)[5])         # VoCo's base crops (Wu et al., CVPR 2024, 2402.17300):
    overlap(view, first, tile, source)                     # (B,) share of the first crop that lies in the tile

A view here is a `Resample`. Boxes are those of its regions before they are turned, sheared or bent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params
from medssl.views.random import derive_keys, uniform
from medssl.views.spatial import Resample


def boxes(view: Resample, params: Params, source: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Lower and upper corner (B, d) of each region in voxels of the source, from -0.5 to its length - 0.5."""
    dims, size = len(view.size), torch.tensor(view.size, dtype=torch.float32)
    matrix = view.matrix(params, source)
    middle = matrix[:, :dims, :dims] @ ((size.to(matrix.device) - 1) / 2) + matrix[:, :dims, dims]
    half = view.edges(params) / 2
    return middle - half, middle + half


def overlap(view: Resample, first: Params, second: Params, source: Sequence[int]) -> Tensor:
    """(B,): the share of the first region's volume that lies in the second."""
    (low_a, high_a), (low_b, high_b) = boxes(view, first, source), boxes(view, second, source)
    common = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0)
    return (common / (high_a - low_a)).prod(1)


def offset_mm(view: Resample, first: Params, second: Params, source: Sequence[int]) -> Tensor:
    """(B, d): from the middle of the first region to that of the second, in mm along the axes of the source."""
    (low_a, high_a), (low_b, high_b) = boxes(view, first, source), boxes(view, second, source)
    spacing = torch.tensor(view.spacing_mm, device=low_a.device)
    return (low_b + high_b - low_a - high_a) / 2 * spacing


def draw_pair(
    view: Resample, keys: Tensor, source: Sequence[int], overlap: tuple[float, float] = (0.2, 0.8)
) -> tuple[Params, Params]:
    """Parameters of two crops of the same zoom whose regions share a part drawn from the range, both inside the source.

    Each crop has its own turn, flip and bend. Raises MedsslError where the source is too small for the least overlap.
    """
    if not 0 <= overlap[0] <= overlap[1] <= 1:
        raise MedsslError(f"overlap {overlap}: expected 0 <= low <= high <= 1")
    needed = tuple(math.ceil((2 - overlap[0]) * n - 1e-6) for n in view.largest_region())
    if any(a > b for a, b in zip(needed, source)):
        raise MedsslError(
            f"two crops that share {overlap[0]:g} need a source of {needed} voxels, it is {tuple(source)}: "
            f"lower the crop's zoom, raise the overlap, or take a larger source"
        )
    first, second = view.draw(derive_keys(keys, 1)), view.draw(derive_keys(keys, 2))
    second["zoom"] = first["zoom"]
    edges, dims = view.edges(first), len(view.size)
    part = uniform(derive_keys(keys, 3), 1, *overlap)
    weight = uniform(derive_keys(keys, 4), dims, 0.05, 1)  # how the loss of volume is spread over the axes
    shared = part ** (weight / weight.sum(1, keepdim=True))  # (B, d), its product is `part`
    sign = uniform(derive_keys(keys, 5), dims, -1, 1).sign()
    apart = (1 - shared) * edges * sign
    room = (torch.tensor(list(source), device=keys.device) - edges) / 2
    middle = uniform(derive_keys(keys, 6), dims, -1, 1) * (room - apart.abs() / 2)
    for params, way in ((first, -0.5), (second, 0.5)):
        params["place"] = torch.where(room > 0, (middle + way * apart) / room.clamp(min=1e-6), 0.0)
    return first, second


def tiles(per_axis: int | Sequence[int], dims: int) -> Tensor:
    """(K, d) places, -1..1, of a grid of crops that covers the source from end to end."""
    counts = [per_axis] * dims if isinstance(per_axis, int) else list(per_axis)
    if len(counts) != dims or min(counts) < 1:
        raise MedsslError(f"per_axis {per_axis} for {dims} axes: expected one number of 1 or more an axis")
    steps = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in counts]
    return torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(-1, dims)


def placed(params: Params, place: Tensor) -> Params:
    """The same crops at a place of the source: -1..1 an axis, (d,) or (B, d)."""
    return {**params, "place": place.to(params["place"]).expand_as(params["place"])}
