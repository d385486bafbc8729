"""Thick slices simulated: what a scan with a larger slice thickness would have seen, on the grid it had.

    view = ThickSlices(thickness_mm=(3, 6), spacing_mm=(1, 1, 1))

A slice is the mean over its thickness (a box profile, partial volume included), the slices are as far apart as they are
thick, and between their middles is interpolated linearly, as a viewer or a resampler does. The mask stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View
from medssl.views.random import derive_keys, uniform
from medssl.views.separable import along


class ThickSlices(View):
    """Averages over a thickness drawn from a range, along one axis drawn from `axes` (all of them where none is given)."""

    def __init__(
        self,
        thickness_mm: tuple[float, float] = (2.0, 5.0),
        spacing_mm: Sequence[float] | float = 1.0,
        axes: Sequence[int] | None = None,
        probability: float = 0.5,
    ):
        super().__init__()
        self.thickness_mm, self.spacing_mm, self.axes, self.probability = thickness_mm, spacing_mm, axes, probability
        smallest = min(spacing_mm) if isinstance(spacing_mm, Sequence) else spacing_mm
        if not 0 < thickness_mm[0] <= thickness_mm[1] or smallest <= 0:
            raise MedsslError(f"thickness_mm {thickness_mm}, spacing_mm {spacing_mm}: expected 0 < low <= high")
        if axes is not None and (not axes or min(axes) < 0 or max(axes) > 2):
            raise MedsslError(f"axes {axes}: expected one or more of 0, 1, 2")

    def parameters_of(self, keys: Tensor) -> Params:
        return {
            "thickness_mm": uniform(derive_keys(keys, 1), 1, *self.thickness_mm)[:, 0],
            "axis": uniform(derive_keys(keys, 2), 1)[:, 0],
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        dims = x.ndim - 2
        axes = list(self.axes or range(dims))
        spacing = list(self.spacing_mm) if isinstance(self.spacing_mm, Sequence) else [self.spacing_mm] * dims
        if max(axes) >= dims or len(spacing) != dims:
            raise MedsslError(
                f"ThickSlices got {dims} axes with axes {axes} and spacing_mm {spacing}: expected axes of the scan and one "
                f"spacing an axis"
            )
        chosen = (params["axis"] * len(axes)).long()
        for i, axis in enumerate(axes):
            factor = torch.where(chosen == i, params["thickness_mm"] / spacing[axis], 0.0)
            x = along(x, slabs(x.shape[axis + 2], factor), axis)
        return x


def slabs(n: int, factor: Tensor) -> Tensor:
    """(B,) thickness in voxels -> (B, n, n): mean over slabs about the middle, then linear between them. At 1 or less
    nothing is changed; every row sums to 1."""
    f = factor.clamp(min=1.0)[:, None, None]
    voxel = torch.arange(n, device=factor.device, dtype=torch.float32)
    count = int(n) + 2  # slabs enough for a factor of 1; those beyond the scan repeat its ends
    slab = torch.arange(count, device=factor.device) - (count - 1) // 2
    middle = (n - 1) / 2 + slab[None, :, None] * f  # (B, slab, 1) in voxels
    overlap = torch.minimum(middle + f / 2, voxel + 0.5) - torch.maximum(middle - f / 2, voxel - 0.5)
    mean = overlap.clamp(min=0)
    share = mean.sum(2, keepdim=True)
    reach = ((voxel[:, None] - middle.mT) / f).abs()  # (B, voxel, slab) in slabs
    near = (1 - reach).clamp(min=0) * (share.mT > 0.5 * f.clamp(max=n))  # a slab half outside has not been scanned
    near = near / near.sum(2, keepdim=True).clamp(min=1e-6)
    found = near @ (mean / share.clamp(min=1e-6))
    return torch.where(factor[:, None, None] > 1, found, torch.eye(n, device=factor.device))
