"""NIfTI (.nii, .nii.gz, pairs of .hdr and .img) and Analyze 7.5, checked before it is believed.

Which affine a NIfTI has is one fixed rule: the sform where its code is set, else the qform where its code is
set, else the pixel sizes alone, with a note that left and right are not known. Where both are set and differ
by more than 0.1 mm a note says by how much, and so where the steps of the sform are not those of pixdim. Units other than
mm are turned into mm. Analyze 7.5 says nothing of left and right.

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
from medssl.scans.paths import INFLATE_LIMIT, gunzip, stem, suffix
from medssl.scans.scan import Header

PAIR_ENDS = (".img", ".IMG", ".img.gz", ".IMG.gz")
ANALYZE_BYTES = 348
HEAD_BYTES = 1 << 16
SCALED_AT_ONCE = 1 << 20  # voxels
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def nifti_header(path: Path) -> Header:
    """The header of a NIfTI file, its claims held against the size of the file.

    Raises:
        ScanError: Damage, a type of voxel that is not read, an affine that cannot be used.
    """
    voxels = voxel_file(path) or path
    packed = voxels.name.lower().endswith(".gz")
    size = voxels.stat().st_size
    header = start_of(path)[1]
    claimed = _claimed_bytes(header)
    if voxels == path and int(header["vox_offset"]) < int(header["sizeof_hdr"]):
        raise ScanError(
            "the header is one of a pair of .hdr and .img (magic, or Analyze), the file is none: where its voxels begin is "
            "unknown; fetch the pair"
        )
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
    voxels = voxel_file(path)
    header = start_of(path)[1]
    data: bytes | bytearray = (voxels or path).read_bytes()
    if (voxels or path).name.lower().endswith(".gz"):
        data = gunzip(data, _claimed_bytes(header))
    if voxels is None:
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
    array = _scaled(array, 1.0 if slope is None else slope, 0.0 if offset is None else offset)
    array = array.reshape(shape, order="F").astype(array.dtype.newbyteorder("="), copy=False)
    return with_channels(array, described), described


def _scaled(array: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """The flat array with its scale and offset: float32 where the stored numbers have at most 16 bits, made part by part."""
    if (slope, offset) == (1.0, 0.0) or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
        return apply_read_scaling(array, slope, offset)
    out = np.empty(array.shape, np.float32)
    for first in range(0, len(array), SCALED_AT_ONCE):
        part = slice(first, first + SCALED_AT_ONCE)
        out[part] = array[part] * np.float64(slope) + offset
    return out


def voxel_file(path: Path) -> Path | None:
    """The .img beside a .hdr; None for a file that holds its voxels itself.

    Raises:
        ScanError: There is none, or there are two.
    """
    if suffix(path) not in (".hdr", ".hdr.gz"):
        return None
    beside = [other for end in PAIR_ENDS if (other := path.with_name(stem(path) + end)).is_file()]
    if len(beside) != 1:
        raise ScanError(
            f"{len(beside)} files {' or '.join(PAIR_ENDS[::2])} lie beside this .hdr: expected one with its voxels; fetch the pair "
            "again"
        )
    return beside[0]


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


def _parse(data: bytes | bytearray) -> Any:
    for cls in (nib.Nifti1Header, nib.Nifti2Header):
        size = int(cls.sizeof_hdr)
        for order, name in (("<", "little"), (">", "big")):
            if len(data) >= size and int.from_bytes(data[:4], name) == size:  # type: ignore[arg-type]
                header = cls(data[:size], endianness=order, check=False)
                return _without_nifti_fields(header) if _is_analyze(header) else header
    raise ScanError(
        f"no NIfTI header in the first {min(len(data), 540)} bytes: expected 348 or 540 as the first number; "
        "the file is empty, damaged or something else"
    )


def _is_analyze(header: Any) -> bool:
    """Whether the header has no word of NIfTI: other things lie in its fields of orientation then."""
    return int(header["sizeof_hdr"]) == ANALYZE_BYTES and bytes(header["magic"]).rstrip(b"\0") not in (b"n+1", b"ni1")


def _without_nifti_fields(header: Any) -> Any:
    """An Analyze 7.5 header as NIfTI without form codes. Raises ScanError where it asks for a scale, as SPM's does."""
    scale = float(header["scl_slope"])
    if not scale == 0 and not scale == 1:  # NaN too
        raise ScanError(f"an Analyze header asks to scale by {scale:g}, as SPM's do: convert it to NIfTI first")
    for name in ("scl_slope", "scl_inter", "qform_code", "sform_code", "xyzt_units"):
        header[name] = 0
    header["magic"] = b"ni1"
    header["vox_offset"] = max(0.0, float(header["vox_offset"]))
    return header


def _checked(read: Callable[[], Any], what: str) -> Any:
    """A field of a NIfTI header, or a ScanError that names it: nibabel's own message may quote the header."""
    try:
        return read()
    except (HeaderDataError, ImageFileError, ValueError, KeyError, OverflowError):
        raise ScanError(f"the NIfTI header's {what} cannot be used: the file is damaged; fetch it again") from None


def _claimed_bytes(header: Any) -> int:
    shape = _shape(header)
    dtype = _checked(header.get_data_dtype, "datatype")
    is_pair = bytes(header["magic"])[:3] in (b"ni1", b"ni2")
    offset, min_offset = float(header["vox_offset"]), 0 if is_pair else int(header["sizeof_hdr"]) + 4
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
    notes += _unused_offset(header)
    return describe_volume((*shape[:3], 1)[:3], affine, frames, notes, rule, apart_mm)


def _unused_offset(header: Any) -> tuple[str, ...]:
    """A note where numbers are not moved though the header has an offset. Raises ScanError for an infinite scale."""
    slope, offset = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope):
        raise ScanError(f"scl_slope is {slope}: expected a finite number; the file is damaged")
    if slope == 0 and offset != 0 and math.isfinite(offset):
        return (f"scl_inter is {offset:g} and is not added, since scl_slope is 0",)
    return ()


def _other_steps(sform: np.ndarray, pixdim: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """The steps of an sform and those of pixdim as text, where they differ by 0.1 mm over the volume; else None."""
    ours, theirs = np.linalg.norm(sform[:3, :3], axis=0), np.abs(np.asarray(pixdim, float))
    if (np.abs(ours - theirs) * np.array(shape) <= SAME_GRID_MM).all():
        return None
    return " and ".join("x".join(f"{step:g}" for step in steps) for steps in (ours, theirs))


def _affine(header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, str, float | None, tuple[str, ...]]:
    """The affine in mm, which form it is, how far the other one lies from it (None where there is one), and notes."""
    scale = UNIT_MM.get(code := int(header["xyzt_units"]) & 7)
    if scale is None:
        raise ScanError(f"xyzt_units has the unknown unit {code}: expected 1 to 3 (m, mm, um) or 0; fix the header")
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
    if sform is not None and (differing := _other_steps(sform, header["pixdim"][1:4], shape)):
        notes += (f"sform and pixdim differ in their steps ({differing}): sform used",)
    rule = "qform" if sform is None else "sform"
    return to_mm @ (qform if sform is None else sform), rule, apart_mm, notes
