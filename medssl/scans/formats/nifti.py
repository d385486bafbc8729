"""NIfTI (.nii, .nii.gz) and NRRD files, checked before they are believed.

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
import io
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from medssl.core.errors import ScanError
from medssl.scans.geometry import AGREE_MM, LPS_TO_RAS, check_affine, corners_apart_mm, spacing
from medssl.scans.paths import INFLATE_LIMIT, gunzip
from medssl.scans.scan import Header

HEAD_BYTES = 1 << 16
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
NRRD_SPACES = {  # space -> what turns it into RAS
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
}
NRRD_TYPES = {  # NRRD's many words for a number -> numpy's
    "f4": "float",
    "f8": "double",
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
}


def nifti_header(path: Path) -> Header:
    """What a NIfTI file claims, held against its size. Raises ScanError for damage, odd types and bad
    affines."""
    packed = path.name.lower().endswith(".gz")
    size = path.stat().st_size
    header = start_of(path)[1]
    claimed = _claimed_bytes(header)
    if claimed > (size * INFLATE_LIMIT if packed else size):
        raise ScanError(
            f"the header claims {claimed} bytes, the file has {size}{' packed' if packed else ''}: it is cut short or "
            "damaged; fetch it again"
        )
    return _describe_nifti(header)


def read_nifti(path: Path) -> tuple[np.ndarray, Header]:
    """(C, X, Y, Z) or (C, H, W) as stored (scale and offset applied), and the header.

    Raises ScanError as `nifti_header` does, and for a failed CRC or missing bytes.
    """
    described = nifti_header(path)
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = gunzip(data, _claimed_bytes(start_of(path)[1]))
    header = _parse_nifti(data)
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
    shape = _nifti_shape(header)
    array = np.frombuffer(data, header.get_data_dtype(), math.prod(shape), int(header["vox_offset"]))
    slope, offset = _guarded(header.get_slope_inter, "scl_slope")
    array = apply_read_scaling(array, 1.0 if slope is None else slope, 0.0 if offset is None else offset)
    array = np.ascontiguousarray(array.reshape(shape, order="F"), array.dtype.newbyteorder("="))
    return with_channels(array, described), described


def nrrd_header(path: Path) -> Header:
    """What a NRRD file claims, held against its size. Raises ScanError for damage and for what is not
    read."""
    with path.open("rb") as file:
        fields = _nrrd_fields(file)
        rest = path.stat().st_size - file.tell()
    claimed = _nrrd_dtype(fields).itemsize * math.prod(_nrrd_sizes(fields))
    if claimed > (rest * INFLATE_LIMIT if _nrrd_packed(fields) else rest):
        raise ScanError(
            f"the header claims {claimed} bytes of voxels, the file has {rest}: it is cut short or damaged; "
            "fetch it again"
        )
    return _describe_nrrd(fields)


def read_nrrd(path: Path) -> tuple[np.ndarray, Header]:
    """(C, X, Y, Z) or (C, H, W) as stored, and the header. Raises ScanError as `nrrd_header` does, and for
    damage."""
    described = nrrd_header(path)
    with path.open("rb") as file:
        fields = _nrrd_fields(file)
        data = file.read()
    sizes, dtype = _nrrd_sizes(fields), _nrrd_dtype(fields)
    claimed = dtype.itemsize * math.prod(sizes)
    if _nrrd_packed(fields):
        data = gunzip(data, claimed)
    if len(data) < claimed:
        raise ScanError(f"{len(data)} bytes of voxels, the header claims {claimed}: fetch the file again")
    array = np.frombuffer(data, dtype, math.prod(sizes)).reshape(sizes, order="F")
    array = np.ascontiguousarray(array, dtype.newbyteorder("="))
    channel_axis = _channel_axis(fields)
    if channel_axis is not None:
        array = np.moveaxis(array, channel_axis, -1)
    return with_channels(array, described), described


def start_of(path: Path) -> tuple[bytes, Any]:
    """The first bytes of a NIfTI file, unpacked, and nibabel's header of them. Raises ScanError for another file."""
    start = _first_bytes(path, path.name.lower().endswith(".gz"))
    return start, _parse_nifti(start)


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


def _parse_nifti(data: bytes) -> Any:
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


def _guarded(read: Callable[[], Any], what: str) -> Any:
    """A field of a NIfTI header, or a ScanError that names it: nibabel's own words may quote the header."""
    try:
        return read()
    except (HeaderDataError, ImageFileError, ValueError, KeyError, OverflowError):
        raise ScanError(f"the NIfTI header's {what} cannot be used: the file is damaged; fetch it again") from None


def _claimed_bytes(header: Any) -> int:
    shape = _nifti_shape(header)
    dtype = _guarded(header.get_data_dtype, "datatype")
    offset, least = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not math.isfinite(offset) or not least <= offset < 2**63:
        raise ScanError(f"vox_offset is {offset:g}: expected {least} or more; the file is damaged")
    bits = int(header["bitpix"])
    if bits not in (0, 8 * dtype.itemsize):
        raise ScanError(f"bitpix is {bits}, the datatype has {8 * dtype.itemsize} bits: one of them is damaged")
    return int(offset) + math.prod(shape) * dtype.itemsize


def _nifti_shape(header: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in _guarded(header.get_data_shape, "dim"))
    if not 2 <= int(header["dim"][0]) <= 7 or len(shape) < 2 or min(shape) < 1:
        raise ScanError(f"dim is {shape}: expected two to four positive sizes; the file is damaged or empty")
    return shape


def _describe_nifti(header: Any) -> Header:
    shape = _nifti_shape(header)
    dtype = _guarded(header.get_data_dtype, "datatype")
    if dtype.kind not in "iuf":
        raise ScanError(f"voxels of type {dtype} are not read: expected integers or floats; convert the file first")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise ScanError(f"the volume has {len(shape)} axes: expected at most 4 (x, y, z, time)")
    affine, rule, apart_mm, notes = _nifti_affine(header, (*shape[:3], 1)[:3])
    frames = shape[3] if len(shape) == 4 else 1
    return describe_volume((*shape[:3], 1)[:3], affine, frames, notes, rule, apart_mm)


def describe_volume(
    shape: tuple[int, ...],
    affine: np.ndarray,
    frames: int,
    notes: tuple[str, ...],
    rule: str,
    apart_mm: float | None = None,
) -> Header:
    """The header of three axes as stored; one slice is an image. Raises ScanError for an affine that cannot be used."""
    notes += check_affine(affine, shape)
    steps = spacing(affine)
    if frames > 1:
        notes += (f"4D: {frames} frames held as channels",)
    if shape[2] == 1:
        return Header(
            modality="OT",
            shape=(shape[1], shape[0]),
            affine=np.diag([steps[1], steps[0], 1.0, 1.0]),
            spacing_mm=(steps[1], steps[0]),
            channels=frames,
            frames=frames,
            notes=(*notes, "one slice: read as a 2D image"),
            affine_rule=rule,
            qform_apart_mm=apart_mm,
        )
    thickest = int(np.argmax(steps))
    clear = steps[thickest] > 1.2 * sorted(steps)[1]
    return Header(
        modality="OT",
        shape=shape,
        affine=affine,
        spacing_mm=steps,
        channels=frames,
        frames=frames,
        slice_axis=thickest if clear else None,
        notes=notes,
        affine_rule=rule,
        qform_apart_mm=apart_mm,
    )


def _nifti_affine(header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, str, float | None, tuple[str, ...]]:
    """The affine in mm, which form it is, how far the other one lies from it (None where there is one), and notes."""
    scale = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    to_mm = np.diag([scale, scale, scale, 1.0])
    notes: tuple[str, ...] = () if scale == 1.0 else (f"units turned into mm (times {scale:g})",)
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = _guarded(header.get_qform, "qform") if int(header["qform_code"]) > 0 else None
    if sform is None and qform is None:
        steps = [abs(float(step)) for step in header["pixdim"][1:4]]
        affine = to_mm @ np.diag([*steps, 1.0])
        return affine, "pixdim", None, (*notes, "no form code: left and right are not known")
    apart_mm = None
    if sform is not None and qform is not None and np.isfinite(sform).all() and np.isfinite(qform).all():
        apart_mm = corners_apart_mm(to_mm @ sform, to_mm @ qform, shape)
        if apart_mm > AGREE_MM:
            notes += (f"sform and qform differ by {apart_mm:.2f} mm: sform used",)
    rule = "qform" if sform is None else "sform"
    return to_mm @ (qform if sform is None else sform), rule, apart_mm, notes


def with_channels(array: np.ndarray, header: Header) -> np.ndarray:
    """(X, Y, Z[, C]) -> (C, X, Y, Z); one slice becomes (C, H, W), rows down and columns right as stored."""
    stored = (header.shape[1], header.shape[0], 1) if len(header.shape) == 2 else header.shape
    array = np.moveaxis(array.reshape(*stored, header.channels or 1), -1, 0)
    return array[..., 0].transpose(0, 2, 1) if len(header.shape) == 2 else array


def _nrrd_fields(file: io.BufferedReader) -> dict[str, Any]:
    try:
        fields = dict(nrrd.read_header(file))
    except (nrrd.NRRDError, ValueError, KeyError, IndexError, UnicodeDecodeError):
        raise ScanError("the NRRD header cannot be parsed: the file is damaged or something else") from None
    if "data file" in fields or "datafile" in fields:
        raise ScanError("NRRD with a detached data file is not read: store header and voxels in one file")
    return fields


def _nrrd_sizes(fields: dict[str, Any]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in fields.get("sizes", ()))
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise ScanError(f"sizes are {sizes}: expected two to four positive numbers")
    return sizes


def _nrrd_dtype(fields: dict[str, Any]) -> np.dtype:
    word = str(fields.get("type", "")).lower()
    code = next((code for code, words in NRRD_TYPES.items() if word in words.split("|")), None)
    if code is None:
        raise ScanError("the NRRD's type is not a plain number: expected integers or floats")
    return np.dtype((">" if fields.get("endian") == "big" else "<") + code)


def _nrrd_packed(fields: dict[str, Any]) -> bool:
    encoding = str(fields.get("encoding", "")).lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ScanError("this NRRD encoding is not read: expected raw or gzip; convert the file first")
    return encoding != "raw"


def _channel_axis(fields: dict[str, Any]) -> int | None:
    """The one axis without a direction in space, None where every axis has one."""
    directions = fields.get("space directions")
    sizes = _nrrd_sizes(fields)
    if directions is None:
        kinds = [str(kind) for kind in fields.get("kinds", ())]
        other = [axis for axis, kind in enumerate(kinds) if not re.fullmatch("domain|space", kind)]
    else:
        rows = [np.array([np.nan] * 3 if row is None else row, float) for row in directions]
        other = [axis for axis, row in enumerate(rows) if np.isnan(row).all()]
    if len(sizes) - len(other) not in (2, 3) or len(other) > 1:
        raise ScanError(
            f"{len(sizes)} axes, {len(other)} of them outside space: expected three in space, one or none out"
        )
    return other[0] if other else None


def _describe_nrrd(fields: dict[str, Any]) -> Header:
    sizes, channel_axis = _nrrd_sizes(fields), _channel_axis(fields)
    frames = 1 if channel_axis is None else sizes[channel_axis]
    shape = tuple(n for axis, n in enumerate(sizes) if axis != channel_axis)
    affine, rule, notes = _nrrd_affine(fields, channel_axis)
    return describe_volume((*shape, 1)[:3], affine, frames, notes, rule)


def _nrrd_affine(fields: dict[str, Any], channel_axis: int | None) -> tuple[np.ndarray, str, tuple[str, ...]]:
    directions = fields.get("space directions")
    affine = np.eye(4)
    if directions is None:
        steps = [abs(float(step)) for axis, step in enumerate(fields.get("spacings", ())) if axis != channel_axis]
        affine[: len(steps), : len(steps)] = np.diag(steps)
        size = () if steps else ("pixel size unknown: 1 mm assumed",)
        return affine, "spacings", (*size, "no space directions: left and right are not known")
    vectors = [row for axis, row in enumerate(directions) if axis != channel_axis]
    if len(vectors) != 3:
        raise ScanError(f"{len(vectors)} space directions: expected three")
    affine[:3, :3] = np.array(vectors, float).T
    affine[:3, 3] = np.array(fields.get("space origin", (0, 0, 0)), float)
    space = str(fields.get("space", "")).lower()
    if space not in NRRD_SPACES:
        return affine, "no space", ("space not said: left and right are not known",)
    return NRRD_SPACES[space] @ affine, "directions", ()
