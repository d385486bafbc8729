"""One series -> its header and its voxels: a volume, or a 2D image with frames.

header = series_header(series)                                  # raises ScanError where a rule is broken
scan = read_series(files, id="a3f0", patient="77c1")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.dicom.frames import Frames, sort_frames
from medssl.scans.dicom.series import Series, group_slices
from medssl.scans.dicom.slices import Slice, read_pixels, read_slices
from medssl.scans.dicom.stack import Stack, build_stack
from medssl.scans.geometry import LPS_TO_RAS, ras_order, spacing
from medssl.scans.modality import AIR_HU, MODALITIES
from medssl.scans.paths import check_fits_memory
from medssl.scans.scan import Header, Scan, merge_equal_channels


def series_header(series: Series, correct: Sequence[str] = ()) -> Header:
    """What the series is, by headers alone; pixels are read only where slices may be copies of each other.

    Args:
        series: The series.
        correct: "tilt", "spacing", see corrections.py.

    Raises:
        ScanError: A rule of series.py is broken.
    """
    return _plan(series, correct)[0]


def read_series(
    files: Sequence[str], id: str, patient: str, member: str | None = None, correct: Sequence[str] = ()
) -> Scan:
    """The scan that these files of one series hold: (C, X, Y, Z) with X along a row, or (C, H, W); C: frames.

    The array is int16 where the values fit, else int32 or float32.

    Args:
        files: All files of the series.
        id: The scan's pseudonym.
        patient: The patient's pseudonym.
        member: Which scan, where the files hold several (`Series.member`).
        correct: "tilt", "spacing", see corrections.py.

    Raises:
        ScanError: A rule of series.py is broken, or pixels cannot be decoded.
    """
    parts = group_slices(item for file in files for item in read_slices(file))
    matches = [part for part in parts if part.member == member]
    if not matches:
        raise ScanError(f"these files hold {len(parts)} scans, none of them the one asked for: index them again")
    series = next((part for part in matches if part.reason is None), matches[0])
    header, frames, stack = _plan(series, correct)
    check_fits_memory(math.prod(series.slices[0].size) * series.slices[0].samples * sum(map(len, frames)))
    planes, inverted = _planes([item for frame in frames for item in frame])
    array = _to_array(planes, len(frames), len(header.shape))
    for correction in stack.corrections if stack else ():
        array = correction.apply(array, _padding(array, header.modality))
    return Scan(
        array=array,
        affine=header.affine,
        spacing_mm=header.spacing_mm,
        patient=patient,
        id=id,
        modality=header.modality,
        frames=header.frames,
        notes=header.notes + (("MONOCHROME1 inverted",) if inverted else ()),
    )


def _plan(series: Series, correct: Sequence[str]) -> tuple[Header, Frames, Stack | None]:
    """The header, the slices in order, and the stack they make (None for an image)."""
    if series.reason:
        raise ScanError(series.reason)
    _check_slices(series.slices)
    if _is_image(series.slices):
        frames = _image_frames(series.slices)
        return _image_header(series, len(frames)), frames, None
    stack = build_stack(series.slices, correct)
    return _volume_header(series, stack), stack.frames, stack


def _check_slices(slices: Sequence[Slice]) -> None:
    """Raise ScanError for what geometry cannot correct: burned-in text, frames without positions, a broken number."""
    first = slices[0]
    if any(item.burned_in for item in slices):
        raise ScanError("text is burned into the pixels (0028,0301): quarantined; remove it, or leave the scan out")
    problem = next((item.problem for item in slices if item.problem), None)
    if problem:
        raise ScanError(problem)
    if first.frames_in_file > 1 and first.position is None and not MODALITIES[first.modality].cine:
        raise ScanError(
            f"a multi-frame file of {first.frames_in_file} frames without positions is not a cine of its modality: where its "
            "frames lie is unknown; convert it to NIfTI first"
        )


def _is_image(slices: Sequence[Slice]) -> bool:
    """True for what is one plane by nature, by count, or by place."""
    first = slices[0]
    if len(slices) == 1 or (MODALITIES[first.modality].planar and not _is_tomogram(slices)):
        return True
    timed = all(item.time[0] >= 0 or item.order[2] >= 0 for item in slices)  # temporal position or trigger time
    one_place = len({(item.position, item.orientation) for item in slices}) == 1
    return timed and one_place and first.position is not None


def _is_tomogram(slices: Sequence[Slice]) -> bool:
    """An enhanced file that gives each frame a place (breast tomosynthesis, OCT)."""
    places = {item.position for item in slices}
    return slices[0].enhanced and None not in places and len(places) > 1


def _image_frames(slices: Sequence[Slice]) -> Frames:
    """The frames of one plane, in order."""
    if len(slices) == 1 or slices[0].position is None or len({item.file for item in slices}) == 1:
        return tuple((item,) for item in sorted(slices, key=lambda item: item.order))
    return sort_frames(slices)[0]


def _to_array(planes: np.ndarray, frames: int, dims: int) -> np.ndarray:
    """Planes (frames x places, rows, columns, samples) -> (C, X, Y, Z) or (C, H, W), C: frames or colours. The planes stay
    whole in memory: nothing is turned here."""
    array = planes.reshape(frames, -1, *planes.shape[1:])
    if frames > 1 and array.shape[4] > 1:
        if not (array == array[..., :1]).all():
            raise ScanError(f"{frames} frames of {array.shape[4]} colours: expected grey frames, or one colour image")
        array = array[..., :1]
    array = array.transpose(0, 4, 2, 3, 1) if dims == 2 else array.transpose(0, 4, 3, 2, 1)
    array = array[:, 0] if array.shape[1] == 1 else array[0]
    array = array[..., 0] if dims == 2 else array
    return array if frames > 1 else merge_equal_channels(array)


def _padding(array: np.ndarray, modality: str) -> float:
    """What stands where nothing was measured: air in CT, else the lowest value there is."""
    return AIR_HU if modality == "CT" else float(array.min())


def _image_header(series: Series, frames: int) -> Header:
    first = series.slices[0]
    notes = series.notes
    if first.spacing_mm is None:
        notes += ("pixel size unknown: 1 mm assumed",)
    if not MODALITIES[first.modality].planar:
        notes += ("one slice: read as a 2D image",)
    rows_mm, columns_mm = first.spacing_mm or (1.0, 1.0)
    affine = np.diag([rows_mm, columns_mm, 1, 1])
    return _header(series, first.size, affine, (rows_mm, columns_mm), None, frames, notes)


def _volume_header(series: Series, stack: Stack) -> Header:
    affine = LPS_TO_RAS @ stack.affine_lps
    slice_axis = int(np.argmax(ras_order(affine, (0, 0, 1))))
    header = _header(
        series, stack.shape, affine, spacing(affine), slice_axis, len(stack.frames), series.notes + stack.notes
    )
    return replace(header, corrected=tuple(part.name for part in stack.corrections))


def _header(series: Series, shape, affine, spacing_mm, slice_axis, frames: int, notes) -> Header:
    first = series.slices[0]
    return Header(
        modality=first.modality,
        shape=shape,
        affine=affine,
        spacing_mm=spacing_mm,
        channels=frames if first.samples == 1 else None,
        frames=frames,
        slice_axis=slice_axis,
        manufacturer=first.manufacturer,
        patient=first.patient or None,
        site=first.site,
        notes=(*notes, f"4D: {frames} frames held as channels") if frames > 1 else notes,
        burned_in_risk=next((item.burned_in_risk for item in series.slices if item.burned_in_risk), None),
    )


def _planes(slices: Sequence[Slice]) -> tuple[np.ndarray, bool]:
    """(slices, rows, columns, samples), each rescaled, of a type that holds them all; each file is decoded once. True when
    any was inverted."""
    decoded: dict[str, tuple[np.ndarray, bool]] = {}
    last = {item.file: number for number, item in enumerate(slices)}
    planes, inverted = np.empty(0), False
    for number, item in enumerate(slices):
        if item.file not in decoded:
            decoded[item.file] = read_pixels(item.file)
        pixels, is_inverted = decoded[item.file]
        inverted |= is_inverted
        plane = _rescaled(pixels[item.frame], item)
        if number == 0:
            planes = np.empty((len(slices), *plane.shape), plane.dtype)
        planes = planes.astype(np.result_type(planes, plane), copy=False)
        planes[number] = plane
        if last[item.file] == number:
            del decoded[item.file]
    return planes, inverted


def _rescaled(pixels: np.ndarray, item: Slice) -> np.ndarray:
    if item.slope != 1 or not float(item.intercept).is_integer() or pixels.dtype.kind not in "iu":
        return (pixels * np.float64(item.slope) + item.intercept).astype(np.float32)
    return pixels if pixels.dtype == np.uint8 and not item.intercept else _add_intercept(pixels, int(item.intercept))


def _add_intercept(pixels: np.ndarray, intercept: int) -> np.ndarray:
    """The sum in the smallest of int16, int32 and int64 that holds it."""
    low, high = int(pixels.min()) + intercept, int(pixels.max()) + intercept
    for kind in (np.int16, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            break
    return np.add(pixels, np.int64(intercept).astype(kind), dtype=kind, casting="unsafe")  # what wraps round wraps back
