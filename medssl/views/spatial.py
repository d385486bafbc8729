"""Every move in space (crop, zoom, rotation, shear, elastic, flip) as ONE resampling of the source to the crop.

    view = Resample((96, 96, 96), zoom=(0.7, 1.4), rotate_degrees=(20, 20, 20), elastic_mm=6, flip=0.5)
    y = view(x, view.draw(keys))                           # (B, C, *source) -> (B, C, 96, 96, 96)
    y, mask = view.with_mask(x, mask, view.draw(keys))     # the mask too, nearest neighbour, by the same move

Voxels lie `spacing_mm` apart, so a rotation is rigid in millimetres. A small grid of cubic B-spline control points says
where each voxel of the crop lies in the source, and is interpolated axis by axis. A B-spline reproduces an affine map
exactly, so the elastic part costs nothing on top of it (Rueckert et al. 1999, IEEE TMI 18(8)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, Range, View
from medssl.views.random import derive_keys, uniform
from medssl.views.separable import cubic_bspline, interpolate_grid, linear_weights

LEFT_RIGHT = {2: 1, 3: 0}  # the axis that mirrors left and right: the columns of an image, x of a volume
NO_FOLD = {2: 0.48, 3: 0.40}  # of the control spacing: below it no B-spline folds (Choi & Lee 2000, Graph. Models 62)
THICK = 3.0  # slices this many times as far apart as pixels are not turned out of their plane (nnU-Net's rule)


class Resample(View):
    """Random crop, zoom, rotation, shear, elastic deformation and flip, linear for scans, nearest for masks.

    A crop that is only cut, shifted and flipped is taken from whole voxels, so nothing is interpolated.

    Args:
        size: Voxels of the crop, one number per axis; 1 gives a single slice.
        zoom: Range of the factor, log-uniform, by which the region's edges are longer than `region_mm`.
        aspect: The zooms of two axes differ by up to this factor.
        rotate_degrees: The largest turn about each array axis (3D), or one number (2D); see `limit_turns`.
        flip: The chance to mirror each axis. One number is for all axes but left-right, see `flip_chances`.
        shift: False keeps the crop in the middle of the source.
        spacing_mm: Distance of the source's voxels along each axis; 1 mm by default.
        region_mm: Edges of the region that becomes the crop at zoom 1; by default the crop's own at `spacing_mm`.
        shear_degrees: The largest shear of each axis along each other.
        elastic_mm: The largest displacement of a control point along an axis, in mm of the region at zoom 1. Each
            sample's is drawn from 0 to it. More than 0.48 (2D) or 0.40 (3D) of `elastic_every_mm` could fold the scan
            onto itself and raises MedsslError (Choi & Lee 2000).
        elastic_every_mm: Distance of the control points; by default a quarter of the region's shortest edge.
        outside: The value of what lies outside of the source: 0.0 is air after a window, -1000.0 is air in HU. "reflect"
            mirrors the source at its edges (a mask is 0 there), "error" raises MedsslError for a source that is smaller
            than the largest region.

    Example:
        >>> view = Resample((16, 16, 16), zoom=(0.8, 1.2), rotate_degrees=(15, 15, 15), flip=0.5)
    """

    def __init__(
        self,
        size: Sequence[int],
        zoom: Range = (1.0, 1.0),
        aspect: float = 1.0,
        rotate_degrees: Sequence[float] = (),
        flip: float | Sequence[float] = (),
        shift: bool = True,
        spacing_mm: Sequence[float] | None = None,
        region_mm: Sequence[float] | None = None,
        shear_degrees: float = 0.0,
        elastic_mm: float = 0.0,
        elastic_every_mm: float | None = None,
        outside: float | str = 0.0,
    ):
        super().__init__()
        dims = len(size)
        self.size, self.zoom, self.aspect, self.shift = tuple(size), tuple(zoom), aspect, shift
        self.dims = (dims,)
        self.rotate_degrees = tuple(rotate_degrees) or (0.0,) * (3 if dims == 3 else 1)
        self.flip = flip_chances(flip, dims) if isinstance(flip, (int, float)) else tuple(flip) or (0.0,) * dims
        self.spacing_mm = tuple(spacing_mm or (1.0,) * dims)
        self.region_mm = tuple(region_mm or (n * s for n, s in zip(self.size, self.spacing_mm)))
        self.shear_degrees, self.elastic_mm, self.outside = shear_degrees, elastic_mm, outside
        shortest = min([edge for edge, n in zip(self.region_mm, size) if n > 1], default=1.0)
        self.elastic_every_mm = shortest / 4 if elastic_every_mm is None else elastic_every_mm
        self._check_lengths()
        self._check_ranges()
        self._check_elastic()
        interpolates = (self.zoom != (1, 1), aspect > 1, any(self.rotate_degrees), shear_degrees, elastic_mm)
        own_region = all(math.isclose(r, n * s) for r, n, s in zip(self.region_mm, self.size, self.spacing_mm))
        self.whole_voxels = own_region and not any(interpolates)

    def _check_lengths(self) -> None:
        dims = len(self.size)
        if dims not in (2, 3) or any(n < 1 for n in self.size):
            raise MedsslError(f"size {self.size}: expected 2 or 3 numbers of 1 or more")
        lists = (len(self.flip), len(self.spacing_mm), len(self.region_mm))
        if set(lists) != {dims} or len(self.rotate_degrees) != (3 if dims == 3 else 1):
            raise MedsslError(
                f"a crop of {dims} axes came with flip {self.flip}, spacing_mm {self.spacing_mm}, region_mm {self.region_mm}, "
                f"rotate_degrees {self.rotate_degrees}: expected one number per axis (rotation in 2D: one number)"
            )

    def _check_ranges(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] or self.aspect < 1:
            raise MedsslError(
                f"zoom {self.zoom}, aspect {self.aspect}: expected 0 < low <= high and an aspect of 1 or more"
            )
        if min(self.spacing_mm) <= 0 or min(self.region_mm) <= 0 or self.elastic_every_mm <= 0:
            raise MedsslError(
                f"spacing_mm {self.spacing_mm}, region_mm {self.region_mm}, elastic_every_mm {self.elastic_every_mm}: "
                f"expected numbers above 0"
            )
        if min(self.rotate_degrees) < 0 or not 0 <= self.shear_degrees < 45 or not all(0 <= p <= 1 for p in self.flip):
            raise MedsslError(
                f"rotate_degrees {self.rotate_degrees}, shear_degrees {self.shear_degrees}, flip {self.flip}: "
                f"expected turns of 0 or more, a shear from 0 to 45, chances from 0 to 1"
            )
        if isinstance(self.outside, str) and self.outside not in ("error", "reflect"):
            raise MedsslError(f'outside "{self.outside}": expected a value such as 0.0, "reflect" or "error"')

    def _check_elastic(self) -> None:
        maximum = NO_FOLD[len(self.size)] * self.elastic_every_mm
        if not 0 <= self.elastic_mm <= maximum:
            raise MedsslError(
                f"elastic_mm {self.elastic_mm} with control points {self.elastic_every_mm:g} mm apart: expected 0 to {maximum:g}, "
                f"beyond which the scan may fold; lower it, or raise elastic_every_mm"
            )

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        turns = (20.0,) * (3 if dims == 3 else 1)
        return (cls((16,) * dims, (0.7, 1.2), 1.2, turns, 0.5, shear_degrees=5, elastic_mm=1.5), cls((12,) * dims))

    def parameters_of(self, keys: Tensor) -> Params:
        dims, device = len(self.size), keys.device
        low, high = math.log(self.zoom[0]), math.log(self.zoom[1])
        zoom = uniform(derive_keys(keys, 1), 1, low, high)
        jitter = uniform(derive_keys(keys, 2), dims, -math.log(self.aspect) / 2, math.log(self.aspect) / 2)
        turns = torch.tensor(self.rotate_degrees, device=device) * math.pi / 180
        params = {
            "zoom": (zoom + jitter).exp(),  # (B, d)
            "place": uniform(derive_keys(keys, 3), dims, -1, 1) * self.shift,
            "radians": uniform(derive_keys(keys, 4), len(turns), -1, 1) * turns,
            "flip": uniform(derive_keys(keys, 5), dims) < torch.tensor(self.flip, device=device),
        }
        if self.shear_degrees:
            steepest = math.tan(math.radians(self.shear_degrees))
            params["shear"] = uniform(derive_keys(keys, 6), dims * (dims - 1), -steepest, steepest)
        if self.elastic_mm:
            params["elastic_mm"] = uniform(derive_keys(keys, 7), 1, 0, self.elastic_mm)[:, 0]
            params["elastic_key"] = derive_keys(keys, 8)
        return params

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return self._resample([x], ["bilinear"], params)[0]

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        return self._resample([mask], ["nearest"], params)[0]

    def change_with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        image, moved = self._resample([x, mask], ["bilinear", "nearest"], params)
        return image, moved

    def matrix(self, params: Params, source: Sequence[int]) -> Tensor:
        """(B, d+1, d+1): index of a voxel of the crop -> index in the source, without the elastic part.

        `affine @ matrix` is the crop's own affine.

        Args:
            params: What `draw` returned.
            source: Voxels of the source along each axis.
        """
        device = params["zoom"].device
        size, shape = (torch.tensor(n, dtype=torch.float32, device=device) for n in (self.size, tuple(source)))
        spacing = torch.tensor(self.spacing_mm, device=device)
        edges = self.edges(params)
        turn = rotation(params["radians"]) @ self._shear(params)  # (B, d, d) in mm
        steps = torch.where(params["flip"], -edges, edges) / size
        linear = turn * (spacing * steps)[:, None, :] / spacing[:, None]
        room = (shape - edges).clamp(min=0) / 2 * params["place"]  # the crop stays inside if it can
        offset = (shape - 1) / 2 + room - (linear @ ((size - 1) / 2))
        if self.whole_voxels:
            offset = offset.round()
        last = torch.eye(len(self.size) + 1, device=device)[-1].expand(len(edges), 1, -1)
        return torch.cat([torch.cat([linear, offset[..., None]], 2), last], 1)

    def edges(self, params: Params) -> Tensor:
        """(B, d): the edges of the regions, in voxels of the source."""
        device = params["zoom"].device
        return params["zoom"] * torch.tensor([r / s for r, s in zip(self.region_mm, self.spacing_mm)], device=device)

    def largest_region(self) -> tuple[float, ...]:
        """The longest edges that can be drawn, in voxels of the source."""
        zoom = self.zoom[1] * math.sqrt(self.aspect)
        return tuple(zoom * r / s for r, s in zip(self.region_mm, self.spacing_mm))

    def displacement(self, params: Params) -> Tensor:
        """(B, d, *control): how far each control point moves, in voxels of the crop; drawn again from its key."""
        counts = [len(points) for points in self.control_points()]
        drawn = uniform(params["elastic_key"], len(counts) * math.prod(counts), -1, 1)
        voxel_mm = torch.tensor([r / n for r, n in zip(self.region_mm, self.size)], device=drawn.device)
        scale = params["elastic_mm"][:, None] / voxel_mm
        return drawn.reshape(len(drawn), len(counts), *counts) * scale.reshape(*scale.shape, *[1] * len(counts))

    def control_points(self) -> list[Tensor]:
        """The places of the control points on each axis, in voxels of the crop: evenly about the middle, one cell beyond."""
        if not self.elastic_mm:
            return [torch.tensor([0.0, max(n - 1, 1)]) for n in self.size]
        points = []
        for n, region in zip(self.size, self.region_mm):
            step = self.elastic_every_mm * n / region
            cells = max(1, math.ceil((n - 1) / step))
            points.append((n - 1) / 2 + step * (torch.arange(cells + 3) - 1 - cells / 2))
        return points

    def _weights(self, device: torch.device) -> list[Tensor]:
        """For each axis the weight (n, control) of every control point in every voxel; each row sums to 1."""
        places = [torch.arange(n, dtype=torch.float64) for n in self.size]
        basis = cubic_bspline if self.elastic_mm else linear_weights
        weights = [basis((p[:, None] - k) / (k[1] - k[0])) for p, k in zip(places, self.control_points())]
        return [w.float().to(device) for w in weights]

    def _control_points_in_source(self, params: Params, source: Sequence[int]) -> Tensor:
        """(B, d, *control): where in the source, in voxels, the crop's control points lie."""
        matrix = self.matrix(params, source)
        dims, device = len(self.size), matrix.device
        points = torch.stack(torch.meshgrid(*[k.to(device) for k in self.control_points()], indexing="ij"))[None]
        if self.elastic_mm:
            points = points + self.displacement(params)
        flat = points.expand(len(matrix), *points.shape[1:]).flatten(2)  # (B, d, points)
        moved = matrix[:, :dims, :dims] @ flat + matrix[:, :dims, dims:]
        return moved.reshape(len(matrix), *points.shape[1:])

    def _resample(self, images: list[Tensor], modes: list[str], params: Params) -> list[Tensor]:
        """All images, resampled by the same grid."""
        source = images[0].shape[2:]
        self._check_source(source)
        controls = self._control_points_in_source({k: v.to(images[0].device) for k, v in params.items()}, source)
        shape = torch.tensor(source, device=controls.device).reshape(-1, *[1] * len(source))
        controls = ((2 * controls + 1) / shape - 1).flip(1).movedim(1, -1)  # grid_sample's -1..1, last axis first
        grid = interpolate_grid(controls[:, None], self._weights(controls.device))[:, 0]  # (B, *size, d)
        return [self._sample(image, grid, mode) for image, mode in zip(images, modes)]

    def _sample(self, x: Tensor, grid: Tensor, mode: str) -> Tensor:
        fill = self.outside if mode == "bilinear" and isinstance(self.outside, float | int) else 0.0
        shifted = x.float() - fill if fill else x.float()  # so that zeros, outside, become `fill`
        beyond = "reflection" if self.outside == "reflect" and mode == "bilinear" else "zeros"
        sampled = F.grid_sample(shifted, grid, mode=mode, padding_mode=beyond, align_corners=False)
        return (sampled + fill if fill else sampled).to(x.dtype)

    def _check_source(self, source: Sequence[int]) -> None:
        largest = tuple(math.ceil(n - 1e-6) for n in self.largest_region())
        if self.outside == "error" and any(a > b for a, b in zip(largest, source)):
            raise MedsslError(
                f"the crop's region can be {largest} voxels, the source is {tuple(source)}: expected a source that holds it; "
                f"lower zoom or region_mm, or pad what is missing with outside=0.0"
            )

    def _shear(self, params: Params) -> Tensor:
        """(B, d, d): ones on the diagonal, the tangents of the shears beside it."""
        dims = len(self.size)
        one = torch.eye(dims, device=params["zoom"].device).repeat(len(params["zoom"]), 1, 1)
        if "shear" in params:
            one[:, ~torch.eye(dims, dtype=torch.bool, device=one.device)] = params["shear"]
        return one


def flip_chances(chance: float, dims: int) -> tuple[float, ...]:
    """The chance to mirror each axis but left-right: heart and liver have a side, and so has a chest radiograph.

    Args:
        chance: The chance to mirror an axis.
        dims: Number of spatial axes, 2 or 3.
    """
    return tuple(0.0 if axis == LEFT_RIGHT[dims] else float(chance) for axis in range(dims))


def limit_turns(degrees: float, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """The largest turn about each axis; thick slices are turned only within their plane, since no voxel is a cube.

    Args:
        degrees: The largest turn where voxels are about cubes.
        spacing_mm: Distance of the voxels along each axis.
    """
    if len(spacing_mm) == 2:
        return (degrees,)
    across = max(range(3), key=lambda axis: spacing_mm[axis])
    thick = spacing_mm[across] / min(spacing_mm) > THICK
    return tuple(degrees if axis == across or not thick else 0.0 for axis in range(3))


def rotation(radians: Tensor) -> Tensor:
    """(B, 1) -> (B, 2, 2) or (B, 3) -> (B, 3, 3): turns about axis 0, then 1, then 2."""
    dims = 2 if radians.shape[1] == 1 else 3
    planes = [(0, 1)] if dims == 2 else [(1, 2), (2, 0), (0, 1)]
    result = torch.eye(dims, device=radians.device).expand(len(radians), dims, dims)
    for angle, (a, b) in zip(radians.unbind(1), planes):
        turn = torch.eye(dims, device=radians.device).repeat(len(radians), 1, 1)
        turn[:, a, a] = turn[:, b, b] = angle.cos()
        turn[:, a, b], turn[:, b, a] = -angle.sin(), angle.sin()
        result = turn @ result
    return result
