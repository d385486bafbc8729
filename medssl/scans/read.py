"""One door to every format: what a file says of itself, the whole scan, its mask.

for member, header in read_headers(Path("t1.nii.gz"), "nifti"): ...
scan = read_scan(["t1.nii.gz"], "nifti", id="a3f0", patient="77c1", mask="t1_mask.nii.gz")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans import geometry
from medssl.scans.dicom.corrections import check_corrections
from medssl.scans.dicom.segmentation import check_segmentation, read_segmentation
from medssl.scans.dicom.volume import read_series
from medssl.scans.formats.images import image_header, read_image
from medssl.scans.formats.metaimage import data_file, metaimage_header, read_metaimage
from medssl.scans.formats.nifti import nifti_header, read_nifti, voxel_file
from medssl.scans.formats.npz import npz_headers, read_npz
from medssl.scans.formats.nrrd import nrrd_header, read_nrrd
from medssl.scans.paths import check_fits_memory, file_format, readable_errors
from medssl.scans.scan import Header, Scan

HEADERS = {"nifti": nifti_header, "nrrd": nrrd_header, "metaimage": metaimage_header, "image": image_header}
READERS = {"nifti": read_nifti, "nrrd": read_nrrd, "metaimage": read_metaimage, "image": read_image}
LARGEST_STRUCTURE = 255


def read_headers(path: Path, format: str) -> list[tuple[str | None, Header]]:
    """(member, header) of every scan in a file that is not DICOM; member is None except in .npz.

    Args:
        path: The file.
        format: One of those that `paths.file_format` names, but DICOM.

    Raises:
        ScanError: The file cannot be used.
    """
    with readable_errors("the header"):
        return list(npz_headers(path)) if format == "npz" else [(None, HEADERS[format](path))]


def files_of(path: Path, format: str) -> list[Path]:
    """A scan's file, and the one beside it that holds its voxels where it is a header alone (.mhd, .hdr).

    Args:
        path: The file that `index` found.
        format: One of those that `paths.file_format` names.

    Raises:
        ScanError: That one is missing or lies elsewhere.
    """
    find = {"metaimage": data_file, "nifti": voxel_file}.get(format)
    beside = find(path) if find else None
    return [path] if beside is None else [path, beside]


def read_scan(
    files: Sequence[str],
    format: str,
    id: str,
    patient: str,
    modality: str = "OT",
    member: str | None = None,
    mask: str | None = None,
    correct: str | None = None,
) -> Scan:
    """The scan with all its voxels, axes as stored, and its mask on the same grid.

    Args:
        files: The scan's files.
        format: One of those that `paths.file_format` names.
        id: The scan's pseudonym.
        patient: The patient's pseudonym.
        modality: For formats that do not say it; DICOM's own stands.
        member: Which scan, where the files hold several.
        mask: The file of its mask.
        correct: "tilt,spacing" or one of them, for a DICOM series that needs it.

    Raises:
        ScanError: Something about the files cannot be trusted.
    """
    if format == "dicom":
        scan = read_series(files, id, patient, member, check_corrections([correct or ""]))
    else:
        path = Path(files[0])
        with readable_errors("the file"):
            if format in HEADERS:
                about = HEADERS[format](path)
                check_fits_memory(math.prod(about.shape) * (about.channels or 3))
            array, header = read_npz(path, member or "") if format == "npz" else READERS[format](path)
        scan = Scan(
            array=array,
            affine=header.affine,
            spacing_mm=header.spacing_mm,
            patient=patient,
            id=id,
            modality=modality,
            frames=header.frames,
            notes=header.notes,
        )
    if mask is None:
        return scan
    return Scan(**{**vars(scan), "mask": read_mask(Path(mask), scan.affine, scan.array.shape[1:])})


def check_mask(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ScanError, from headers alone, for a mask on another grid than its image.

    Args:
        path: The file of the mask.
        affine: (4, 4), voxel index of the image -> mm in RAS+.
        shape: Voxels of the image along each axis, without channels.
    """
    format = file_format(path)
    if format == "dicom":
        return check_segmentation(path, affine, shape)
    if format not in HEADERS:
        raise ScanError("the mask is not a NIfTI, NRRD, MetaImage, DICOM SEG or image file: expected one of these")
    with readable_errors("the mask's header"):
        header = HEADERS[format](path)
    geometry.check_same_grid(shape, affine, header.shape, header.affine)


def read_mask(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(*S) uint8 structures on the grid of the image; the mask may be stored in any order of axes.

    Args:
        path: The file of the mask.
        affine: (4, 4), voxel index of the image -> mm in RAS+.
        shape: Voxels of the image along each axis, without channels.

    Raises:
        ScanError: The mask lies on another grid, or holds values that are not whole numbers from 0 to 255.
    """
    check_mask(path, affine, shape)
    if file_format(path) == "dicom":
        return read_segmentation(path, affine, shape)
    with readable_errors("the mask"):
        array, header = READERS[file_format(path) or ""](path)
    if array.shape[0] != 1:
        raise ScanError(f"the mask has {array.shape[0]} channels: expected one; store structures as numbers 1, 2, ...")
    if len(shape) == 3:
        array, _ = geometry.reorient(array, header.affine, geometry.orientation(affine))
    return _structures(array[0])


def _structures(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise ScanError("the mask holds values that are not whole numbers: expected 0, 1, 2, ...; threshold it first")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > LARGEST_STRUCTURE:
        raise ScanError(f"mask values run from {low} to {high}: expected 0 to {LARGEST_STRUCTURE}; renumber them")
    return np.ascontiguousarray(array.astype(np.uint8))
