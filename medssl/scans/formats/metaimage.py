"""MetaImage (.mha, or .mhd with its voxels beside it): ITK's own format, checked before it is believed.

The header is lines of `Key = value` that end with ElementDataFile: LOCAL, or the bare name of a file in the header's
own folder. A path that leads anywhere else is rejected, and so are lists of files and text voxels. Each row of
TransformMatrix is where one axis of the array runs to, in ITK's LPS world; compressed voxels are zlib with its checksum.

    header = metaimage_header(Path("t1.mha"))
    array, header = read_metaimage(Path("t1.mhd"))           # (C, X, Y, Z), C: time points, colours or 1
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.formats.volumes import describe_volume, with_channels
from medssl.scans.geometry import LPS_TO_RAS
from medssl.scans.paths import INFLATE_LIMIT
from medssl.scans.scan import Header

HEADER_LIMIT = 1 << 16
LONGEST_NAME = 255
YES, NO = ("true", "t", "1"), ("false", "f", "0")  # ITK's own reader looks at the first letter
UNIT_LENGTH = 1e-3  # a direction may be this far from length 1
SYNONYMS = {
    "position": "offset",
    "origin": "offset",
    "rotation": "transformmatrix",
    "orientation": "transformmatrix",
    "elementbyteordermsb": "binarydatabyteordermsb",
}
UNIT_MM = {"mm": 1.0, "cm": 10.0, "um": 1e-3, "?": 1.0}
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
Fields = dict[str, str]


def metaimage_header(path: Path) -> Header:
    """The header of a MetaImage, its claims held against the size of the file.

    Raises:
        ScanError: Damage, and kinds of MetaImage that are not read.
    """
    fields, start = header_fields(path)
    data = data_file(path) or path
    there = data.stat().st_size - (start if data == path else 0)
    claimed = _claimed(fields)
    if _is_true(fields, "compresseddata"):
        stored = _whole_number(fields, "compresseddatasize", there)
        if stored != there:
            raise ScanError(
                f"CompressedDataSize is {stored}, {there} bytes are there: the file is damaged; fetch it again"
            )
        there *= INFLATE_LIMIT
    if claimed > there:
        raise ScanError(
            f"the header claims {claimed} bytes, {there} can be there: the file is cut short; fetch it again"
        )
    return _describe(fields)


def read_metaimage(path: Path) -> tuple[np.ndarray, Header]:
    """(C, X, Y, Z) or (C, H, W) as stored, and the header.

    Raises:
        ScanError: As for `metaimage_header`, and for voxels that are damaged or missing.
    """
    header = metaimage_header(path)
    fields, start = header_fields(path)
    beside = data_file(path)
    data = beside.read_bytes() if beside else path.read_bytes()[start:]
    claimed = _claimed(fields)
    if _is_true(fields, "compresseddata"):
        data = _inflate(data, claimed)
    if len(data) != claimed:
        raise ScanError(f"{len(data)} bytes of voxels, the header claims {claimed}: fetch the file again")
    samples, sizes = _samples(fields), _sizes(fields)
    array = np.frombuffer(data, _dtype(fields)).reshape((samples, *sizes), order="F")
    array = np.ascontiguousarray(np.moveaxis(array, 0, -1), array.dtype.newbyteorder("="))
    return with_channels(array, header), header


def data_file(path: Path) -> Path | None:
    """The file beside a MetaImage header that holds its voxels, None where they follow the header itself.

    Raises:
        ScanError: The name could lead out of the header's folder, or the file is not there.
    """
    name = header_fields(path)[0]["elementdatafile"]
    if name.upper() == "LOCAL":
        return None
    if name.upper().split()[:1] == ["LIST"] or "%" in name:
        raise ScanError("ElementDataFile is a list of files: expected LOCAL or one file; store the volume in one file")
    if name in ("", ".", "..") or len(name) > LONGEST_NAME or set(name) & set("/\\:\0"):
        raise ScanError("ElementDataFile leads out of the header's folder: refused; expected LOCAL or a bare file name")
    beside = path.parent / name
    if not beside.is_file():
        raise ScanError("the file that ElementDataFile names is not beside its header: fetch both again")
    return beside


def header_fields(path: Path) -> tuple[Fields, int]:
    """The header's fields, keys in small letters, and the byte its voxels would start at."""
    with path.open("rb") as file:
        head = file.read(HEADER_LIMIT)
    fields: Fields = {}
    start = 0
    while "elementdatafile" not in fields:
        end = head.find(b"\n", start)
        key, equals, value = head[start : end if end >= 0 else None].decode("utf-8", "surrogateescape").partition("=")
        if not equals or (end < 0 and key.strip().lower() != "elementdatafile"):
            raise ScanError("the MetaImage header cannot be parsed: the file is damaged or something else")
        key = key.strip().lower()
        key = SYNONYMS.get(key, key)
        if fields.get(key, value.strip()) != value.strip() and key != "comment":
            raise ScanError(
                f"{key} stands twice in the MetaImage header, with two values: expected each once; fix the header"
            )
        fields[key] = value.strip()
        start = end + 1 if end >= 0 else len(head)
    _check_fields(fields)
    return fields, start


def _check_fields(fields: Fields) -> None:
    if not _is_true(fields, "binarydata", "True"):
        raise ScanError("BinaryData is not True: voxels stored as text are not read; store them as binary")
    if fields.get("headersize", "0") != "0":
        raise ScanError("HeaderSize is not 0: a data file with a header of its own is not read; convert it first")
    for key, neutral in (("elementtointensityfunctionslope", 1.0), ("elementtointensityfunctionoffset", 0.0)):
        values = _numbers(fields, key, 1)
        if values is not None and values[0] != neutral:
            raise ScanError(
                f"{key} is {values[0]:g}: voxels that are to be rescaled are not read; store them as they are meant"
            )
    if fields.get("distanceunits", "mm").lower() not in UNIT_MM:
        raise ScanError(
            "DistanceUnits of the MetaImage are not a length: expected mm, cm or um; convert the file first"
        )
    if fields.get("elementtype") not in TYPES:
        raise ScanError("ElementType is not a plain number: expected MET_SHORT, MET_FLOAT or the like; convert it")


def _is_true(fields: Fields, key: str, default: str = "False") -> bool:
    word = fields.get(key, default).lower()
    if word not in YES + NO:
        raise ScanError(f"{key} of the MetaImage is neither True nor False: fix the header")
    return word in YES


def _numbers(fields: Fields, key: str, count: int) -> np.ndarray | None:
    """`count` finite numbers, None where the header does not say."""
    if key not in fields:
        return None
    try:
        values = np.array([float(word) for word in fields[key].split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise ScanError(f"{key} of the MetaImage does not hold {count} finite numbers: fix the header")
    return values


def _whole_number(fields: Fields, key: str, default: int | None = None) -> int:
    word = fields.get(key, "" if default is None else str(default))
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise ScanError(f"{key} of the MetaImage is not a whole number: the header is damaged or incomplete")
    return int(word)


def _samples(fields: Fields) -> int:
    samples = _whole_number(fields, "elementnumberofchannels", 1)
    if samples < 1:
        raise ScanError(f"elementnumberofchannels is {samples}: expected 1 or more")
    return samples


def _sizes(fields: Fields) -> tuple[int, ...]:
    axes = _whole_number(fields, "ndims")
    if not 2 <= axes <= 4 or (axes == 4 and _samples(fields) > 1):
        raise ScanError(f"ndims is {axes}, with {_samples(fields)} channels: expected two to four axes in all")
    sizes = _numbers(fields, "dimsize", axes)
    if sizes is None or not all(1 <= n < 2**31 and n == int(n) for n in sizes):
        raise ScanError(f"dimsize does not hold {axes} positive whole numbers: the header is damaged or incomplete")
    return tuple(int(n) for n in sizes)


def _dtype(fields: Fields) -> np.dtype:
    return np.dtype((">" if _is_true(fields, "binarydatabyteordermsb") else "<") + TYPES[fields["elementtype"]])


def _claimed(fields: Fields) -> int:
    return math.prod(_sizes(fields)) * _samples(fields) * _dtype(fields).itemsize


def _inflate(data: bytes, claimed: int) -> bytes:
    """Unpack zlib (or gzip) to its checksum; never more than one byte beyond what the header claims."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        out = unpacker.decompress(data, claimed + 1)
    except zlib.error:
        raise ScanError("the compressed voxels are damaged: fetch the file again") from None
    if len(out) <= claimed and not unpacker.eof:
        raise ScanError(f"the voxels end after {len(out)} bytes without their checksum: fetch the file again")
    if unpacker.unused_data:
        raise ScanError(f"{len(unpacker.unused_data)} bytes follow the compressed voxels: the file is damaged")
    return out


def _describe(fields: Fields) -> Header:
    sizes, samples = _sizes(fields), _samples(fields)
    frames = sizes[3] if len(sizes) == 4 else 1
    affine, rule = _affine(fields, len(sizes))
    notes: tuple[str, ...] = () if rule == "directions" else ("no TransformMatrix: left and right are not known",)
    if (scale := _to_mm(fields)) != 1.0:
        notes += (f"units turned into mm (times {scale:g})",)
    if not {"elementspacing", "elementsize"} & set(fields):
        notes += ("pixel size unknown: 1 mm assumed",)
    header = describe_volume((*sizes[:3], 1)[:3], affine, frames, notes, rule)
    return header if samples == 1 else replace(header, channels=samples)


def _to_mm(fields: Fields) -> float:
    """What the header's lengths are multiplied by."""
    return UNIT_MM[fields.get("distanceunits", "mm").lower()]


def _affine(fields: Fields, axes: int) -> tuple[np.ndarray, str]:
    """(4, 4) to RAS+, and "directions" where the header says where its axes run to, else "spacings"."""
    steps = _numbers(fields, "elementspacing", axes)
    steps = _numbers(fields, "elementsize", axes) if steps is None else steps
    if steps is not None and steps.min() < 0:
        raise ScanError("ElementSpacing of the MetaImage is negative: expected mm, and directions in TransformMatrix")
    matrix, origin = _numbers(fields, "transformmatrix", axes * axes), _numbers(fields, "offset", axes)
    turn = np.eye(axes) if matrix is None else matrix.reshape(axes, axes)
    lengths = np.linalg.norm(turn, axis=1)
    if np.abs(lengths - 1).max() > UNIT_LENGTH:
        raise ScanError(f"a row of TransformMatrix is {lengths.min():g} to {lengths.max():g} long: expected 1; fix it")
    if axes == 4 and (np.abs(turn[3, :3]).max() > 0 or np.abs(turn[:3, 3]).max() > 0):
        raise ScanError("TransformMatrix mixes time with space: expected the fourth axis on its own")
    space, affine = min(axes, 3), np.eye(4)
    affine[:space, :space] = turn[:space, :space].T * (np.ones(axes) if steps is None else steps)[:space]
    affine[:space, 3] = 0 if origin is None else origin[:space]
    affine[:3] *= _to_mm(fields)
    return LPS_TO_RAS @ affine, "spacings" if matrix is None else "directions"
