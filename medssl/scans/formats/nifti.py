"""NIfTI (.nii, .nii.gz), checked before it is believed.

Which affine a NIfTI has is one fixed rule: the sform where its code is set, else the qform where its code is
set, else the pixel sizes alone, with a note that left and right are not known. Where both are set and differ
by more than 0.1 mm a note says by how much. Units other than mm are turned into mm.

Nothing is allocated for what a header claims: the claim is held against the bytes that are there, and a
.nii.gz is unpacked to its end, CRC and length checked, before any voxel counts.

    header = nifti_header(Path("t1.nii.gz"))
    array, header = read_nifti(Path("t1.nii.gz"))            # (C, X, Y, Z), C: time points or 1
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from medssl.core.errors import ScanError
from medssl.scans.formats.volumes import describe_volume, with_channels
from medssl.scans.geometry import SAME_GRID_MM, corners_apart_mm
from medssl.scans.paths import INFLATE_LIMIT, gunzip
from medssl.scans.scan import Header

HEAD_BYTES = 1 << 16
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def nifti_header(path: Path) -> Header:
    """The header of a NIfTI file, its claims held against the size of the file.

    Raises:
        ScanError: Damage, a type of voxel that is not read, an affine that cannot be used.
    """
    packed = path.name.lower().endswith(".gz")
    size = path.stat().st_size
    header = start_of(path)[1]
    claimed = _claimed_bytes(header)
    if claimed > (size * INFLATE_LIMIT if packed else size):
        raise ScanError(
            f"the header claims {claimed} bytes, the file has {size}{' packed' if packed else ''}: it is cut short or "
            "damaged; fetch it again"
        )
    return _describe(header)


def read_nifti(path: Path) -> tuple[np.ndarray, Header]:
    """(C, X, Y, Z) or (C, H, W) as stored (scale and offset applied), and the header.

    Raises:
        ScanError: As for `nifti_header`, and for a failed CRC or missing bytes.
    """
    described = nifti_header(path)
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = gunzip(data, _claimed_bytes(start_of(path)[1]))
    header = _parse(data)
    if data[_claimed_bytes(header) :].strip(b"\0"):
        raise ScanError(
            f"the header claims {_claimed_bytes(header)} bytes, {len(data)} are there: expected nothing after the voxels; "
            "one of the two is damaged: fetch the file again"
        )
    if len(data) < _claimed_bytes(header):
        raise ScanError(
            f"the header claims {_claimed_bytes(header)} bytes, {len(data)} are there: the file is cut short; "
            "fetch it again"
        )
    shape = _shape(header)
    array = np.frombuffer(data, header.get_data_dtype(), math.prod(shape), int(header["vox_offset"]))
    slope, offset = _checked(header.get_slope_inter, "scl_slope")
    array = apply_read_scaling(array, 1.0 if slope is None else slope, 0.0 if offset is None else offset)
    array = np.ascontiguousarray(array.reshape(shape, order="F"), array.dtype.newbyteorder("="))
    return with_channels(array, described), described


def start_of(path: Path) -> tuple[bytes, Any]:
    """The first bytes of a NIfTI file, unpacked, and nibabel's header of them. Raises ScanError for another file."""
    start = _first_bytes(path, path.name.lower().endswith(".gz"))
    return start, _parse(start)


def _first_bytes(path: Path, packed: bool) -> bytes:
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        # a file shorter than HEAD_BYTES may end in damage that only the full read can name
        return _readable_start(path)


def _readable_start(path: Path) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(path.read_bytes(), HEAD_BYTES)
    except zlib.error:
        raise ScanError("the file is not gzip, whatever its name says: fetch it again, or leave it out") from None


def _parse(data: bytes) -> Any:
    for cls in (nib.Nifti1Header, nib.Nifti2Header):
        size = int(cls.sizeof_hdr)
        if len(data) >= size and int.from_bytes(data[:4], "little") == size:
            return cls(data[:size], endianness="<", check=False)
        if len(data) >= size and int.from_bytes(data[:4], "big") == size:
            return cls(data[:size], endianness=">", check=False)
    raise ScanError(
        f"no NIfTI header in the first {min(len(data), 540)} bytes: expected 348 or 540 as the first number; "
        "the file is empty, damaged or something else"
    )


def _checked(read: Callable[[], Any], what: str) -> Any:
    """A field of a NIfTI header, or a ScanError that names it: nibabel's own message may quote the header."""
    try:
        return read()
    except (HeaderDataError, ImageFileError, ValueError, KeyError, OverflowError):
        raise ScanError(f"the NIfTI header's {what} cannot be used: the file is damaged; fetch it again") from None


def _claimed_bytes(header: Any) -> int:
    shape = _shape(header)
    dtype = _checked(header.get_data_dtype, "datatype")
    offset, min_offset = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not math.isfinite(offset) or not min_offset <= offset < 2**63:
        raise ScanError(f"vox_offset is {offset:g}: expected {min_offset} or more; the file is damaged")
    bits = int(header["bitpix"])
    if bits not in (0, 8 * dtype.itemsize):
        raise ScanError(f"bitpix is {bits}, the datatype has {8 * dtype.itemsize} bits: one of them is damaged")
    return int(offset) + math.prod(shape) * dtype.itemsize


def _shape(header: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in _checked(header.get_data_shape, "dim"))
    if not 2 <= int(header["dim"][0]) <= 7 or len(shape) < 2 or min(shape) < 1:
        raise ScanError(f"dim is {shape}: expected two to four positive sizes; the file is damaged or empty")
    return shape


def _describe(header: Any) -> Header:
    shape = _shape(header)
    dtype = _checked(header.get_data_dtype, "datatype")
    if dtype.kind not in "iuf":
        raise ScanError(f"voxels of type {dtype} are not read: expected integers or floats; convert the file first")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise ScanError(f"the volume has {len(shape)} axes: expected at most 4 (x, y, z, time)")
    affine, rule, apart_mm, notes = _affine(header, (*shape[:3], 1)[:3])
    frames = shape[3] if len(shape) == 4 else 1
    return describe_volume((*shape[:3], 1)[:3], affine, frames, notes, rule, apart_mm)


def _affine(header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, str, float | None, tuple[str, ...]]:
    """The affine in mm, which form it is, how far the other one lies from it (None where there is one), and notes."""
    scale = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    to_mm = np.diag([scale, scale, scale, 1.0])
    notes: tuple[str, ...] = () if scale == 1.0 else (f"units turned into mm (times {scale:g})",)
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = _checked(header.get_qform, "qform") if int(header["qform_code"]) > 0 else None
    if sform is None and qform is None:
        steps = [abs(float(step)) for step in header["pixdim"][1:4]]
        affine = to_mm @ np.diag([*steps, 1.0])
        return affine, "pixdim", None, (*notes, "no form code: left and right are not known")
    apart_mm = None
    if sform is not None and qform is not None and np.isfinite(sform).all() and np.isfinite(qform).all():
        apart_mm = corners_apart_mm(to_mm @ sform, to_mm @ qform, shape)
        if apart_mm > SAME_GRID_MM:
            notes += (f"sform and qform differ by {apart_mm:.2f} mm: sform used",)
    rule = "qform" if sform is None else "sform"
    return to_mm @ (qform if sform is None else sform), rule, apart_mm, notes
