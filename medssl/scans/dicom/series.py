"""DICOM series -> volume, by few explicit rules; what does not fit a rule is refused in words, never bent.

The rules (their tolerances stand here, in dicom_frames.py and in dicom_stack.py):
1. Slices belong together by patient and SeriesInstanceUID; copies of a series in another folder, or under another
   SeriesNumber, stay apart.
2. Localizers, and up to a fifth of a series that has another orientation or size, are left out and reported;
   more than that is a mixed orientation and refused.
3. Slices are put in order by their position along the normal; InstanceNumber at most orders the frames of a place.
4. Several slices a place are frames, held as channels (dicom_frames.py); echoes, phase and magnitude are different scans.
5. Refused: a missing slice, two slices at one place, uneven steps, a gantry tilt (--correct mends the last two), a slice
   without position or pixel size, a Siemens mosaic that does not say where its tiles lie.
6. X-ray, ultrasound and series of one slice are 2D images: rows by columns as seen on a screen. A cine, and one place
   at several times, is a 2D image with frames.
7. Each slice is rescaled by its own slope and intercept; MONOCHROME1 is inverted once.

    for series in group(slices):
        header = series.header()                 # raises ScanError where a rule is broken
    scan = read_series(files, id="a3f0", patient="77c1")
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.dicom.frames import Frames, by_kind, normal_of, sort_frames
from medssl.scans.dicom.slices import Slice, read_pixels, read_slices
from medssl.scans.dicom.volume import Stack, build_stack
from medssl.scans.geometry import LPS_TO_RAS, ras_order, spacing
from medssl.scans.modality import LOWEST_HU, MODALITIES
from medssl.scans.scan import Header, Scan

SAME_COSINE = 1e-4  # orientations closer than this are one
STRAY_SHARE = 0.2  # a larger part of a series with another orientation is no stray


@dataclass(frozen=True)
class Series:
    """Slices that make one scan, or a reason why they do not."""

    slices: tuple[Slice, ...]
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        return sorted({item.file for item in self.slices})

    @property
    def member(self) -> str | None:
        """Which scan of its files this is, where they hold several: by its first frame."""
        first = min((item.file, item.frame) for item in self.slices)[1]
        return f"frame {first}" if first else None

    def header(self, correct: Sequence[str] = ()) -> Header:
        """What the series is, from headers alone (pixels are looked at where slices may be copies of each other).

        correct: "tilt", "spacing", see dicom_correct. Raises ScanError where a rule of this file is broken.
        """
        return self._plan(correct)[0]

    def _plan(self, correct: Sequence[str]) -> tuple[Header, Frames, Stack | None]:
        if self.reason:
            raise ScanError(self.reason)
        check_slices(self.slices)
        if is_image(self.slices):
            frames = _image_frames(self.slices)
            return _image_header(self, len(frames)), frames, None
        stack = build_stack(self.slices, correct)
        return _volume_header(self, stack), stack.frames, stack


def group(slices: Iterable[Slice]) -> list[Series]:
    """The series in a heap of slices, in order of their first file; nothing is lost, what cannot be used says
    why."""
    heaps: dict[tuple, list[Slice]] = defaultdict(list)
    for item in slices:
        heaps[item.patient, item.series or str(Path(item.file).parent)].append(item)
    series = [part for heap in heaps.values() for copy in _copies(heap) for part in _sort_out(copy)]
    return sorted(series, key=lambda part: (part.files[0], part.slices[0].frame))


def read_series(
    files: Sequence[str], id: str, patient: str, member: str | None = None, correct: Sequence[str] = ()
) -> Scan:
    """The scan that these files of one series hold: (C, X, Y, Z) with X along a row, or (C, H, W); C: frames.

    member: which one, where the files hold several (`Series.member`). correct: see `Series.header`.
    array: int16 where the values fit, else int32 or float32.
    Raises ScanError where a rule of this file is broken.
    """
    parts = group(item for file in files for item in read_slices(file))
    mine = [part for part in parts if part.member == member]
    if not mine:
        raise ScanError(f"these files hold {len(parts)} scans, none of them the one asked for: index them again")
    series = next((part for part in mine if part.reason is None), mine[0])
    header, frames, stack = series._plan(correct)
    planes, inverted = _planes([item for frame in frames for item in frame])
    array = _joined(planes, len(frames), len(header.shape))
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


def is_image(slices: Sequence[Slice]) -> bool:
    """True for what is one plane by nature, by count, or by place."""
    first = slices[0]
    if len(slices) == 1 or (MODALITIES[first.modality].planar and not _is_tomogram(slices)):
        return True
    told = all(item.time[0] >= 0 or item.order[2] >= 0 for item in slices)  # temporal position or trigger time
    one_place = len({(item.position, item.orientation) for item in slices}) == 1
    return told and one_place and first.position is not None


def _is_tomogram(slices: Sequence[Slice]) -> bool:
    """An enhanced file that gives each frame a place (breast tomosynthesis, OCT)."""
    places = {item.position for item in slices}
    return slices[0].enhanced and None not in places and len(places) > 1


def _image_frames(slices: Sequence[Slice]) -> Frames:
    """The frames of one plane, in order."""
    if len(slices) == 1 or slices[0].position is None or len({item.file for item in slices}) == 1:
        return tuple((item,) for item in sorted(slices, key=lambda item: item.order))
    return sort_frames(slices)[0]


def _joined(planes: np.ndarray, frames: int, dims: int) -> np.ndarray:
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
    return array if frames > 1 else grey(array)


def _padding(array: np.ndarray, modality: str) -> float:
    """What stands where nothing was measured: air in CT, else the lowest value there is."""
    return min(LOWEST_HU, float(array.min())) if modality == "CT" else float(array.min())


def grey(array: np.ndarray) -> np.ndarray:
    """(C, *S) -> (1, *S) where three colour channels hold the same picture, else as it came."""
    same = array.shape[0] == 3 and (array[0] == array[1]).all() and (array[0] == array[2]).all()
    return array[:1] if same else array


def check_slices(slices: Sequence[Slice]) -> None:
    """Raises ScanError for what no geometry can mend: burned-in text, frames without positions, a broken number."""
    first = slices[0]
    if any(item.burned_in for item in slices):
        raise ScanError("text is burned into the pixels (0028,0301): quarantined; remove it, or leave the scan out")
    problem = next((item.problem for item in slices if item.problem), None)
    if problem:
        raise ScanError(problem)
    if first.frames_in_file > 1 and first.position is None and not MODALITIES[first.modality].filmed:
        raise ScanError(
            f"a multi-frame file of {first.frames_in_file} frames without positions is no cine of its modality: where its "
            "frames lie is unknown; convert it to NIfTI first"
        )


def _copies(heap: list[Slice]) -> list[list[Slice]]:
    """One heap where its folders and SeriesNumbers complete each other, one each where they hold the same places
    twice."""
    parts: dict[tuple, list[Slice]] = defaultdict(list)
    for item in heap:
        parts[Path(item.file).parent, item.number].append(item)
    places = [{(item.position, item.orientation) for item in part} for part in parts.values()]
    apart = sum(map(len, places)) == len(set().union(*places)) and None not in {p for s in places for p, _ in s}
    return [heap] if apart else list(parts.values())


def _sort_out(heap: list[Slice]) -> list[Series]:
    """Localizers and strays out of the way; the rest one volume for each kind of picture, or one image a file."""
    scouts = tuple(item for item in heap if item.localizer)
    rest = [item for item in heap if not item.localizer]
    found = []
    if scouts:
        found.append(Series(scouts, f"{len(scouts)} localizer slices (ImageType, 0008,0008): left out"))
    if rest and MODALITIES[rest[0].modality].planar:
        files = sorted({item.file for item in rest})
        found += [Series(tuple(item for item in rest if item.file == file)) for file in files]
    elif rest:
        found += [part for series in _without_strays(rest) for part in _kinds(series)]
    return found


def _kinds(series: Series) -> list[Series]:
    """A series apart by echo, by magnitude and phase, ..."""
    kinds = [] if series.reason else by_kind(series.slices)
    if len(kinds) < 2:
        return [series]
    note = f"one of {len(kinds)} pictures (echoes, magnitude and phase, ...) in its series"
    return [Series(tuple(kind), notes=(*series.notes, note)) for kind in kinds]


def _without_strays(heap: list[Slice]) -> list[Series]:
    kinds = _by_plane(heap)
    main = max(kinds, key=len)
    strays = [kind for kind in kinds if kind is not main]
    count = len(heap) - len(main)
    if not strays:
        return [Series(tuple(heap))]
    if count > STRAY_SHARE * len(heap):
        sizes = ", ".join(str(len(kind)) for kind in kinds)
        reason = (
            f"mixed orientation: the series holds slices of {len(kinds)} orientations or sizes ({sizes} slices): "
            "expected one; split the series"
        )
        return [Series(tuple(heap), reason)]
    left_out = [
        Series(
            tuple(kind),
            f"{len(kind)} of {len(heap)} slices have another orientation ({_degrees(kind[0], main[0]):.1f} degrees) or "
            "size than the rest of their series: left out",
        )
        for kind in strays
    ]
    return [Series(tuple(main), notes=(f"{count} stray slices left out",)), *left_out]


def _by_plane(heap: list[Slice]) -> list[list[Slice]]:
    kinds: list[list[Slice]] = []
    for item in heap:
        for kind in kinds:
            if _same_plane(item, kind[0]):
                kind.append(item)
                break
        else:
            kinds.append([item])
    return kinds


def _same_plane(one: Slice, other: Slice) -> bool:
    if one.size != other.size or one.samples != other.samples:
        return False
    if one.orientation is None or other.orientation is None:
        return True  # a slice without orientation is refused later, with its tag
    return float(np.abs(np.subtract(one.orientation, other.orientation)).max()) < SAME_COSINE


def _degrees(one: Slice, other: Slice) -> float:
    if one.orientation is None or other.orientation is None:
        return 0.0
    cosine = np.clip(np.dot(normal_of(one), normal_of(other)), -1, 1)
    return float(np.degrees(np.arccos(cosine)))


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
    frames: dict[str, tuple[np.ndarray, bool]] = {}
    last = {item.file: number for number, item in enumerate(slices)}
    planes, inverted = np.empty(0), False
    for number, item in enumerate(slices):
        if item.file not in frames:
            frames[item.file] = read_pixels(item.file)
        pixels, turned = frames[item.file]
        inverted |= turned
        plane = _rescaled(pixels[item.frame], item)
        if number == 0:
            planes = np.empty((len(slices), *plane.shape), plane.dtype)
        planes = planes.astype(np.result_type(planes, plane), copy=False)
        planes[number] = plane
        if last[item.file] == number:
            del frames[item.file]
    return planes, inverted


def _rescaled(pixels: np.ndarray, item: Slice) -> np.ndarray:
    if item.slope != 1 or not float(item.intercept).is_integer() or pixels.dtype.kind not in "iu":
        return (pixels * np.float64(item.slope) + item.intercept).astype(np.float32)
    return pixels if pixels.dtype == np.uint8 and not item.intercept else _whole(pixels, int(item.intercept))


def _whole(pixels: np.ndarray, intercept: int) -> np.ndarray:
    """The sum in the smallest of int16, int32 and int64 that holds it."""
    low, high = int(pixels.min()) + intercept, int(pixels.max()) + intercept
    for kind in (np.int16, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            break
    return np.add(pixels, np.int64(intercept).astype(kind), dtype=kind, casting="unsafe")  # what wraps round wraps back
