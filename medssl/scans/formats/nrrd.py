"""NRRD (.nrrd) with its voxels in the same file, checked before it is believed.

header = nrrd_header(Path("t1.nrrd"))
array, header = read_nrrd(Path("t1.nrrd"))           # (C, X, Y, Z), C: the one axis outside of space, or 1
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.formats.volumes import describe_volume, with_channels
from medssl.scans.geometry import LPS_TO_RAS
from medssl.scans.paths import INFLATE_LIMIT, gunzip
from medssl.scans.scan import Header

SPACES = {  # space -> what turns it into RAS
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
}
HEADER_LIMIT = 1 << 20
SAME_STEP = 1e-3  # of a step: what a spacing may differ from its direction
UNIT_MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
}
TYPES = {  # NRRD's many words for a number -> numpy's
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


def nrrd_header(path: Path) -> Header:
    """The header of a NRRD file, its claims held against the size of the file.

    Raises:
        ScanError: Damage, and kinds of NRRD that are not read.
    """
    with path.open("rb") as file:
        fields = _fields(file)
        rest = path.stat().st_size - file.tell()
    claimed = _dtype(fields).itemsize * math.prod(_sizes(fields))
    if claimed > (rest * INFLATE_LIMIT if _packed(fields) else rest):
        raise ScanError(
            f"the header claims {claimed} bytes of voxels, the file has {rest}: it is cut short or damaged; "
            "fetch it again"
        )
    return _describe(fields)


def read_nrrd(path: Path) -> tuple[np.ndarray, Header]:
    """(C, X, Y, Z) or (C, H, W) as stored, and the header.

    Raises:
        ScanError: As for `nrrd_header`, and for voxels that are damaged or missing.
    """
    described = nrrd_header(path)
    with path.open("rb") as file:
        fields = _fields(file)
        data: bytes | bytearray = file.read()
    sizes, dtype = _sizes(fields), _dtype(fields)
    claimed = dtype.itemsize * math.prod(sizes)
    if _packed(fields):
        data = gunzip(data, claimed)
    if len(data) < claimed:
        raise ScanError(f"{len(data)} bytes of voxels, the header claims {claimed}: fetch the file again")
    if data[claimed:].strip(b"\0\r\n"):
        raise ScanError(
            f"the header claims {claimed} bytes of voxels, {len(data)} are there: one of the two is damaged; fetch the file again"
        )
    array = np.frombuffer(data, dtype, math.prod(sizes)).reshape(sizes, order="F")
    array = np.ascontiguousarray(array, dtype.newbyteorder("="))
    channel_axis = _channel_axis(fields)
    if channel_axis is not None:
        array = np.moveaxis(array, channel_axis, -1)
    return with_channels(array, described), described


def _fields(file: io.BufferedReader) -> dict[str, Any]:
    """The fields of the header; the file then stands at its first voxel."""
    head = file.read(HEADER_LIMIT)
    ends = [head.index(end) + len(end) for end in (b"\n\n", b"\n\r\n") if end in head]
    if not ends and len(head) == HEADER_LIMIT:
        raise ScanError(f"no end of the NRRD header in {HEADER_LIMIT} bytes: the file is damaged or something else")
    end = min(ends, default=len(head))
    file.seek(end)
    try:
        fields = dict(nrrd.read_header(io.BytesIO(head[:end])))
    except (nrrd.NRRDError, ValueError, KeyError, IndexError, UnicodeDecodeError, StopIteration):
        raise ScanError("the NRRD header cannot be parsed: the file is damaged or something else") from None
    if "data file" in fields or "datafile" in fields:
        raise ScanError("NRRD with a detached data file is not read: store header and voxels in one file")
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if int(fields.get(name, 0)) != 0:
            raise ScanError(
                f"{name} of the NRRD is {int(fields[name])}: expected voxels right behind the header; store the volume again"
            )
    return fields


def _sizes(fields: dict[str, Any]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in fields.get("sizes", ()))
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise ScanError(f"sizes are {sizes}: expected two to four positive numbers")
    if int(fields.get("dimension", len(sizes))) != len(sizes):
        raise ScanError(
            f"dimension is {fields['dimension']}, sizes are {sizes}: one of them is damaged; fetch it again"
        )
    return sizes


def _dtype(fields: dict[str, Any]) -> np.dtype:
    word = str(fields.get("type", "")).lower()
    code = next((code for code, words in TYPES.items() if word in words.split("|")), None)
    if code is None:
        raise ScanError("the NRRD's type is not a plain number: expected integers or floats")
    order = {"big": ">", "little": "<"}.get(str(fields.get("endian", "")).lower())
    if order is None and code[1:] != "1":
        raise ScanError("the NRRD does not say in which order its bytes stand (endian): expected little or big")
    return np.dtype((order or "<") + code)


def _packed(fields: dict[str, Any]) -> bool:
    encoding = str(fields.get("encoding", "")).lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ScanError("this NRRD encoding is not read: expected raw or gzip; convert the file first")
    return encoding != "raw"


def _channel_axis(fields: dict[str, Any]) -> int | None:
    """The one axis without a direction in space, None where every axis has one."""
    directions = fields.get("space directions")
    sizes = _sizes(fields)
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


def _describe(fields: dict[str, Any]) -> Header:
    sizes, channel_axis = _sizes(fields), _channel_axis(fields)
    frames = 1 if channel_axis is None else sizes[channel_axis]
    shape = tuple(n for axis, n in enumerate(sizes) if axis != channel_axis)
    affine, rule, notes = _affine(fields, channel_axis)
    return describe_volume((*shape, 1)[:3], affine, frames, notes, rule)


def _affine(fields: dict[str, Any], channel_axis: int | None) -> tuple[np.ndarray, str, tuple[str, ...]]:
    directions = fields.get("space directions")
    affine = np.eye(4)
    scale = _to_mm(fields, "units" if directions is None else "space units", channel_axis)
    notes = () if scale == 1.0 else (f"units turned into mm (times {scale:g})",)
    if directions is None:
        steps = [abs(float(step)) for axis, step in enumerate(fields.get("spacings", ())) if axis != channel_axis]
        affine[: len(steps), : len(steps)] = np.diag(steps) * scale
        size = () if steps else ("pixel size unknown: 1 mm assumed",)
        return affine, "spacings", (*notes, *size, "no space directions: left and right are not known")
    vectors = [row for axis, row in enumerate(directions) if axis != channel_axis]
    if len(vectors) != 3 or any(len(vector) != 3 for vector in (*vectors, fields.get("space origin", (0, 0, 0)))):
        raise ScanError("the NRRD's space directions and origin are not those of three axes in space: convert it first")
    _check_spacings(fields, vectors, channel_axis)
    affine[:3, :3] = np.array(vectors, float).T * scale
    affine[:3, 3] = np.array(fields.get("space origin", (0, 0, 0)), float) * scale
    space = str(fields.get("space", "")).lower()
    if space not in SPACES:
        return affine, "no space", (*notes, "the space is not one of the patient's axes: left and right are not known")
    return SPACES[space] @ affine, "directions", notes


def _check_spacings(fields: dict[str, Any], vectors: Sequence[Any], channel_axis: int | None) -> None:
    """Raise ScanError where an axis has a spacing too, and its direction has another length."""
    steps = [float(step) for axis, step in enumerate(fields.get("spacings", ())) if axis != channel_axis]
    for step, vector in zip(steps, vectors):
        length = float(np.linalg.norm(np.array(vector, float)))
        if math.isfinite(step) and abs(abs(step) - length) > SAME_STEP * length:
            raise ScanError(
                f"an axis has the spacing {step:g} and a direction of length {length:g}: expected one of them; fix the header"
            )


def _to_mm(fields: dict[str, Any], name: str, channel_axis: int | None) -> float:
    """What the header's lengths are multiplied by; mm where it does not say its units."""
    said = list(fields.get(name, ()))
    words = {str(word).strip().lower() for axis, word in enumerate(said) if name != "units" or axis != channel_axis}
    scales = {UNIT_MM.get(word.strip('"')) for word in words - {"", "???", "none"}}
    if None in scales or len(scales) > 1:
        raise ScanError(f"{name} of the NRRD are not one length: expected mm in all axes; convert the file first")
    return next(iter(scales), 1.0) or 1.0
