"""The masks that a cell of a study predicted: one file a scan, of which a slice is read without unpacking the rest.

    write(cell, {"4f1c": mask})
    read(cell, "4f1c", start=(0, 0, 12), size=(512, 512, 1))

The files are those of a cache (see `preprocessing/store.py`). Older studies have one `masks.npz` a cell, which is read as
well; a scan's mask is then unpacked as a whole. Imports no torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import blosc2
import numpy as np

from medssl.core.atomic import read_npz, write_atomically
from medssl.core.errors import MedsslError
from medssl.preprocessing.store import pack

FOLDER, OLD_FILE = "masks", "masks.npz"


def write(cell: Path, masks: Mapping[str, np.ndarray]) -> None:
    """Write the mask (*S) uint8 of each scan into the folder of a cell."""
    for scan, mask in masks.items():
        write_atomically(cell / FOLDER / f"{scan}.b2nd", pack(mask[None]))


def read(cell: Path, scan: str, start: Sequence[int], size: Sequence[int]) -> np.ndarray | None:
    """Read a part of a mask.

    Args:
        cell: Folder of the cell.
        scan: Id of the scan.
        start: First voxel along each axis.
        size: Voxels along each axis.

    Returns:
        (*size) uint8 structures; None where the cell saved no mask of this scan.

    Raises:
        MedsslError: The file is damaged, leads out of the cell, or is the mask of a scan of another shape.
    """
    file = cell / FOLDER / f"{scan}.b2nd"
    _check_inside(cell, file)
    if not file.is_file():
        return _read_old(cell, scan, start, size)
    try:
        stored = blosc2.open(str(file), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        shape = stored.shape[1:]
        _check_shape(shape, start, size)
        return stored[(slice(0, 1), *_part(start, size))][0]
    except (RuntimeError, ValueError, AttributeError) as error:
        raise _damaged(error) from error


def _read_old(cell: Path, scan: str, start: Sequence[int], size: Sequence[int]) -> np.ndarray | None:
    file = cell / OLD_FILE
    _check_inside(cell, file)
    if not file.is_file():
        return None
    try:
        mask = read_npz(file, only=scan).get(scan)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(error) from error
    if mask is None:
        return None
    _check_shape(mask.shape, start, size)
    return mask[_part(start, size)]


def _part(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))


def _check_inside(cell: Path, file: Path) -> None:
    if not file.resolve().is_relative_to(cell.resolve()):
        raise MedsslError("a mask of this cell leads out of its folder: expected a file that medssl study wrote")


def _check_shape(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> None:
    ends = [first + count for first, count in zip(start, size)]
    if len(shape) != len(ends) or any(end > length for end, length in zip(ends, shape)):
        raise MedsslError(
            f"the saved mask has the shape {tuple(shape)}, and voxels up to {tuple(ends)} are asked for: expected a mask on "
            "the grid of the scan; run the study again with another --out"
        )


def _damaged(error: Exception) -> MedsslError:
    return MedsslError(
        f"the mask that this cell saved cannot be read ({type(error).__name__}): expected a file that medssl study wrote; "
        "remove the folder of the cell and run the same medssl study command again"
    )
