"""The usual DICOM header, read element by element from memory: a few fields take a quarter of the time pydicom needs.

What is not usual (big endian, deflated, no preamble, an unknown VR, a sequence among the wanted fields, a header longer
than the bytes given, ...) is left to pydicom: `read_elements` returns None.

    header = read_elements(data, frozenset([0x00280010, 0x00280011]))
    header.dataset.Rows, header.pixels_at
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR
from pydicom.values import convert_string

PIXELS, CHARACTERS, SYNTAX = 0x7FE00010, 0x00080005, 0x00020010
OTHER_PIXELS = {0x7FE00008, 0x7FE00009}
FIRST_TAG = 0x00080000  # what comes before (commands, directories) is no image's
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, (0xFFFE, 0xE00D), 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
ENCODING = "iso8859"  # pydicom's where a header names none
SHORT = {vr.value.encode(): vr.value for vr in VR if vr.value not in EXPLICIT_VR_LENGTH_32}
LONG = {vr.value.encode(): vr.value for vr in VR if vr.value in EXPLICIT_VR_LENGTH_32}
_explicit, _implicit, _length = Struct("<HH2sH").unpack_from, Struct("<HHL").unpack_from, Struct("<L").unpack_from


class FastHeader(NamedTuple):
    """What was read.

    Attributes:
        dataset: The wanted elements as pydicom has them, raw.
        pixels_at: Where the value of PixelData begins, in bytes from the start of the file; None where there is none.
        pixels_length: The length of that value in bytes; UNDEFINED where it is packed, 0 where there is none.
    """

    dataset: Dataset
    pixels_at: int | None
    pixels_length: int


def read_elements(data: bytes, wanted: frozenset[int], whole: bool = False) -> FastHeader | None:
    """The wanted top-level elements of a file that begins with `data`, up to its pixels.

    Args:
        data: The first bytes of the file.
        wanted: The tags to read.
        whole: The file ends with `data`.

    Returns:
        None for a file that is left to pydicom.
    """
    try:
        syntax, at = _file_header(data)
        return _elements(data, at, syntax, wanted, whole)
    except (_Unusual, IndexError, StructError, LookupError, ValueError):  # the last four: cut short, or bytes at random
        return None


class _Unusual(Exception):
    """Something that is left to pydicom."""


def _file_header(data: bytes) -> tuple[UID, int]:
    """The transfer syntax, and where the dataset begins."""
    if data[128:132] != b"DICM":
        raise _Unusual
    at, syntax = 132, None
    while data[at : at + 2] == b"\2\0":
        tag, _, start, length = _next(data, at, explicit=True)
        at = start + length
        if tag == SYNTAX:
            syntax = _known_syntax(data[start:at])
    if syntax is None:
        raise _Unusual
    return syntax, at


@lru_cache(64)
def _known_syntax(value: bytes) -> UID | None:
    """None for a syntax that is not one of the standard's, or written in another way."""
    syntax = UID(value.decode("ascii").strip(" \0"))
    unusual = syntax.is_private or not syntax.is_transfer_syntax
    return None if unusual or syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian) else syntax


def _elements(data: bytes, at: int, syntax: UID, wanted: frozenset[int], whole: bool) -> FastHeader:
    explicit = syntax != ImplicitVRLittleEndian
    if explicit != (0x40 < data[at + 4] < 0x5B and 0x40 < data[at + 5] < 0x5B):
        raise _Unusual  # it is not written as it says
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    encoding: str | list[str] = ENCODING
    start, length = None, 0
    while not (whole and at == len(data)):
        tag, vr, start, length = _next(data, at, explicit)
        if tag == PIXELS:
            break
        if tag < FIRST_TAG or tag in OTHER_PIXELS:
            raise _Unusual
        if length == UNDEFINED:
            if tag in wanted or vr != "SQ":
                raise _Unusual
            at = _after_sequence(data, start)
            continue
        at = start + length
        if at > len(data):
            raise _Unusual
        if tag in wanted or tag == CHARACTERS:
            value = data[start:at] if length else cast("bytes | None", empty_value_for_VR(vr, raw=True))
            elements[BaseTag(tag)] = RawDataElement(BaseTag(tag), vr, length, value, start, not explicit, True)
            encoding = _encoding(value or b"") if tag == CHARACTERS else encoding
    else:
        start, length = None, 0
    dataset = Dataset(elements)
    dataset.set_original_encoding(not explicit, True, encoding)
    dataset.file_meta = _file_meta(syntax)
    return FastHeader(dataset, start, length)


def _next(data: bytes, at: int, explicit: bool) -> tuple[int, str | None, int, int]:
    """(tag, VR, where its value begins, its length) of the element that begins at a byte."""
    if not explicit:
        group, element, length = _implicit(data, at)
        return group << 16 | element, None, at + 8, length
    group, element, code, length = _explicit(data, at)
    vr = SHORT.get(code)
    if vr is not None:
        return group << 16 | element, vr, at + 8, length
    return group << 16 | element, LONG[code], at + 12, _length(data, at + 8)[0]


def _after_sequence(data: bytes, at: int) -> int:
    """Behind an explicit sequence of undefined length whose first item begins at a byte."""
    while True:
        group, element, length = _implicit(data, at)
        tag, at = group << 16 | element, at + 8
        if tag == SEQUENCE_END:
            return at
        if tag != ITEM:
            raise _Unusual
        at = at + length if length != UNDEFINED else _after_item(data, at)


def _after_item(data: bytes, at: int) -> int:
    while _implicit(data, at)[:2] != ITEM_END:
        _, vr, at, length = _next(data, at, explicit=True)
        if length == UNDEFINED and vr != "SQ":
            raise _Unusual
        at = at + length if length != UNDEFINED else _after_sequence(data, at)
    return at + 8


@lru_cache(64)
def _encoding(value: bytes) -> list[str]:
    return list(convert_encodings(convert_string(value, True)))


@lru_cache(64)
def _file_meta(syntax: UID) -> FileMetaDataset:
    about = FileMetaDataset()
    about.TransferSyntaxUID = syntax
    return about
