"""A DICOM header, opened safely and read fast: nothing is allocated for what a header claims, and a number is
taken straight from its bytes (pydicom's own conversion of a header costs as much as reading it).

    dataset = open_header("series/0001.dcm")
    numbers(dataset, "PixelSpacing"), words(dataset, "ImageType")         # (0.7, 0.7), ("ORIGINAL", ...)
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medssl.core.errors import ScanError
from medssl.scans.dicom.fast_header import PIXELS, UNDEFINED, read_elements
from medssl.scans.paths import CHUNK, INFLATE_LIMIT

HEAD_BYTES = 4096
FAST_BYTES = 1 << 16  # headers of usual files are shorter
SMALL_BYTES = 1 << 26  # a blank image may be packed very small: up to here no ratio is suspicious
LARGEST_INFLATED_BYTES = 1 << 30
LARGEST_FRAMES = 1 << 16  # of one file: each takes memory before a pixel is read, and a frame may be packed to nothing
TEXT_VRS = {"DS", "IS", "CS", "UI", "TM"}
BINARY_VRS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
DEFLATED_TO_PLAIN = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0")  # of one length
CLAIM_TAGS = frozenset(
    int(tag_for_keyword(keyword) or 0)
    for keyword in (
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "BitsAllocated",
        "PhotometricInterpretation",
    )
)
OLD_STARTS = {b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\0\0", b"\x02\0\0\0"}  # files without a preamble


class _Bounded(io.BufferedReader):
    """A file that never reserves memory for more bytes than it has."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > CHUNK:
            size = min(size, max(0, self.size - self.tell()))
        return super().read(size)


def open_header(file: str, tags: Sequence[BaseTag] | None = None, pixels: bool = False) -> Dataset:
    """The header of a file as pydicom's Dataset; its `bytes_on_disk` is the size of the file.

    Args:
        file: The file.
        tags: The elements to read; all by default.
        pixels: Read PixelData too.

    Raises:
        ScanError: The file is not DICOM, or a deflated one that unpacks to more than its header claims.
    """
    with io.FileIO(file) as raw:
        return (_read_fast(raw, frozenset(tags), pixels) if tags else None) or _read_with_pydicom(raw, tags, pixels)


def as_plain(file: str) -> str | io.BytesIO:
    """The file, or a deflated one as if it had not been, up to the end of its pixels: for readers that inflate without a limit.

    Raises:
        ScanError: It is a deflated file that unpacks to more than its header claims.
    """
    with io.FileIO(file) as raw, _Bounded(raw) as stream:
        if DeflatedExplicitVRLittleEndian.encode() not in stream.peek(HEAD_BYTES)[:HEAD_BYTES]:
            return file
        return _inflated(stream, pixels=True)[0]


def _read_fast(raw: io.FileIO, tags: frozenset[int], pixels: bool) -> Dataset | None:
    """The elements without pydicom, None where a file is not usual."""
    size = os.fstat(raw.fileno()).st_size
    header = read_elements(os.pread(raw.fileno(), FAST_BYTES, 0), tags, whole=size <= FAST_BYTES)
    if header is None or (pixels and header.pixels_length == UNDEFINED):
        return None
    dataset, at, length = header
    if pixels and at is not None:
        value = os.pread(raw.fileno(), min(length, max(0, size - at)), at)
        dataset[PIXELS] = RawDataElement(BaseTag(PIXELS), "OW", length, value, at, False, True)
    dataset.bytes_on_disk = size
    return dataset


def _read_with_pydicom(raw: io.FileIO, tags: Sequence[BaseTag] | None, pixels: bool) -> Dataset:
    with _Bounded(raw) as stream:
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        if head[128:132] != b"DICM" and head[:4] not in OLD_STARTS:
            raise ScanError("this is not a DICOM file (no DICM at byte 128), whatever its name says: leave it out")
        source: io.BufferedIOBase = stream
        if DeflatedExplicitVRLittleEndian.encode() in head:
            source, size = _inflated(stream, pixels)
        else:
            size = stream.size
        wanted = None if tags is None else [*tags, *([PIXELS] if pixels else [])]
        dataset = pydicom.dcmread(source, force=True, stop_before_pixels=not pixels, specific_tags=wanted)
        dataset.bytes_on_disk = size
        return dataset


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of one element, () where it is missing or empty. Raises ValueError where they are none."""
    value = _value(dataset, keyword)
    if isinstance(value, bytes):
        return tuple(float(part) for part in value.split(b"\\")) if value else ()
    return tuple(float(part) for part in _as_list(value))


def number(dataset: Dataset, keyword: str, missing: float) -> float:
    """The first number of one element, or `missing`. Raises ValueError where it is not a number."""
    return next(iter(numbers(dataset, keyword)), missing)


def words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The code words of one element in capitals, () where it is missing or empty."""
    value = _value(dataset, keyword)
    parts = value.decode("latin-1").split("\\") if isinstance(value, bytes) else map(str, _as_list(value))
    return tuple(part.strip(" \0").upper() for part in parts if part)


def word(dataset: Dataset, keyword: str) -> str:
    """The first code word of one element, "" where it is missing."""
    return next(iter(words(dataset, keyword)), "")


def syntax_of(dataset: Dataset) -> UID:
    """The transfer syntax; raises ScanError for one that is none of the standard's."""
    meta = getattr(dataset, "file_meta", None)
    syntax = UID((meta.get("TransferSyntaxUID") if meta else None) or ImplicitVRLittleEndian)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ScanError("the transfer syntax (0002,0010) is none of the standard ones: convert the file first")
    return syntax


def check_claim(dataset: Dataset) -> None:
    """Raise ScanError where the header claims no pixels, or more than its file can hold."""
    for keyword, missing in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1), ("SamplesPerPixel", 1)):
        value = float(number(dataset, keyword, missing))
        if not (value >= 1 and value.is_integer()):
            raise ScanError(f"{keyword} is {value:g}: expected a whole number from 1 on; the header is damaged")
    if (frames := number(dataset, "NumberOfFrames", 1)) > LARGEST_FRAMES:
        raise ScanError(
            f"NumberOfFrames (0028,0008) is {frames:g}: expected at most {LARGEST_FRAMES}; split the file, or leave it out"
        )
    syntax, size = syntax_of(dataset), dataset.bytes_on_disk
    claimed = claimed_bytes(dataset)
    packed = syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian
    if not packed and claimed > size:
        raise ScanError(
            f"pixel data (7FE0,0010) is truncated: the file has {size} bytes, its header claims {claimed} of pixels; "
            "fetch the file again"
        )
    if packed and claimed > max(SMALL_BYTES, INFLATE_LIMIT * size):
        raise ScanError(
            f"the header claims {claimed} bytes of pixels, the file has {size}, packed: expected at most "
            f"{INFLATE_LIMIT} times as many; it is damaged, fetch it again"
        )


def claimed_bytes(dataset: Dataset) -> int:
    """Bytes of pixels by the header, unpacked."""
    count = 1.0
    for keyword, missing in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1), ("SamplesPerPixel", 1)):
        count *= number(dataset, keyword, missing)
    if word(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        count *= 2 / 3
    return int(count * number(dataset, "BitsAllocated", 16) // 8)


@lru_cache(maxsize=256)
def _known(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is not a DICOM keyword")
    return Tag(tag), dictionary_VR(tag)


def _value(dataset: Dataset, keyword: str):
    """The bytes of a text, a tuple of numbers, or pydicom's own value; None where there is nothing."""
    tag, usual = _known(keyword)
    element = dataset.get_item(tag)
    if element is None:
        return None
    if not isinstance(element, RawDataElement) or element.value is None:
        return dataset.get(keyword)
    vr = element.VR or usual
    if vr in TEXT_VRS:
        return element.value.strip(b" \0")
    if vr in BINARY_VRS:
        code, order = BINARY_VRS[vr], "<" if element.is_little_endian else ">"
        count = len(element.value) // struct.calcsize(code)
        return struct.unpack(f"{order}{count}{code}", element.value[: count * struct.calcsize(code)])
    return dataset.get(keyword)


def _as_list(value) -> list:
    """A value as a list: a lone number or word counts as one, nothing as none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]


def _inflated(stream: _Bounded, pixels: bool) -> tuple[io.BytesIO, int]:
    """A deflated file as if it had not been, up to the end of its pixels or before them, and its size in bytes up to there.

    The header may take 64 MiB and the pixels what it claims, so that a small file never fills the memory.

    Raises:
        ScanError: More is there than that.
    """
    head = stream.peek(144)[:144]
    if head[132:136] != b"\x02\0\0\0":
        raise ScanError("a deflated file without the length of its file header (0002,0000): convert the file first")
    stream.seek(0)
    content = bytearray(stream.read(144 + int.from_bytes(head[140:144], "little")).replace(*DEFLATED_TO_PLAIN))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    header, limit = None, len(content)
    while header is None or header.pixels_at is None:
        limit *= 2
        ended = _inflate_up_to(stream, unpacker, content, limit)
        header = read_elements(bytes(content), CLAIM_TAGS, whole=ended)
        if ended:
            break
        if len(content) > SMALL_BYTES:
            raise ScanError(
                f"more than {SMALL_BYTES} bytes stand before the pixels of this deflated file: expected a header (a decompression "
                "bomb?); leave it out"
            )
    if header is None or header.pixels_at is None:
        return io.BytesIO(content), len(content)  # all of it, and not much
    end = header.pixels_at + header.pixels_length
    claimed = claimed_bytes(header.dataset)
    if header.pixels_length > claimed + 1 or end > LARGEST_INFLATED_BYTES:
        raise ScanError(
            f"the pixels of this deflated file unpack to {header.pixels_length} bytes, its header claims {claimed}: expected the "
            f"same, and at most {LARGEST_INFLATED_BYTES} in all; leave it out"
        )
    if pixels:
        _inflate_up_to(stream, unpacker, content, end)
        del content[end:]
    return io.BytesIO(content), end if not pixels else len(content)


def _inflate_up_to(stream: _Bounded, unpacker: Any, content: bytearray, limit: int) -> bool:
    """Add to the content until it has `limit` bytes or the file ends; True where it ended."""
    while len(content) < limit and not unpacker.eof:
        packed = unpacker.unconsumed_tail or stream.read(CHUNK)
        if not packed:
            return True
        content += unpacker.decompress(packed, min(CHUNK, limit - len(content)))
    return unpacker.eof
