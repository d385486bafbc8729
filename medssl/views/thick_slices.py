"""Thick slices simulated: what a scan with thicker slices would have seen, on the grid of the original.

    view = ThickSlices(thickness_mm=(3, 6), spacing_mm=(1, 1, 1))

A slice is the mean over its thickness (a box profile, partial volume included), slices are as far apart as they are
thick, and between their middles values are interpolated linearly, as a viewer or a resampler does. The mask stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, Range, View
from medssl.views.random import derive_keys, uniform
from medssl.views.separable import multiply_axis


class ThickSlices(View):
    """Averages over a random slice thickness along one axis.

    Args:
        thickness_mm: Range of the thickness.
        spacing_mm: Distance of the scan's voxels, one number, or one per axis.
        axes: Array axes of which each sample's is drawn; all of them by default.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = ThickSlices(thickness_mm=(3, 6), spacing_mm=(1, 1, 1))
    """

    def __init__(
        self,
        thickness_mm: Range = (2.0, 5.0),
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
            "axis": uniform(derive_keys(keys, 2), 1)[:, 0],  # the place in `axes`, as a share of their number
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        dims = x.ndim - 2
        axes = list(self.axes or range(dims))
        spacing = list(self.spacing_mm) if isinstance(self.spacing_mm, Sequence) else [self.spacing_mm] * dims
        if max(axes) >= dims or len(spacing) != dims:
            raise MedsslError(
                f"ThickSlices got {dims} axes with axes {axes} and spacing_mm {spacing}: expected axes of the scan and one "
                f"spacing per axis"
            )
        chosen = (params["axis"] * len(axes)).long()
        for i, axis in enumerate(axes):
            voxels = torch.where(chosen == i, params["thickness_mm"] / spacing[axis], 0.0)
            x = multiply_axis(x, slice_weights(x.shape[axis + 2], voxels), axis)
        return x


def slice_weights(n: int, thickness: Tensor) -> Tensor:
    """The matrix that turns n voxels into thick slices about the middle, and back to n voxels by linear interpolation.

    Args:
        n: Voxels along the axis.
        thickness: (B,) in voxels; at 1 or less nothing changes.

    Returns:
        (B, n, n); every row sums to 1.
    """
    f = thickness.clamp(min=1.0)[:, None, None]
    voxel = torch.arange(n, device=thickness.device, dtype=torch.float32)
    count = int(n) + 2  # slices enough for a thickness of 1; those beyond the scan repeat its ends
    slices = torch.arange(count, device=thickness.device) - (count - 1) // 2
    middle = (n - 1) / 2 + slices[None, :, None] * f  # (B, slices, 1) in voxels
    overlap = torch.minimum(middle + f / 2, voxel + 0.5) - torch.maximum(middle - f / 2, voxel - 0.5)
    inside = overlap.clamp(min=0)  # (B, slices, n): how much of each voxel lies in each slice
    total = inside.sum(2, keepdim=True)
    distance = ((voxel[:, None] - middle.mT) / f).abs()  # (B, n, slices) in slices
    near = (1 - distance).clamp(min=0) * (total.mT > 0.5 * f.clamp(max=n))  # one half outside was not scanned
    near = near / near.sum(2, keepdim=True).clamp(min=1e-6)
    weights = near @ (inside / total.clamp(min=1e-6))
    return torch.where(thickness[:, None, None] > 1, weights, torch.eye(n, device=thickness.device))
