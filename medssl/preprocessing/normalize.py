"""The intensities of a scan on the scale that a cache holds, and which of its voxels show the body.

CT stays in HU, int16 and at least -1024. Everything else becomes float16: 8-bit images are
divided by 255, the rest is scaled so that the scan's own 0.5 and 99.5 percentiles are 0 and 1, and clipped to [-1, 4].

    check_voxels(scan)
    scaled = intensity_scale(scan)(scan.array)         # (C, *S), int16 or float32
    body = body_mask(scaled, family_of(scan.modality))  # (C, *S), True in the body
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from medssl.core.errors import ScanError
from medssl.preprocessing.percentiles import percentiles
from medssl.scans.modality import BODY_ABOVE_HU, LOWEST_HU, Family
from medssl.scans.scan import Scan

PERCENTILES = (0.5, 99.5)
CLIP = (-1.0, 4.0)


def check_voxels(scan: Scan) -> None:
    """Raise ScanError for a scan whose voxels are not finite, are all the same, or (CT) are all air."""
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


def intensity_scale(scan: Scan) -> Callable[[np.ndarray], np.ndarray]:
    """What brings any part of a scan to the scale of the cache, int16 or float32, to be resampled before `to_stored_type`."""
    array = scan.array
    if scan.modality == "CT":
        return _in_hu
    if scan.dims == 2 and array.dtype == np.uint8:
        return _from_8_bits
    low, high = percentiles(array, PERCENTILES)
    if high <= low:  # fewer than one voxel in two hundred differs, such as a bright spot on an empty image
        low, high = float(array.min()), float(array.max())
    return functools.partial(_from_range, low=np.float64(low), high=high)


def _in_hu(part: np.ndarray) -> np.ndarray:
    if part.dtype == np.int16:
        return part if part.min() >= LOWEST_HU else np.maximum(part, np.int16(LOWEST_HU))
    return np.clip(part, LOWEST_HU, np.iinfo(np.int16).max).astype(np.float32)


def _from_8_bits(part: np.ndarray) -> np.ndarray:
    return part.astype(np.float32) / 255


def _from_range(part: np.ndarray, low: np.float64, high: float) -> np.ndarray:
    return np.clip((part - low) / (high - low), *CLIP).astype(np.float32)


def to_stored_type(array: np.ndarray, modality: str) -> np.ndarray:
    """Scaled intensities in the type that a cache stores: int16 HU for CT, float16 for the others."""
    if modality != "CT":
        return array.astype(np.float16)
    return array if array.dtype == np.int16 else np.rint(array).astype(np.int16)


def body_mask(array: np.ndarray, family: Family) -> np.ndarray:
    """True where there is body, not air: CT above -950 HU, MR above 0.02 of its range, every voxel of the others."""
    return np.ones(array.shape, bool) if family.body_above is None else array > family.body_above
