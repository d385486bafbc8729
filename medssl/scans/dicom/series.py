"""Which slices belong together: slices -> series, by few explicit rules; what fits no rule is rejected with its reason.

The rules of DICOM series (their tolerances stand in this file, in frames.py and in stack.py):
1. Slices belong together by patient, study, SeriesInstanceUID, modality, frame of reference and units; copies of a
   series in another folder, or under another SeriesNumber, stay apart. Where only some say one of these, or how their
   numbers are rescaled, or where slices are stored in different ways, the series is rejected: what belongs to it is unknown.
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
from medssl.scans.dicom.slices import RESCALE, Slice
from medssl.scans.modality import MODALITIES, known_modality

SAME_COSINE = 1e-4  # orientations closer than this are one
NO_CODE = known_modality(None)
FIELDS = {  # what slices of one picture have in common: name -> its tag, and how to read it; "" where a header does not say it
    "PatientID": ("0010,0020", lambda item: item.patient),
    "SeriesInstanceUID": ("0020,000E", lambda item: item.series),
    "Modality": ("0008,0060", lambda item: "" if item.modality == NO_CODE else item.modality),
    "StudyInstanceUID": ("0020,000D", lambda item: item.meaning[0]),
    "FrameOfReferenceUID": ("0020,0052", lambda item: item.meaning[1]),
    "Units": ("0054,1001", lambda item: item.meaning[2]),
}
STORED = {"PhotometricInterpretation": "0028,0004", "BitsAllocated": "0028,0100", "PixelRepresentation": "0028,0103"}
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
    patients = [part for whole in _joined(groups.values()) for part in _split_patients(whole)]
    series = [part for whole in patients for copy in _split_copies(whole) for part in _split_series(copy)]
    return sorted(series, key=lambda part: (part.files[0], part.slices[0].frame))


def _split_patients(slices: list[Slice]) -> list[list[Slice]]:
    """One list per patient; all in one where some slices do not say whose they are, which is then rejected."""
    patients: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        patients[item.patient].append(item)
    return [slices] if "" in patients else list(patients.values())


def _joined(groups: Iterable[list[Slice]]) -> list[list[Slice]]:
    """The groups, those that only a missing field keeps apart as one, which is then rejected: a slice without the field may
    belong to the others, and neither part is known to be whole."""
    joined: list[list[Slice]] = []
    for group in sorted(groups, key=lambda group: sum(not said for said in _said(group[0]))):
        whole = next((other for other in joined if _may_belong(group, other)), None)
        if whole is None:
            joined.append(list(group))
        else:
            whole += group
    return joined


def _said(item: Slice) -> tuple[str, ...]:
    """What the header says of the fields that slices of one picture have in common, but whose it is."""
    return tuple(read(item) for name, (_, read) in FIELDS.items() if name != "PatientID")


def _may_belong(part: Sequence[Slice], whole: Sequence[Slice]) -> bool:
    """Whether the first group differs from the other by fields alone that it does not say."""
    one, other = part[0], whole[0]
    pairs = list(zip(_said(one), _said(other)))
    if pairs[0] == ("", "") or MODALITIES[one.modality].planar or MODALITIES[other.modality].planar:
        return False
    if any(said != theirs for said, theirs in pairs if said) or all(said == theirs for said, theirs in pairs):
        return False
    return bool(one.series) or _completes(part, whole)


def _completes(part: Sequence[Slice], whole: Sequence[Slice]) -> bool:
    """Whether slices without a series lie beside those of one, on planes of their own."""
    one = part[0]
    places = {item.position for item in whole}
    return (
        None not in places
        and any(
            Path(item.file).parent == Path(one.file).parent and item.number == one.number and _same_plane(one, item)
            for item in whole
        )
        and places.isdisjoint(item.position for item in part)
    )


def _contradiction(slices: Sequence[Slice]) -> str | None:
    """Why slices that belong together do not make one picture, as far as a field that only some of them have tells."""
    total = len(slices)
    for name, (tag, read) in FIELDS.items():
        if 0 < (unsaid := sum(not read(item) for item in slices)) < total:
            return f"{unsaid} of {total} slices have no {name} ({tag}), the others have: expected the same in all; fix the headers"
    for names in (RESCALE, RESCALE[:1], RESCALE[1:]):
        if 0 < (bare := sum(not set(names) & set(item.rescaled) for item in slices)) < total:
            none = "neither RescaleSlope nor RescaleIntercept" if len(names) > 1 else f"no {names[0]}"
            return (
                f"{bare} of {total} slices have {none} (0028,1053 and 1052), the others have: their numbers do not mean the same; "
                "fetch the series again"
            )
    differing = [(name, tag, {item.encoding[at] for item in slices}) for at, (name, tag) in enumerate(STORED.items())]
    unnamed = "HU" if slices[0].modality == "CT" else "none"  # what CT without a RescaleType is by the standard
    differing.append(("RescaleType", "0028,1054", {item.rescale_type or unnamed for item in slices}))
    for name, tag, values in differing:
        if len(values) > 1:
            shown = " and ".join(sorted(value or "nothing" for value in values))
            return (
                f"{name} ({tag}) is {shown} within the series: expected one, since its numbers do not mean the same; fetch the series "
                "again"
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
    if apart := _kinds_without_common_place(kinds):
        return [replace(series, reason=apart)]
    note = f"one of {len(kinds)} pictures (echoes, magnitude and phase, ...) in its series"
    return [Series(tuple(kind), notes=(*series.notes, note)) for kind in kinds]


def _kinds_without_common_place(kinds: Sequence[Sequence[Slice]]) -> str | None:
    """Why kinds of pictures are none: no place has two of them, as where only some slices say their echo time."""
    places = [{item.position for item in kind} for kind in kinds]
    if None in set().union(*places) or sum(map(len, places)) > len(set().union(*places)):
        return None
    counts = ", ".join(str(len(kind)) for kind in kinds)
    return (
        f"EchoTime (0018,0081) or ImageType (0008,0008) divides the series into parts ({counts} slices) that share no place: expected "
        "the same in all slices of a picture; fix the headers, or split the series"
    )


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
