"""What may be corrected in a stack when the user asks for it: gantry tilt and uneven spacing.

tilt: each slice is moved in its own plane, by linear interpolation, onto a straight grid that has grown so that
nothing is cut off. spacing: slices are resampled, linearly, in even steps of their median from the first one on; a
missing slice is interpolated from its neighbours, but no gap wider than three steps. The notes of a scan say what was done.

    array = correction.apply(array, padding=-1000)             # (C, X, Y, Z)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import MedsslError, ScanError, nearest

CORRECTIONS = ("tilt", "spacing")
MAX_BEND_MM = 0.1  # a tilt shifts the slices in proportion to their depth, within this
WHOLE = 1e-6  # voxels: a shift this close to a whole number needs no interpolation
WIDEST_GAP = 3.0  # in steps: more than that would be made up


@dataclass(frozen=True)
class Correction:
    """One correction, ready to be applied.

    Attributes:
        name: "tilt" or "spacing".
        note: What the notes of the scan say.
        shifts: (slices, 2) voxels by which each slice moves along columns and rows (tilt).
        at: Fractional slice numbers of the new slices (spacing).
        grown: Voxels that the grid gains along columns and rows.
    """

    name: str
    note: str
    shifts: np.ndarray | None = None
    at: np.ndarray | None = None
    grown: tuple[int, int] = (0, 0)

    def apply(self, array: np.ndarray, padding: float) -> np.ndarray:
        """(C, X, Y, Z) corrected, its own type; `padding` where nothing was measured."""
        if self.shifts is not None:
            return _sheared(array, self.shifts, self.grown, padding)
        return _resliced(array, np.array(self.at))


def check_corrections(correct: Sequence[str] | None) -> tuple[str, ...]:
    """The names in `correct` (also "tilt,spacing" in one word), in the order of `CORRECTIONS`.

    Raises:
        MedsslError: A name is unknown.
    """
    names = [name.strip() for word in correct or () for name in word.split(",") if name.strip()]
    for name in names:
        if name not in CORRECTIONS:
            raise MedsslError(f"correct is {name!r}{nearest(name, CORRECTIONS)}")
    return tuple(name for name in CORRECTIONS if name in names)


def straighten(
    positions: np.ndarray, depth: np.ndarray, line: np.ndarray, axes: np.ndarray, degrees: float
) -> tuple[np.ndarray, Correction]:
    """Positions (slices, 3) on a line along the normal, and the shear that brings the slices there.

    Args:
        positions: (slices, 3) mm.
        depth: (slices,) mm along the normal.
        line: (slices, 3) mm, where a straight stack would lie.
        axes: (3, 2) mm, one column and one row further.
        degrees: The tilt, for messages.

    Raises:
        ScanError: The shift is not in proportion to the depth.
    """
    shift_mm = positions - line
    slope = shift_mm.T @ (depth - depth[0]) / np.sum((depth - depth[0]) ** 2)
    bend_mm = float(np.linalg.norm(shift_mm - np.outer(depth - depth[0], slope), axis=1).max())
    if bend_mm > MAX_BEND_MM:
        raise ScanError(
            f"slices shift sideways unevenly, up to {bend_mm:.2f} mm beside a tilt of {degrees:.1f} degrees: expected at most "
            f"{MAX_BEND_MM} mm; this is not a gantry tilt and is not corrected"
        )
    shifts = shift_mm @ axes / (axes**2).sum(axis=0)
    start = shifts.min(axis=0)
    shifts = shifts - start
    grown = tuple(int(n) for n in np.ceil(shifts.max(axis=0) - WHOLE))
    max_shift_mm = float(np.linalg.norm(shift_mm, axis=1).max())
    note = f"gantry tilt of {degrees:.1f} degrees corrected: slices moved by up to {max_shift_mm:.2f} mm onto a straight grid"
    return line + axes @ start, Correction("tilt", note, shifts=shifts, grown=(grown[0], grown[1]))


def even_steps(positions: np.ndarray, depth: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, Correction]:
    """Positions (slices, 3) in steps of the median, and the resampling to them.

    Raises:
        ScanError: A gap is too wide.
    """
    steps = np.diff(depth)
    step = float(np.median(steps))
    if steps.max() > (WIDEST_GAP + 0.1) * step:
        raise ScanError(
            f"a gap of {steps.max():.3f} mm where the step is {step:.3f} mm: expected at most {WIDEST_GAP:g} steps; too much "
            "would have to be made up, fetch the series again"
        )
    new = depth[0] + step * np.arange(int((depth[-1] - depth[0]) / step + 1e-3) + 1)
    at = np.interp(new, depth, np.arange(len(depth)))
    filled = int(sum(np.rint(steps / step) - 1 > 0))
    gaps = f", {filled} gaps filled in from their neighbours" if filled else ""
    note = (
        f"uneven spacing corrected: steps of {steps.min():.3f} to {steps.max():.3f} mm resampled to {step:.3f} mm{gaps}"
    )
    return positions[0] + np.outer(new - new[0], normal), Correction("spacing", note, at=at)


def _sheared(array: np.ndarray, shifts: np.ndarray, grown: tuple[int, int], padding: float) -> np.ndarray:
    channels, columns, rows, slices = array.shape
    out = np.empty((channels, columns + grown[0], rows + grown[1], slices), array.dtype)
    for z in range(slices):
        planes = _moved(array[..., z].astype(np.float64), 1, float(shifts[z, 0]), grown[0])
        planes = _moved(planes, 2, float(shifts[z, 1]), grown[1])
        out[..., z] = _rounded(np.where(np.isnan(planes), padding, planes), array.dtype)
    return out


def _moved(planes: np.ndarray, axis: int, shift: float, grown: int) -> np.ndarray:
    """Planes moved by `shift` >= 0 voxels along an axis that gains `grown`; NaN where nothing was measured."""
    planes = np.moveaxis(planes, axis, 0)
    count, whole = len(planes), int(shift + WHOLE)
    part = shift - whole
    out = np.full((count + grown, *planes.shape[1:]), np.nan)
    if part < WHOLE:
        out[whole : whole + count] = planes
    else:
        out[whole + 1 : whole + count] = planes[1:] * (1 - part) + planes[:-1] * part
    return np.moveaxis(out, 0, axis)


def _resliced(array: np.ndarray, at: np.ndarray) -> np.ndarray:
    low = np.minimum(at.astype(int), array.shape[3] - 1)
    high = np.minimum(low + 1, array.shape[3] - 1)
    out = np.empty((*array.shape[:3], len(at)), array.dtype)
    for z, (first, second, part) in enumerate(zip(low, high, at - low)):
        mixed = array[..., first] * (1 - part) + array[..., second] * part
        out[..., z] = _rounded(mixed, array.dtype)
    return out


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(values).astype(dtype) if dtype.kind in "iu" else values.astype(dtype)
