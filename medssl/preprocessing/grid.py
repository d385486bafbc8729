"""A scan on the grid of its cohort: volumes turned to RAS+ and resampled to one spacing, images to one size.

array, mask, affine = resample_to_grid(scan.array, scan.mask, scan.affine, spacing_mm=(1.0, 1.0, 1.0))   # (C, X, Y, Z), (X, Y, Z)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medssl.scans import geometry

SAME_SPACING = 1e-3  # a spacing that differs by a smaller share is left as it is


def resample_to_grid(
    array: np.ndarray,
    mask: np.ndarray | None,
    affine: np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    before: Callable[[np.ndarray], np.ndarray] = np.asarray,
    after: Callable[[np.ndarray], np.ndarray] = np.asarray,
    dtype: np.typing.DTypeLike = np.float32,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Resample a scan and its mask to the cohort's grid, and convert its voxels, part by part.

    Args:
        array: (C, *S) intensities.
        mask: (*S) whole numbers, resampled to the nearest one.
        affine: (4, 4) from voxels to mm in RAS+.
        spacing_mm: Spacing of a volume; None keeps its own.
        size: (H, W) of an image; None keeps its own.
        before: What is done to voxels before they are resampled.
        after: What is done to voxels after they were resampled.
        dtype: The type that `after` returns.

    Returns:
        The intensities, the mask and the affine on the new grid.
    """
    if array.ndim == 4:
        mask = None if mask is None else geometry.to_ras(mask[None], affine)[0][0]
        array, affine = geometry.to_ras(array, affine)
    shape, factors = target_grid(array.shape[1:], geometry.spacing(affine), spacing_mm, size)
    moved = _resampled_affine(affine, array.shape[1:], shape, factors)
    if any(abs(factor - 1) > SAME_SPACING for factor in factors):
        array = geometry.zoom(array, factors, shape, before=before, after=after, dtype=dtype)
        mask = None if mask is None else geometry.zoom(mask[None], factors, shape, nearest=True)[0]
    else:
        array = _converted(array, lambda part: after(before(part)), np.dtype(dtype))
    return array, None if mask is None else np.ascontiguousarray(mask), moved


def _converted(array: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], dtype: np.dtype) -> np.ndarray:
    """All voxels converted, part by part."""
    out = np.empty_like(array, dtype)
    for part in geometry.parts_of(array):
        out[part] = convert(array[part])
    return out


def target_grid(
    shape: tuple[int, ...],
    own_mm: tuple[float, ...],
    spacing_mm: Sequence[float] | None,
    size: Sequence[int] | None,
) -> tuple[tuple[int, ...], list[float]]:
    """The shape to resample to, and how many old voxels make a new one along each axis."""
    if len(shape) == 2:
        target = tuple(size or shape)
        return target, [old / new for old, new in zip(shape, target)]
    if spacing_mm is None or all(abs(new / old - 1) <= SAME_SPACING for old, new in zip(own_mm, spacing_mm)):
        return shape, [1.0] * 3
    factors = [new / old for old, new in zip(own_mm, spacing_mm)]
    return geometry.resampled_shape(shape, own_mm, tuple(spacing_mm)), factors


def _resampled_affine(
    affine: np.ndarray, old: tuple[int, ...], new: tuple[int, ...], factors: list[float]
) -> np.ndarray:
    """The affine of a grid that was resampled about its centre."""
    step = np.eye(4)
    for axis, (old_length, new_length, factor) in enumerate(zip(old, new, factors)):
        step[axis, axis] = factor
        step[axis, 3] = (old_length - 1) / 2 - (new_length - 1) / 2 * factor
    return affine @ step
