"""A Siemens mosaic: one picture that holds the slices of a volume as tiles, row by row.

How many tiles there are and which way they run is only in Siemens' own CSA header (0029,1010); without it a
mosaic is rejected. The file's position is that of the whole picture's corner, so the first tile's corner lies
half the difference of the two sizes further in; the tiles then follow each other along the CSA header's slice
normal, which may point against the cross product of row and column.

    tiles = read_tiles(dataset, size=(384, 384))          # Tiles(count=35, size=(64, 64), ...)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from pydicom.dataset import Dataset

from medssl.core.errors import ScanError
from medssl.scans.dicom.header import number

SAME_DIRECTION = 1e-3


@dataclass(frozen=True)
class Tiles:
    """count: slices. size: (rows, columns) of one. step_mm: along `normal`, a unit vector in LPS."""

    count: int
    size: tuple[int, int]
    step_mm: float
    normal: tuple[float, ...]


def read_tiles(dataset: Dataset, size: tuple[int, ...]) -> Tiles:
    """The tiles of a mosaic of size (rows, columns).

    Raises:
        ScanError: The header does not say how many tiles there are and where, or contradicts itself.
    """
    from nibabel.nicom import csareader  # warns on import; slow

    csa = csareader.get_csa_header(dataset)
    if csa is None:
        raise ScanError(
            "a Siemens mosaic without its CSA header (0029,1010): how many slices it holds and where is unknown; fetch "
            "the series from the scanner's archive again"
        )
    count, normal = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
    step_mm = number(dataset, "SpacingBetweenSlices", 0.0) or number(dataset, "SliceThickness", 0.0)
    if count is None or normal is None or not np.isfinite([*normal, step_mm]).all() or step_mm <= 0:
        raise ScanError(
            f"a Siemens mosaic whose CSA header (0029,1010) or SpacingBetweenSlices (0018,0088, {step_mm:g} mm) is "
            "incomplete: expected the number of slices, their normal and a positive step; fix the header"
        )
    side = ceil(sqrt(count)) if count > 0 else 0
    if side == 0 or size[0] % side or size[1] % side:
        raise ScanError(
            f"a Siemens mosaic of {size[0]}x{size[1]} pixels for {count} slices: expected a whole number of {side}x{side} "
            "tiles; fix the header"
        )
    return Tiles(count, (size[0] // side, size[1] // side), step_mm, tuple(float(part) for part in normal))


def tile_positions(
    tiles: Tiles,
    size: tuple[int, int],
    corner: tuple[float, ...],
    orientation: tuple[float, ...],
    spacing_mm: tuple[float, ...],
) -> np.ndarray:
    """(count, 3) mm in LPS: where each tile's first pixel lies.

    Raises:
        ScanError: The slice normal does not stand at right angles to the slices.
    """
    row, column = np.array(orientation).reshape(2, 3)
    cosine = float(np.dot(tiles.normal, np.cross(row, column)))
    if abs(abs(cosine) - 1) > SAME_DIRECTION:
        raise ScanError(
            f"a Siemens mosaic whose slice normal (CSA header, 0029,1010) has a product of {cosine:.4f} with that of "
            "ImageOrientationPatient (0020,0037): expected 1 or -1; fix the header"
        )
    inset_rows, inset_columns = ((whole - own) / 2 for whole, own in zip(size, tiles.size))
    first = np.array(corner) + row * inset_columns * spacing_mm[1] + column * inset_rows * spacing_mm[0]
    return first + np.outer(np.arange(tiles.count) * tiles.step_mm, tiles.normal)


def split_tiles(picture: np.ndarray, count: int) -> np.ndarray:
    """(rows, columns, samples) of a mosaic -> (count, tile rows, tile columns, samples)."""
    side = ceil(sqrt(count))
    rows, columns, samples = picture.shape
    grid = picture.reshape(side, rows // side, side, columns // side, samples)
    return grid.swapaxes(1, 2).reshape(side * side, rows // side, columns // side, samples)[:count]
