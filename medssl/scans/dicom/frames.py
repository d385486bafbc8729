"""Which slices of a series are one volume, which are the same place at another time, and which show something else.

1. Magnitude, phase, real, imaginary and field map, and different echo times, are different scans (as dcm2niix has
   it: _ph, _e2); so is what ImageType names differently at the same place (a diffusion trace among its directions).
2. Slices at one place are frames, in the order of: temporal position, acquisition number, trigger time, dimension
   indices (enhanced files), InstanceNumber, acquisition time, place in the file. Frame k is the k-th slice of every
   place; its temporal position and b-value must be the same everywhere.
3. Rejected: places with unequal numbers of slices, slices at one place that nothing puts in order. Copies that are equal
   to the pixel are dropped first, with a note; so is a whole series that was stored twice.

    for kind in by_kind(slices): ...
    frames, notes = sort_frames(kind)                # frames[time][place]
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.dicom.slices import Slice, read_pixels

SAME_PLACE_MM = 1e-3
OFF_LINE_MM = 0.1  # slices may lie this far beside the line they are stacked along
Frames = tuple[tuple[Slice, ...], ...]


def by_kind(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices by what they show, in order of the first of each."""
    kinds: dict[tuple, list[Slice]] = defaultdict(list)
    for item in slices:
        kinds[item.component, item.echo_ms].append(item)
    return [part for kind in kinds.values() for part in _by_image_type(kind)]


def sort_frames(slices: Sequence[Slice]) -> tuple[Frames, tuple[str, ...]]:
    """((frame: its slices by place), ...), and notes.

    Raises:
        ScanError: The slices do not fit rule 2.
    """
    places = _places(slices)
    if len(places) == len(slices):
        return (tuple(place[0] for place in places),), ()
    places = _without_second_copy(places)
    if len({len(place) for place in places}) > 1 or any(_ties(place) for place in places):
        places = _without_copies(places)
    copies = len(slices) - sum(map(len, places))
    notes = (f"{copies} slices dropped: copies equal to the pixel",) if copies else ()
    _check_counts(places)
    frames = tuple(zip(*places))
    _check_frames(frames)
    return frames, notes


def along_normal(slices: Sequence[Slice]) -> list[Slice]:
    """The slices by their position along the normal of their planes."""
    normal = normal_of(slices[0])
    return sorted(slices, key=lambda item: float(np.dot(item.position or (0, 0, 0), normal)))


def normal_of(item: Slice) -> np.ndarray:
    """The unit vector across a slice, in LPS."""
    orientation = item.orientation or (1, 0, 0, 0, 1, 0)
    return np.cross(orientation[:3], orientation[3:])


def _by_image_type(kind: list[Slice]) -> list[list[Slice]]:
    """Apart by ImageType where one place holds several slices; a lone volume may vary in it."""
    if any(item.position is None for item in kind) or len(_places(kind)) == len(kind):
        return [kind]
    parts: dict[tuple, list[Slice]] = defaultdict(list)
    for item in kind:
        parts[item.image_type].append(item)
    return list(parts.values())


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices of each place along the normal, the frames of each in order."""
    in_order = along_normal(slices)
    depth = np.array([item.position for item in in_order]) @ normal_of(slices[0])
    starts = [0, *(np.flatnonzero(np.diff(depth) > SAME_PLACE_MM) + 1).tolist(), len(in_order)]
    return [sorted(in_order[a:b], key=lambda item: item.order) for a, b in pairwise(starts)]


def _ties(place: Sequence[Slice]) -> bool:
    return len({item.order for item in place}) < len(place)


def _without_copies(places: list[list[Slice]]) -> list[list[Slice]]:
    """Each place without the slices that equal another of the place in every pixel, and in time where there are frames."""
    prints = _fingerprints([item for place in places if len(place) > 1 for item in place])
    fewest = min(map(len, places))
    return [place if len(place) == 1 else _distinct(place, prints, fewest == 1) for place in places]


def _without_second_copy(places: list[list[Slice]]) -> list[list[Slice]]:
    """One copy of a series that was stored twice under other numbers; any other series as it is.

    Pixels decide: no two moments of a scan are equal to the pixel.
    """
    for sample in ([places[len(places) // 2]], places):  # the middle first: most series need no more
        prints = _fingerprints([item for place in sample for item in place])
        distinct = [_distinct(place, prints, lone=True) for place in sample]
        if any(len(place) > 1 for place in distinct):
            return places
    return distinct


def _distinct(place: list[Slice], prints: dict[tuple[str, int], str], lone: bool) -> list[Slice]:
    """A place without slices that are equal to the pixel; with `lone`, other numbers do not make them distinct."""
    distinct: dict[tuple, Slice] = {}
    for item in place:
        when = () if lone else item.order
        distinct.setdefault((prints[item.file, item.frame], item.slope, item.intercept, when), item)
    return list(distinct.values())


def _fingerprints(slices: Sequence[Slice]) -> dict[tuple[str, int], str]:
    prints = {}
    for file in sorted({item.file for item in slices}):
        pixels, _ = read_pixels(file)
        for frame in {item.frame for item in slices if item.file == file}:
            prints[file, frame] = hashlib.sha256(np.ascontiguousarray(pixels[frame]).data).hexdigest()
    return prints


def _check_counts(places: list[list[Slice]]) -> None:
    counts = [len(place) for place in places]
    total, normal = sum(counts), normal_of(places[0][0])
    if min(counts) < max(counts):
        at = float(np.dot(places[counts.index(max(counts))][0].position or (), normal))
        if min(counts) == 1:
            raise ScanError(
                f"duplicate position: {total} slices lie at {len(places)} places, two of them at {at:.2f} mm, and their "
                "pixels differ: expected one slice a place; remove the copies"
            )
        raise ScanError(
            f"unequal frames: places hold {min(counts)} to {max(counts)} slices (most at {at:.2f} mm): expected the same "
            "number at each; fetch the series again"
        )
    tied = next((place for place in places if _ties(place)), None)
    if tied:
        at = float(np.dot(tied[0].position or (), normal))
        raise ScanError(
            f"{len(tied)} slices at {at:.2f} mm differ, and neither temporal position (0020,0100) nor acquisition or "
            "instance number (0020,0012; 0020,0013) puts them in order: split the series"
        )


def _check_frames(frames: Frames) -> None:
    """Raises ScanError unless a frame shows one time everywhere, and a place stays where it is."""
    for number, frame in enumerate(frames):
        times = {item.time for item in frame}
        if len(times) > 1:
            shown = sorted(times)
            raise ScanError(
                f"frame {number + 1} of {len(frames)} mixes (temporal position, b-value) {shown[0]} and {shown[1]}: "
                "expected one pair in a frame; split the series"
            )
    positions = np.array([[item.position for item in frame] for frame in frames])
    apart = float(np.linalg.norm(positions - positions[0], axis=-1).max())
    if apart > OFF_LINE_MM:
        raise ScanError(
            f"the frames of one place lie up to {apart:.2f} mm apart: expected at most {OFF_LINE_MM} mm; split the series"
        )
