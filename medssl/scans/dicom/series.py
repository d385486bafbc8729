"""Which slices belong together: slices -> series, by few explicit rules; what fits no rule is rejected with its reason.

The rules of DICOM series (their tolerances stand in this file, in frames.py and in stack.py):
1. Slices belong together by patient, study, SeriesInstanceUID, modality, frame of reference and units; copies of a
   series in another folder, or under another SeriesNumber, stay apart. Where only some have a PatientID, or only some
   say how their numbers are rescaled, the series is rejected.
2. Localizers, and up to a fifth of a series that has another orientation or size, are left out and reported;
   more than that is a mixed orientation and rejected.
3. Slices are put in order by their position along the normal; InstanceNumber at most orders the frames of a place.
4. Several slices a place are frames, held as channels (frames.py); echoes, phase and magnitude are different scans.
5. Rejected (stack.py): a missing slice, two slices at one place, uneven steps, a gantry tilt (--correct mends the last
   two), a slice without position or pixel size, a Siemens mosaic that does not say where its tiles lie.
6. X-ray, ultrasound and series of one slice are 2D images: rows by columns as seen on a screen. A cine, and one place
   at several times, is a 2D image with frames (volume.py).
7. Each slice is rescaled by its own slope and intercept; MONOCHROME1 is inverted once (volume.py, slices.py).

    for series in group_slices(slices):
        series.files, series.reason
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.scans.dicom.frames import by_kind, normal_of
from medssl.scans.dicom.slices import Slice
from medssl.scans.modality import MODALITIES

SAME_COSINE = 1e-4  # orientations closer than this are one
STRAY_SHARE = 0.2  # a larger part of a series with another orientation is not counted as stray slices


@dataclass(frozen=True)
class Series:
    """Slices that make one scan, or a reason why they do not."""

    slices: tuple[Slice, ...]
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The files of the slices, sorted, each once."""
        return sorted({item.file for item in self.slices})

    @property
    def member(self) -> str | None:
        """Which scan of its files this is, where they hold several: by its first frame."""
        first = min((item.file, item.frame) for item in self.slices)[1]
        return f"frame {first}" if first else None


def group_slices(slices: Iterable[Slice]) -> list[Series]:
    """All slices as series, in the order of their first file; those that cannot be used have a reason."""
    groups: dict[tuple, list[Slice]] = defaultdict(list)
    for item in slices:
        groups[item.series or str(Path(item.file).parent), item.modality, item.meaning].append(item)
    patients = [part for whole in groups.values() for part in _split_patients(whole)]
    series = [part for whole in patients for copy in _split_copies(whole) for part in _split_series(copy)]
    return sorted(series, key=lambda part: (part.files[0], part.slices[0].frame))


def _split_patients(slices: list[Slice]) -> list[list[Slice]]:
    """One list per patient; all in one where some slices do not say whose they are, which is then rejected."""
    patients: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        patients[item.patient].append(item)
    return [slices] if "" in patients else list(patients.values())


def _contradiction(slices: Sequence[Slice]) -> str | None:
    """Why slices that belong together do not make one picture, as far as a field that only some of them have tells."""
    unnamed, bare = sum(not item.patient for item in slices), sum(not item.rescaled for item in slices)
    if 0 < unnamed < len(slices):
        return (
            f"{unnamed} of {len(slices)} slices have no PatientID (0010,0020), the others have: expected the same patient "
            "in all; fix the headers"
        )
    if 0 < bare < len(slices):
        return (
            f"{bare} of {len(slices)} slices have neither RescaleSlope nor RescaleIntercept (0028,1053 and 1052), the "
            "others have: their numbers do not mean the same; fetch the series again"
        )
    return None


def _split_copies(slices: list[Slice]) -> list[list[Slice]]:
    """One list where folders and SeriesNumbers complete each other, one each where they hold the same places twice."""
    parts: dict[tuple, list[Slice]] = defaultdict(list)
    for item in slices:
        parts[Path(item.file).parent, item.number].append(item)
    places = [{(item.position, item.orientation) for item in part} for part in parts.values()]
    apart = sum(map(len, places)) == len(set().union(*places)) and None not in {p for s in places for p, _ in s}
    return [slices] if apart else list(parts.values())


def _split_series(slices: list[Slice]) -> list[Series]:
    """Localizers and strays by themselves; the rest as one volume for each kind of picture, or one image a file."""
    localizers = tuple(item for item in slices if item.localizer)
    rest = [item for item in slices if not item.localizer]
    series = []
    if localizers:
        series.append(Series(localizers, f"{len(localizers)} localizer slices (ImageType, 0008,0008): left out"))
    if rest and MODALITIES[rest[0].modality].planar:
        files = sorted({item.file for item in rest})
        series += [Series(tuple(item for item in rest if item.file == file)) for file in files]
    elif rest:
        series += [part for whole in _without_strays(rest) for part in _split_kinds(whole)]
    return series


def _split_kinds(series: Series) -> list[Series]:
    """A series split by echo, by magnitude and phase, ..."""
    if series.reason is None and (reason := _contradiction(series.slices)):
        return [replace(series, reason=reason)]
    kinds = [] if series.reason else by_kind(series.slices)
    if len(kinds) < 2:
        return [series]
    note = f"one of {len(kinds)} pictures (echoes, magnitude and phase, ...) in its series"
    return [Series(tuple(kind), notes=(*series.notes, note)) for kind in kinds]


def _without_strays(slices: list[Slice]) -> list[Series]:
    planes = _by_plane(slices)
    main = max(planes, key=len)
    strays = [plane for plane in planes if plane is not main]
    count = len(slices) - len(main)
    if not strays:
        return [Series(tuple(slices))]
    if count > STRAY_SHARE * len(slices):
        sizes = ", ".join(str(len(plane)) for plane in planes)
        reason = (
            f"mixed orientation: the series holds slices of {len(planes)} orientations or sizes ({sizes} slices): "
            "expected one; split the series"
        )
        return [Series(tuple(slices), reason)]
    left_out = [
        Series(
            tuple(stray),
            f"{len(stray)} of {len(slices)} slices have another orientation ({_degrees(stray[0], main[0]):.1f} degrees) or "
            "size than the rest of their series: left out",
        )
        for stray in strays
    ]
    return [Series(tuple(main), notes=(f"{count} stray slices left out",)), *left_out]


def _by_plane(slices: list[Slice]) -> list[list[Slice]]:
    planes: list[list[Slice]] = []
    for item in slices:
        plane = next((plane for plane in planes if _same_plane(item, plane[0])), None)
        if plane is None:
            planes.append([item])
        else:
            plane.append(item)
    return planes


def _same_plane(one: Slice, other: Slice) -> bool:
    if one.size != other.size or one.samples != other.samples:
        return False
    if one.orientation is None or other.orientation is None:
        return True  # a slice without orientation is rejected later, with its tag
    return float(np.abs(np.subtract(one.orientation, other.orientation)).max()) < SAME_COSINE


def _degrees(one: Slice, other: Slice) -> float:
    if one.orientation is None or other.orientation is None:
        return 0.0
    cosine = np.clip(np.dot(normal_of(one), normal_of(other)), -1, 1)
    return float(np.degrees(np.arccos(cosine)))
