"""Slices -> one straight, even stack and its affine, or a refusal that says what is wrong and where.

A stack is trusted when its planes are parallel, lie on one line along their normal within 0.1 mm, and follow
each other in even steps within a tenth of a step (at most 0.1 mm). Nothing is averaged, dropped or filled in.

    affine_lps = stack_affine(slices)        # (4, 4), voxel (column, row, slice) -> mm in DICOM's LPS world
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.errors import ScanError
from medssl.scans.dicom_slices import Slice

OFF_LINE_MM = 0.1  # slices may lie this far beside the line they are stacked along
DUPLICATE_MM = 1e-3
GAP_SHARE = 0.25  # more steps than this being too long is no missing slice but uneven spacing


def stack_affine(slices: Sequence[Slice]) -> np.ndarray:
    """Voxel (column, row, slice) -> mm in LPS. Raises ScanError where the slices are not an even, straight
    stack."""
    _check_planes(slices)
    slices = along_normal(slices)
    positions = np.array([item.position for item in slices])
    _check_stack(positions, normal_of(slices[0]))
    orientation = np.array(slices[0].orientation)
    rows_mm, columns_mm = slices[0].spacing_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * columns_mm
    affine[:3, 1] = orientation[3:] * rows_mm
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return affine


def _check_planes(slices: Sequence[Slice]) -> None:
    total = len(slices)
    for field, tag in (
        ("position", "ImagePositionPatient, 0020,0032"),
        ("orientation", "ImageOrientationPatient, 0020,0037"),
        ("spacing_mm", "PixelSpacing, 0028,0030"),
    ):
        missing = sum(getattr(item, field) is None for item in slices)
        if missing:
            raise ScanError(f"{missing} of {total} slices have no {field} ({tag}): expected one each; fix the header")
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > 1e-3 or max(abs(length - 1) for length in lengths) > 1e-3:
        raise ScanError(
            f"ImageOrientationPatient (0020,0037) has lengths {lengths[0]:.4f}, {lengths[1]:.4f} and a "
            "product of "
            f"{row @ column:.4f}: expected 1, 1 and 0; fix the header"
        )
    sizes = np.array([item.spacing_mm for item in slices])
    if np.ptp(sizes, axis=0).max() > 1e-3 * sizes.min():
        raise ScanError(
            f"PixelSpacing (0028,0030) runs from {sizes.min():g} to {sizes.max():g} mm within the series: "
            "expected "
            "one size; split the series"
        )


def _check_stack(positions: np.ndarray, normal: np.ndarray) -> None:
    """positions: (slices, 3), in order along the normal."""
    depth = positions @ normal
    steps = np.diff(depth)
    _check_repeats(depth, steps)
    step = float(np.median(steps))
    tolerance = min(OFF_LINE_MM, 0.1 * step)
    line = positions[0] + np.outer(depth - depth[0], normal)
    shift = float(np.linalg.norm(positions - line, axis=1).max())
    if shift > OFF_LINE_MM:
        degrees = np.degrees(np.arctan2(shift, depth[-1] - depth[0]))
        raise ScanError(
            f"slices shift sideways by up to {shift:.2f} mm over {depth[-1] - depth[0]:.2f} mm: expected a "
            "straight "
            f"stack (gantry tilt of {degrees:.1f} degrees?); correct the tilt first"
        )
    _check_gaps(depth, steps, step, tolerance)
    even = np.linspace(depth[0], depth[-1], len(depth))
    drift = float(np.abs(depth - even).max())
    if drift > tolerance:
        raise ScanError(
            f"slice positions leave the even grid by up to {drift:.3f} mm (step {step:.3f} mm): expected "
            "at "
            "most "
            f"{tolerance:.3f}; resample the series first"
        )


def _check_repeats(depth: np.ndarray, steps: np.ndarray) -> None:
    new_place = np.concatenate([[True], steps > DUPLICATE_MM])
    places = int(new_place.sum())
    total = len(depth)
    counts = np.bincount(np.cumsum(new_place) - 1)
    if places == total:
        return
    if places == 1:
        raise ScanError(f"all {total} slices lie at one place ({depth[0]:.2f} mm): expected a stack; not a volume")
    if (counts == counts[0]).all():
        raise ScanError(
            f"each of {places} places holds {counts[0]} slices: a 4D series (time, echo, diffusion) is not "
            "read yet; "
            "split it, or convert it to NIfTI with dcm2niix first"
        )
    twice = depth[int(np.flatnonzero(~new_place)[0])]
    raise ScanError(
        f"duplicate position: {total} slices lie at {places} places, two of them at {twice:.2f} mm: "
        "expected "
        "one "
        "slice a place; remove the copies"
    )


def _check_gaps(depth: np.ndarray, steps: np.ndarray, step: float, tolerance: float) -> None:
    off = np.flatnonzero(np.abs(steps - step) > tolerance)
    if not len(off):
        return
    counts = np.rint(steps[off] / step).astype(int)
    few = len(off) <= GAP_SHARE * len(steps)
    if few and (counts >= 2).all() and (np.abs(steps[off] - counts * step) <= tolerance).all():
        at = int(off[0])
        raise ScanError(
            f"missing slice: {int((counts - 1).sum())} of {len(depth) + int((counts - 1).sum())}, the "
            "first "
            "between "
            f"{depth[at]:.2f} and {depth[at + 1]:.2f} mm where the step is {step:.3f} mm; fetch the series "
            "again"
        )
    raise ScanError(
        f"uneven spacing: steps run from {steps.min():.3f} to {steps.max():.3f} mm: expected one (are "
        "slices "
        "missing?); fetch the series again, or resample it first"
    )


def along_normal(slices: Sequence[Slice]) -> list[Slice]:
    """The slices by their position along the normal of their planes."""
    normal = normal_of(slices[0])
    return sorted(slices, key=lambda item: float(np.dot(item.position or (0, 0, 0), normal)))


def normal_of(item: Slice) -> np.ndarray:
    """The unit vector across a slice, in LPS."""
    orientation = item.orientation or (1, 0, 0, 0, 1, 0)
    return np.cross(orientation[:3], orientation[3:])
