"""A mask stored as DICOM SEG, read on the grid of its image; structure numbers are the segment numbers.

Frames may come in any order and be stored turned; planes without a frame are background. Each frame must cover one
plane of the image to 0.1 mm. Rejected: fractional segments, segments that overlap, numbers above 255, RTSTRUCT.

    check_segmentation(Path("seg.dcm"), affine, shape)               # headers alone
    mask = read_segmentation(Path("seg.dcm"), affine, shape)         # (X, Y, Z) uint8 on the image's grid
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medssl.core.errors import ScanError
from medssl.scans.dicom.header import as_plain, check_claim, number, numbers, open_header, word
from medssl.scans.dicom.slices import ENHANCED, LABEL_MAP, NOT_A_SCAN, RTSTRUCT, SEGMENTATION
from medssl.scans.geometry import LPS_TO_RAS, SAME_GRID_MM
from medssl.scans.paths import readable_errors

LARGEST_STRUCTURE = 255


@dataclass(frozen=True)
class Plane:
    """Where one frame lies: structure (None in a label map, whose pixels are the numbers), and (3, 3) whole numbers that
    take (column, row, 1) to the image's voxel."""

    structure: int | None
    to_voxel: np.ndarray


def check_segmentation(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ScanError for a DICOM file that is not a mask for the image with this affine and shape."""
    with readable_errors("the mask's header"):
        _planes(open_header(str(path)), affine, shape)


def read_segmentation(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z) uint8 structures on the grid with this affine (RAS+) and shape.

    Raises:
        ScanError: As for `check_segmentation`, and for segments that overlap.
    """
    from highdicom.seg import segread  # slow to import

    with readable_errors("the mask"):
        planes = _planes(open_header(str(path)), affine, shape)
        segmentation = segread(as_plain(str(path)))
        frames = np.asarray(segmentation.pixel_array)
        frames = frames.reshape(len(planes), *frames.shape[-2:])
        mask = np.zeros(shape, np.uint8)
        for plane, frame in zip(planes, frames):
            _paint(mask, plane, frame)
        return mask


def _paint(mask: np.ndarray, plane: Plane, frame: np.ndarray) -> None:
    rows, columns = np.nonzero(frame)
    at = plane.to_voxel @ np.stack([columns, rows, np.ones_like(rows)])
    values = frame[rows, columns] if plane.structure is None else np.full(len(rows), plane.structure)
    before = mask[tuple(at)]
    overlap = (before > 0) & (before != values)
    if overlap.any():
        raise ScanError(
            f"segments {int(before[overlap][0])} and {int(values[overlap][0])} of the DICOM SEG overlap in {int(overlap.sum())} "
            "voxels of a plane: expected each voxel in one structure; merge or split the segments"
        )
    if len(values) and values.max() > LARGEST_STRUCTURE:
        raise ScanError(f"the mask holds structure {int(values.max())}: expected at most {LARGEST_STRUCTURE}; renumber")
    mask[tuple(at)] = values


def _planes(dataset: Dataset, affine: np.ndarray, shape: tuple[int, ...]) -> list[Plane]:
    """Each frame's place in the image."""
    kind = word(dataset, "SOPClassUID")
    if kind not in (SEGMENTATION, LABEL_MAP):
        raise ScanError(
            NOT_A_SCAN[RTSTRUCT] if kind == RTSTRUCT else "the mask is a DICOM file, but no SEG: expected DICOM SEG"
        )
    if word(dataset, "SegmentationType") == "FRACTIONAL":
        raise ScanError(
            "a fractional DICOM SEG (0062,0001) holds probabilities: expected a binary one; threshold it first"
        )
    if len(shape) != 3:
        raise ScanError("a DICOM SEG for a 2D image is not read: store the mask as PNG or TIFF")
    check_claim(dataset)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not groups or len(groups) != number(dataset, "NumberOfFrames", 1):
        raise ScanError(
            f"NumberOfFrames (0028,0008) of the DICOM SEG is {number(dataset, 'NumberOfFrames', 1):g}, {len(groups)} "
            "frames are described: expected the same"
        )
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    size = int(number(dataset, "Rows", 0)), int(number(dataset, "Columns", 0))
    labels = word(dataset, "SegmentationType") == "LABELMAP"
    to_voxels = np.linalg.inv(affine) @ LPS_TO_RAS
    return [
        Plane(None if labels else _structure(group, shared), _place(group, shared, size, to_voxels, affine, shape))
        for group in groups
    ]


def _structure(group: Dataset, shared: Dataset) -> int:
    for place in (group, shared):
        items = place.get("SegmentIdentificationSequence")
        if items:
            structure = int(number(items[0], "ReferencedSegmentNumber", 0))
            if not 1 <= structure <= LARGEST_STRUCTURE:
                raise ScanError(
                    f"segment number (0062,000B) is {structure}: expected 1 to {LARGEST_STRUCTURE}; renumber the segments"
                )
            return structure
    raise ScanError("a frame of the DICOM SEG names no segment (0062,000B): expected one each; fix the header")


def _place(
    group: Dataset, shared: Dataset, size: tuple[int, int], to_voxels: np.ndarray, affine: np.ndarray, shape
) -> np.ndarray:
    """(3, 3) whole numbers: (column, row, 1) of a frame -> voxel of the image. Raises ScanError where they disagree."""
    position = _numbers(group, shared, "ImagePositionPatient", 3)
    orientation = _numbers(group, shared, "ImageOrientationPatient", 6).reshape(2, 3)
    rows_mm, columns_mm = _numbers(group, shared, "PixelSpacing", 2)
    plane = np.zeros((4, 3))
    plane[:3] = np.stack([orientation[0] * columns_mm, orientation[1] * rows_mm, position], axis=1)
    plane[3, 2] = 1
    exact = (to_voxels @ plane)[:3]
    whole = np.rint(exact)
    corners = np.array([[c, r, 1] for c in (0, size[1] - 1) for r in (0, size[0] - 1)]).T
    apart = float(np.linalg.norm(affine[:3, :3] @ (exact - whole) @ corners, axis=0).max())
    if apart > SAME_GRID_MM:
        raise ScanError(
            f"a plane of the DICOM SEG lies {apart:.2f} mm off the planes of its image: expected at most {SAME_GRID_MM} mm; "
            "resample the mask onto the image"
        )
    at = (whole @ corners).astype(int)
    low, high, last = at.min(axis=1), at.max(axis=1), np.array(shape) - 1
    across = int(np.argmin(high - low))
    covers = (np.delete(low, across) == 0).all() and (np.delete(high, across) == np.delete(last, across)).all()
    if not covers or low[across] != high[across] or not 0 <= low[across] <= last[across]:
        size_now = "x".join(str(n) for n in shape)
        raise ScanError(
            f"a plane of the DICOM SEG spans voxels {low.tolist()} to {high.tolist()} of its image of {size_now}: expected "
            "one whole plane of it; resample the mask onto the image"
        )
    return whole.astype(int)


def _numbers(group: Dataset, shared: Dataset, keyword: str, count: int) -> np.ndarray:
    for place in (group, shared):
        items = place.get(ENHANCED[keyword])
        values = numbers(items[0], keyword) if items else ()
        if len(values) == count and np.isfinite(values).all():
            return np.array(values)
    raise ScanError(f"a frame of the DICOM SEG has no {keyword}: expected {count} numbers; fix the header")
