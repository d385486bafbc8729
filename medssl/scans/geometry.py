"""Where voxels lie: spacing, orientation, reorienting to RAS+, resampling, and whether two grids agree.

array, affine = to_ras(scan.array, scan.affine)            # (C, X, Y, Z), axes along R, A, S
array = resample(array, spacing(affine), (1.0, 1.0, 1.0))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np
from scipy import ndimage

from medssl.core.errors import ScanError

SAME_GRID_MM = 0.1  # grids of an image and its mask may lie this far apart
SHEAR_DEGREES = 1.0  # a NIfTI's axes may be this far from right angles
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PART_VOXELS = 1 << 21  # that are resampled at once: 8 MiB as float32
BLUR_REACH = 4.0  # standard deviations at which the blur ends
SPACING_LIMITS_MM = (1e-3, 1e3)


def spacing(affine: np.ndarray) -> tuple[float, ...]:
    """mm between voxels along each of the three axes."""
    return tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))


def orientation(affine: np.ndarray) -> str:
    """Where each axis runs to, nearest letters: "RAS", "LPS", ..."""
    return "".join(nib.orientations.aff2axcodes(affine))


def check_affine(affine: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Notes on an affine that can be used.

    Args:
        affine: (4, 4), voxel index -> mm in RAS+.
        shape: Voxels along each axis, without channels.

    Raises:
        ScanError: The affine is not finite, has a step of zero, or is sheared.
    """
    if not np.isfinite(affine).all():
        raise ScanError("the affine holds a number that is not finite: expected millimetres; fix the header")
    steps = spacing(affine)
    for axis, step in enumerate(steps):
        if not SPACING_LIMITS_MM[0] <= step <= SPACING_LIMITS_MM[1]:
            raise ScanError(
                f"spacing_mm[{axis}] is {step:g}: expected between {SPACING_LIMITS_MM[0]:g} and "
                f"{SPACING_LIMITS_MM[1]:g} mm; fix the header"
            )
    return _check_shear(affine[:3, :3] / steps, affine, shape)


def _check_shear(unit: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    cosines = np.abs((unit.T @ unit)[np.triu_indices(3, 1)])
    degrees = float(np.degrees(np.arcsin(min(1.0, cosines.max()))))
    if degrees > SHEAR_DEGREES:
        raise ScanError(
            f"the affine is sheared by {degrees:.2f} degrees: expected axes at right angles within "
            f"{SHEAR_DEGREES:g}; resample the volume to a straight grid first"
        )
    shift_mm = cosines.max() * max(n * s for n, s in zip(shape, spacing(affine)))
    return (f"affine sheared by {degrees:.3f} degrees: taken as straight",) if shift_mm > SAME_GRID_MM else ()


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip a volume so that its axes run nearest to R, A, S; no voxel changes. Returns it with its affine.

    Args:
        array: (C, *S).
        affine: (4, 4), voxel index -> mm in RAS+.
    """
    return reorient(array, affine, "RAS")


def reorient(array: np.ndarray, affine: np.ndarray, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip a volume to the axes of `target`; no voxel changes. Returns it with its affine.

    Args:
        array: (C, *S).
        affine: (4, 4), voxel index -> mm in RAS+.
        target: Where each axis shall run to, such as "LPS".
    """
    move = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(target))
    )
    reoriented = nib.orientations.apply_orientation(np.moveaxis(array, 0, -1), move)
    return np.moveaxis(reoriented, -1, 0), affine @ nib.orientations.inv_ornt_aff(move, array.shape[1:])


def ras_order(affine: np.ndarray, values: tuple) -> tuple:
    """Values given one per axis as stored, in the order they have once the volume is RAS+.

    Args:
        affine: (4, 4) of the volume as stored.
        values: Three values, one per axis as stored.
    """
    axes = nib.orientations.io_orientation(affine)[:, 0]
    return tuple(values[int(np.flatnonzero(axes == world)[0])] for world in range(3))


def corners_apart_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """The farthest that any corner of a grid moves between two affines, in mm.

    Args:
        first: (4, 4), voxel index -> mm in RAS+.
        second: (4, 4), voxel index -> mm in RAS+.
        shape: Voxels along each axis, without channels.
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))], float)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def check_same_grid(
    shape: tuple[int, ...], affine: np.ndarray, mask_shape: tuple[int, ...], mask_affine: np.ndarray
) -> None:
    """Raise ScanError unless a mask lies on its image's grid; either may be stored in any order.

    Args:
        shape: Voxels of the image along each axis, without channels.
        affine: (4, 4) of the image.
        mask_shape: Voxels of the mask along each axis.
        mask_affine: (4, 4) of the mask.
    """
    if len(shape) == 3 and len(mask_shape) == 3:
        shape, affine = _grid_in_ras(shape, affine)
        mask_shape, mask_affine = _grid_in_ras(mask_shape, mask_affine)
    if shape != mask_shape:
        raise ScanError(
            f"the mask has shape {_shape_text(mask_shape)}, its image {_shape_text(shape)}: expected the same grid; resample "
            "the mask onto the image"
        )
    apart = corners_apart_mm(affine, mask_affine, shape) if len(shape) == 3 else 0.0
    if apart > SAME_GRID_MM:
        raise ScanError(
            f"mask and image lie {apart:.2f} mm apart: expected at most {SAME_GRID_MM} mm; resample the mask onto the image"
        )


def _grid_in_ras(shape: tuple[int, ...], affine: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    nothing = np.broadcast_to(np.int8(0), (1, *shape))
    reoriented, affine = to_ras(nothing, affine)
    return reoriented.shape[1:], affine


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def resampled_shape(shape: tuple[int, ...], old_mm: tuple[float, ...], new_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels that cover the same extent at another spacing; at least one per axis.

    Args:
        shape: Voxels along each axis, without channels.
        old_mm: Spacing along each axis.
        new_mm: The other spacing along each axis.
    """
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, old_mm, new_mm))


def resample(
    array: np.ndarray,
    old_mm: tuple[float, ...],
    new_mm: tuple[float, ...],
    shape: tuple[int, ...] | None = None,
    nearest: bool = False,
) -> np.ndarray:
    """(C, *S) at another spacing about the same centre, as float32: linear, blurred first where it gets coarser.

    Args:
        array: (C, *S).
        old_mm: Its spacing.
        new_mm: The spacing of the result.
        shape: The shape of the result, to return to a grid one started from.
        nearest: Take the nearest voxel instead, and keep the type.
    """
    shape = shape or resampled_shape(array.shape[1:], old_mm, new_mm)
    factors = [new / old for old, new in zip(old_mm, new_mm)]
    return zoom(array, factors, shape, nearest)


def zoom(
    array: np.ndarray,
    factors: list[float],
    shape: tuple[int, ...],
    nearest: bool = False,
    before: Callable[[np.ndarray], np.ndarray] | None = None,
    after: Callable[[np.ndarray], np.ndarray] | None = None,
    dtype: np.typing.DTypeLike = np.float32,
) -> np.ndarray:
    """A volume at another spacing, (C, *shape), centre on centre, edges repeated.

    It is made part by part along the first axis of S, so that beside the two volumes only parts are in memory.

    Args:
        array: (C, *S).
        factors: Old voxels to a new one, along each axis.
        shape: Voxels of the result along each axis.
        nearest: Take the nearest voxel, and keep the type, instead of blurring and interpolating.
        before: What is done to the voxels first, such as scaling; voxel by voxel.
        after: What is done to those of the result, voxel by voxel.
        dtype: Type of the result; the array's own with `nearest`.
    """
    offsets = [(n - 1) / 2 - (m - 1) / 2 * f for n, m, f in zip(array.shape[1:], shape, factors)]
    out = np.empty((array.shape[0], *shape), array.dtype if nearest else dtype)
    for channel, result in zip(array, out):
        if nearest:
            ndimage.affine_transform(channel, factors, offsets, shape, output=result, order=0, mode="nearest")
            continue
        for first, last in _parts(shape[0], int(np.prod(array.shape[2:])) * factors[0]):
            part = _zoomed_part(channel, factors, offsets, shape, (first, last), before)
            result[first:last] = part if after is None else after(part)
    return out


def parts_of(array: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Places that together cover an array, each of about PART_VOXELS voxels, along the axis that varies slowest in memory.

    Args:
        array: Of any shape.
    """
    axis = int(np.argmax(np.abs(array.strides) * (np.array(array.shape) > 1)))
    length = array.shape[axis]
    for first, last in _parts(length, array.size / max(1, length)):
        yield (slice(None),) * axis + (slice(first, last),)


def _parts(count: int, voxels_each: float) -> list[tuple[int, int]]:
    """Ranges of rows of about PART_VOXELS voxels in all."""
    step = max(1, int(PART_VOXELS / max(1.0, voxels_each)))
    return [(first, min(count, first + step)) for first in range(0, count, step)]


def _zoomed_part(
    channel: np.ndarray,
    factors: list[float],
    offsets: list[float],
    shape: tuple[int, ...],
    rows: tuple[int, int],
    before: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    """Some rows of the result as float32, from the rows of the channel that they depend on."""
    sigmas = [max(0.0, (factor - 1) / 2) for factor in factors]
    reach = int(BLUR_REACH * sigmas[0] + 0.5)
    ends = [int(np.floor(offsets[0] + factors[0] * row)) for row in (rows[0], rows[1] - 1)]
    low = min(max(0, ends[0] - reach), len(channel) - 1)
    high = max(low + 1, min(len(channel), ends[1] + 2 + reach))
    part = channel[low:high] if before is None else before(channel[low:high])
    part = np.array(part, np.float32)
    ndimage.gaussian_filter(part, sigmas, mode="nearest", truncate=BLUR_REACH, output=part)
    start = [offsets[0] + factors[0] * rows[0] - low, *offsets[1:]]
    return ndimage.affine_transform(part, factors, start, (rows[1] - rows[0], *shape[1:]), order=1, mode="nearest")
