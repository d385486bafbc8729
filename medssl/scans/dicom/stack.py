"""Slices -> one straight, even stack and its affine, or a ScanError that says what is wrong and where.

A stack is trusted when its planes are parallel, lie on one line along their normal within 0.1 mm, and follow
each other in even steps within a tenth of a step (at most 0.1 mm). Nothing is averaged, dropped or filled in,
unless the user asks for it: `correct` may name "tilt" and "spacing", see corrections.py.

    stack = build_stack(slices, correct=())
    stack.affine_lps                         # (4, 4), voxel (column, row, slice) -> mm in DICOM's LPS world
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.dicom.corrections import Correction, even_steps, straighten
from medssl.scans.dicom.frames import OFF_LINE_MM, Frames, normal_of, sort_frames
from medssl.scans.dicom.slices import Slice

GAP_SHARE = 0.25  # up to this share of wrong distances, slices are missing; above it, the spacing is uneven


@dataclass(frozen=True)
class Stack:
    """The slices as frames[time][place], the output grid, and what has to be corrected.

    shape: (columns, rows, places) of that grid.
    """

    frames: Frames
    affine_lps: np.ndarray
    shape: tuple[int, int, int]
    corrections: tuple[Correction, ...] = ()
    notes: tuple[str, ...] = ()


def build_stack(slices: Sequence[Slice], correct: Sequence[str] = ()) -> Stack:
    """The slices as a stack.

    Raises:
        ScanError: They are not straight and even, and `correct` does not name the remedy.
    """
    _check_planes(slices)
    frames, notes = sort_frames(slices)
    positions = np.array([item.position for item in frames[0]])
    if len(positions) == 1:
        depth = float(positions[0] @ normal_of(slices[0]))
        raise ScanError(
            f"all {len(slices)} slices have one position ({depth:.2f} mm): expected different ones; they are not a volume"
        )
    orientation = np.array(slices[0].orientation)
    rows_mm, columns_mm = slices[0].spacing_mm or (1.0, 1.0)
    axes = np.stack([orientation[:3] * columns_mm, orientation[3:] * rows_mm], axis=1)
    positions, tilt = _straight(positions, axes, correct)
    positions, uneven = _even(positions, normal_of(slices[0]), correct)
    corrections = tuple(part for part in (tilt, uneven) if part)
    affine = np.eye(4)
    affine[:3, :2] = axes
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    rows, columns = slices[0].size
    more_columns, more_rows = tilt.grown if tilt else (0, 0)
    shape = (columns + more_columns, rows + more_rows, len(positions))
    return Stack(frames, affine, shape, corrections, notes + tuple(part.note for part in corrections))


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
            f"ImageOrientationPatient (0020,0037) has direction cosines of lengths {lengths[0]:.4f}, {lengths[1]:.4f} and a "
            f"product of {row @ column:.4f}: expected 1, 1 and 0; fix the header"
        )
    sizes = np.array([item.spacing_mm for item in slices])
    if np.ptp(sizes, axis=0).max() > 1e-3 * sizes.min():
        raise ScanError(
            f"PixelSpacing (0028,0030) runs from {sizes.min():g} to {sizes.max():g} mm within the series: expected one "
            "size; split the series"
        )


def _straight(positions: np.ndarray, axes: np.ndarray, correct: Sequence[str]) -> tuple[np.ndarray, Correction | None]:
    """Positions (slices, 3) on one line along the normal. Raises ScanError for a tilt that may not be corrected."""
    normal = np.cross(axes[:, 0], axes[:, 1])
    normal /= np.linalg.norm(normal)
    depth = positions @ normal
    line = positions[0] + np.outer(depth - depth[0], normal)
    shift = float(np.linalg.norm(positions - line, axis=1).max())
    if shift <= OFF_LINE_MM:
        return positions, None
    degrees = float(np.degrees(np.arctan2(shift, depth[-1] - depth[0])))
    if "tilt" not in correct:
        raise ScanError(
            f"slices shift sideways by up to {shift:.2f} mm over {depth[-1] - depth[0]:.2f} mm: expected a straight stack "
            f"(gantry tilt of {degrees:.1f} degrees?); index with --correct tilt to shear it straight"
        )
    return straighten(positions, depth, line, axes, degrees)


def _even(positions: np.ndarray, normal: np.ndarray, correct: Sequence[str]) -> tuple[np.ndarray, Correction | None]:
    """Positions (slices, 3) in even steps. Raises ScanError for uneven ones that may not be corrected."""
    depth = positions @ normal
    steps = np.diff(depth)
    step = float(np.median(steps))
    tolerance = min(OFF_LINE_MM, 0.1 * step)
    even = np.linspace(depth[0], depth[-1], len(depth))
    drift = float(np.abs(depth - even).max())
    if np.abs(steps - step).max() <= tolerance and drift <= tolerance:
        return positions, None
    if "spacing" in correct:
        return even_steps(positions, depth, normal)
    _check_gaps(depth, steps, step, tolerance)
    raise ScanError(
        f"slice positions differ from even spacing by up to {drift:.3f} mm (step {step:.3f} mm): expected at most "
        f"{tolerance:.3f}; index with --correct spacing to resample the series"
    )


def _check_gaps(depth: np.ndarray, steps: np.ndarray, step: float, tolerance: float) -> None:
    """Raise ScanError for steps that are too long or too short: a missing slice, or uneven spacing."""
    off = np.flatnonzero(np.abs(steps - step) > tolerance)
    if not len(off):
        return
    counts = np.rint(steps[off] / step).astype(int)
    few = len(off) <= GAP_SHARE * len(steps)
    if few and (counts >= 2).all() and (np.abs(steps[off] - counts * step) <= tolerance).all():
        at, gone = int(off[0]), int((counts - 1).sum())
        raise ScanError(
            f"missing slice: {gone} of {len(depth) + gone}, the first between {depth[at]:.2f} and {depth[at + 1]:.2f} mm "
            f"where the step is {step:.3f} mm; fetch the series again (--correct spacing would make the slice up from its "
            "neighbours)"
        )
    raise ScanError(
        f"uneven spacing: steps run from {steps.min():.3f} to {steps.max():.3f} mm: expected one (are slices missing?); "
        "fetch the series again, or index with --correct spacing to resample it"
    )
