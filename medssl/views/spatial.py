"""Every move in space - crop, zoom, rotation, flip - as ONE resample of the source to the crop.

    view = Resample(size=(32, 32, 32), zoom=(0.7, 1.4), rotate_degrees=(20, 20, 20), flip=(0.5, 0, 0))
    y = view(x, view.draw(keys))                           # (B, C, *source) -> (B, C, 32, 32, 32)

Voxels are taken as `spacing_mm` apart, so that a rotation is rigid in millimetres. What lies outside of the source is
0: air, since a CT window comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.errors import MedsslError
from medssl.views.base import Params, View, mix, uniform


class Resample(View):
    """Random crop, zoom, rotation and flip, resampled once, linear for scans and nearest for masks.

    size: voxels of the crop, one number an axis.
    zoom: range of the edge of the region that becomes the crop, in crop edges (1: voxel for voxel; 2: twice as far
    apart), drawn log-uniformly; `aspect` jitters the axes apart by up to that factor.
    rotate_degrees: the largest turn about each array axis (3D), or one number (2D).
    flip: the chance to mirror each axis. Axis 0 of a volume is left-right: leave it at 0 where the side matters.
    shift: False keeps the crop in the middle of the source.
    """

    def __init__(
        self,
        size: Sequence[int],
        zoom: tuple[float, float] = (1.0, 1.0),
        aspect: float = 1.0,
        rotate_degrees: Sequence[float] = (),
        flip: Sequence[float] = (),
        shift: bool = True,
        spacing_mm: Sequence[float] | None = None,
    ):
        super().__init__()
        dims = len(size)
        self.size, self.zoom, self.aspect, self.shift = tuple(size), zoom, aspect, shift
        self.rotate_degrees = tuple(rotate_degrees) or (0.0,) * (3 if dims == 3 else 1)
        self.flip = tuple(flip) or (0.0,) * dims
        self.spacing_mm = tuple(spacing_mm or (1.0,) * dims)
        if not 0 < zoom[0] <= zoom[1] or aspect < 1:
            raise MedsslError(f"zoom {zoom}, aspect {aspect}: expected 0 < low <= high and an aspect of 1 or more")
        if (
            len(self.flip) != dims
            or len(self.spacing_mm) != dims
            or len(self.rotate_degrees) != (3 if dims == 3 else 1)
        ):
            raise MedsslError(
                f"a crop of {dims} axes came with flip {self.flip}, spacing_mm {self.spacing_mm}, rotate_degrees "
                f"{self.rotate_degrees}: expected one number an axis (rotation in 2D: one number)"
            )

    def parameters_of(self, keys: Tensor) -> Params:
        dims = len(self.size)
        low, high = math.log(self.zoom[0]), math.log(self.zoom[1])
        zoom = uniform(mix(keys, 1), 1, low, high)
        jitter = uniform(mix(keys, 2), dims, -math.log(self.aspect) / 2, math.log(self.aspect) / 2)
        turns = torch.tensor(self.rotate_degrees, device=keys.device) * math.pi / 180
        return {
            "zoom": (zoom + jitter).exp(),  # (B, d)
            "place": uniform(mix(keys, 3), dims, -1, 1)
            if self.shift
            else torch.zeros(len(keys), dims, device=keys.device),
            "radians": uniform(mix(keys, 4), len(turns), -1, 1) * turns,
            "flip": uniform(mix(keys, 5), dims) < torch.tensor(self.flip, device=keys.device),
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return self._resample(x, params, "bilinear")

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        return self._resample(mask, params, "nearest")

    def _resample(self, x: Tensor, params: Params, mode: str) -> Tensor:
        theta = self._theta(x, params).to(x.device)
        grid = F.affine_grid(theta, [len(x), x.shape[1], *self.size], align_corners=False)
        wide = x if x.dtype.is_floating_point and x.dtype.itemsize >= 4 else x.float()
        return F.grid_sample(wide, grid, mode=mode, padding_mode="zeros", align_corners=False).to(x.dtype)

    def _theta(self, x: Tensor, params: Params) -> Tensor:
        """(B, d, d+1): where in the source (as -1..1, last axis first) each place of the crop lies."""
        size = torch.tensor(self.size, dtype=torch.float32, device=x.device)
        source = torch.tensor(x.shape[2:], dtype=torch.float32, device=x.device)
        spacing = torch.tensor(self.spacing_mm, device=x.device)
        edges = params["zoom"] * torch.where(params["flip"], -size, size)  # (B, d) in source voxels
        turn = rotation(params["radians"])  # (B, d, d) in mm
        voxels = (turn * spacing[None, None, :]) / spacing[None, :, None]
        linear = voxels * edges[:, None, :] / source[None, :, None]
        room = ((source - edges.abs()).clamp(min=0) / source) * params["place"]  # the crop stays inside if it can
        return torch.cat([linear.flip(1, 2), room.flip(1)[..., None]], dim=2)


def rotation(radians: Tensor) -> Tensor:
    """(B, 1) -> (B, 2, 2) or (B, 3) -> (B, 3, 3), turns about axis 0, then 1, then 2."""
    dims = 2 if radians.shape[1] == 1 else 3
    planes = [(0, 1)] if dims == 2 else [(1, 2), (2, 0), (0, 1)]
    whole = torch.eye(dims, device=radians.device).expand(len(radians), dims, dims)
    for turn, (a, b) in zip(radians.unbind(1), planes):
        one = torch.eye(dims, device=radians.device).repeat(len(radians), 1, 1)
        one[:, a, a] = one[:, b, b] = turn.cos()
        one[:, a, b], one[:, b, a] = -turn.sin(), turn.sin()
        whole = one @ whole
    return whole
