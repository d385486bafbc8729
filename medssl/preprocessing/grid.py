"""A scan as a network gets it: RAS+, resampled, intensities on one scale.

CT stays int16 HU (below air is padding: -1024). All else is float16: 8-bit images divided by 255, the rest
scaled so that the scan's own 0.5 and 99.5 percentiles are 0 and 1, clipped to [-1, 4].

    array, mask, affine = conform(scan, spacing_mm=(1.0, 1.0, 1.0))          # (C, X, Y, Z), (X, Y, Z)
"""

from __future__ import annotations

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans import geometry
from medssl.scans.modality import BODY_ABOVE_HU, LOWEST_HU, Family
from medssl.scans.scan import Scan

PERCENTILES = (0.5, 99.5)
CLIP = (-1.0, 4.0)
SAME_SPACING = 1e-3


def conform(
    scan: Scan, spacing_mm: tuple[float, ...] | None = None, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(C, *S) int16 HU or float16, its (*S) uint8 mask or None, and the affine of both.

    spacing_mm: of a volume (None keeps its own); size: (H, W) of an image (None keeps its own).
    Raises ScanError for voxels nothing can be learnt from: not finite, constant, air alone.
    """
    check_voxels(scan)
    array, mask, affine = scale_intensity(scan), scan.mask, scan.affine
    if scan.dims == 3:
        array, affine = geometry.to_ras(array, scan.affine)
        mask = None if mask is None else geometry.to_ras(mask[None], scan.affine)[0][0]
    shape, factors = target_grid(array.shape[1:], geometry.spacing(affine), spacing_mm, size)
    affine = _moved(affine, array.shape[1:], shape, factors)
    if any(abs(factor - 1) > SAME_SPACING for factor in factors):
        array = geometry.zoom(array, factors, shape)
        mask = None if mask is None else geometry.zoom(mask[None], factors, shape, nearest=True)[0]
    return _stored(array, scan.modality), None if mask is None else np.ascontiguousarray(mask), affine


def target_grid(
    shape: tuple[int, ...],
    own_mm: tuple[float, ...],
    spacing_mm: tuple[float, ...] | None,
    size: tuple[int, int] | None,
) -> tuple[tuple[int, ...], list[float]]:
    """The shape to resample to, and how many old voxels make a new one along each axis."""
    if len(shape) == 2:
        target = tuple(size or shape)
        return target, [n / m for n, m in zip(shape, target)]
    if spacing_mm is None or all(abs(new / old - 1) <= SAME_SPACING for old, new in zip(own_mm, spacing_mm)):
        return shape, [1.0] * 3
    return geometry.resampled_shape(shape, own_mm, spacing_mm), [new / old for old, new in zip(own_mm, spacing_mm)]


def check_voxels(scan: Scan) -> None:
    """Raises ScanError for a scan whose voxels are not finite, all the same, or (CT) all air."""
    array = scan.array
    if array.dtype.kind == "f":
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise ScanError(f"{bad} of {array.size} voxels are not finite (NaN or Inf): expected numbers; leave it out")
    low, high = array.min(), array.max()
    if low == high:
        raise ScanError(f"every voxel is {float(low):g}: a constant image shows nothing; leave it out")
    if scan.modality == "CT" and high <= BODY_ABOVE_HU:
        raise ScanError(f"no voxel is above {BODY_ABOVE_HU} HU (highest {float(high):g}): air alone; leave it out")


def scale_intensity(scan: Scan) -> np.ndarray:
    """int16 or float32 on the scale of the cache, before resampling. Raises ScanError where percentiles leave no
    contrast."""
    array = scan.array
    if scan.modality == "CT" and array.dtype == np.int16:
        return array if array.min() >= LOWEST_HU else np.maximum(array, np.int16(LOWEST_HU))
    if scan.modality == "CT":
        return np.clip(array, LOWEST_HU, np.iinfo(np.int16).max).astype(np.float32)
    if scan.dims == 2 and array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    low, high = np.percentile(array, PERCENTILES)
    if high <= low:  # fewer than one voxel in two hundred differs: a spot on nothing
        low, high = float(array.min()), float(array.max())
    return np.clip((array - np.float64(low)) / (high - low), *CLIP).astype(np.float32)


def valid(array: np.ndarray, family: Family) -> np.ndarray:
    """True where there is body, not air: CT above -950 HU, MR above 0.02 of its range, everything
    elsewhere."""
    return np.ones(array.shape, bool) if family.body_above is None else array > family.body_above


def _stored(array: np.ndarray, modality: str) -> np.ndarray:
    if modality == "CT" and array.dtype != np.int16:
        array = np.rint(array).astype(np.int16)
    return array if modality == "CT" else array.astype(np.float16)


def _moved(affine: np.ndarray, old: tuple[int, ...], new: tuple[int, ...], factors: list[float]) -> np.ndarray:
    """The affine of a grid resampled about its centre."""
    step = np.eye(4)
    for axis, (n, m, factor) in enumerate(zip(old, new, factors)):
        step[axis, axis] = factor
        step[axis, 3] = (n - 1) / 2 - (m - 1) / 2 * factor
    return affine @ step
