"""The quick reader of DICOM headers and plain pixels against pydicom: the same, or left to it."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from medssl.scans.dicom.fast_header import CHARACTERS, read_elements
from medssl.scans.dicom.slices import PIXEL_TAGS, _unpacked_pixels
from tests.scans.scan_makers import SHARED, slice_dataset

WANTED = frozenset(PIXEL_TAGS)


def written(path, syntax: UID = ExplicitVRLittleEndian, **fields):
    """A slice with private texts, names, and sequences in sequences, whose lengths are not told."""
    dataset = slice_dataset(np.arange(30, dtype=np.int16).reshape(5, 6), (1, 2, 3), **fields)
    dataset.SpecificCharacterSet, dataset.InstitutionName = "ISO_IR 192", "Krankenhaus Köln"
    dataset.add_new((0x0009, 0x1001), "UN", b"odd bytes")
    inner = Dataset()
    inner.CodeValue, inner.ConceptCodeSequence = "1", [Dataset()]
    inner.is_undefined_length_sequence_item = True
    dataset.ReferencedImageSequence = [inner, Dataset()]
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == JPEG2000Lossless:
        dataset.PixelData = pydicom.encaps.encapsulate([b"\1\2"])
        dataset["PixelData"].VR = "OB"
    pydicom.dcmwrite(
        path,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return path


def by_pydicom(path) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=PIXEL_TAGS)
    return described(dataset)


def by_us(data: bytes) -> dict | None:
    header = read_elements(data, WANTED, whole=True)
    if header is None:
        return None
    return described(header.dataset)


def described(dataset: Dataset) -> dict:
    """Every element as it lies in the file, the syntax, and the characters that texts are made of."""
    raw = {tag: dataset.get_item(tag) for tag in list(dataset.keys()) if tag != CHARACTERS}
    return raw | {"syntax": dataset.file_meta.TransferSyntaxUID, "characters": dataset.original_character_set}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless])
def test_elements_are_those_of_pydicom(tmp_path, syntax: UID) -> None:
    path = written(tmp_path / "a.dcm", syntax)
    found = by_us(path.read_bytes())
    if syntax == ImplicitVRLittleEndian:
        assert found is None  # without a VR nobody knows what has no length
    else:
        assert found == by_pydicom(path)
        assert read_elements(path.read_bytes(), WANTED).dataset.InstitutionName == "Krankenhaus Köln"


def test_pixels_begin_where_it_says(tmp_path) -> None:
    data = written(tmp_path / "a.dcm").read_bytes()
    header = read_elements(data, WANTED)
    assert np.frombuffer(data, "<i2", 30, header.pixels_at).tolist() == list(range(30))
    assert header.pixels_length == 60


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_unusual_is_left_to_pydicom(tmp_path, syntax: UID) -> None:
    data = written(tmp_path / "a.dcm", syntax).read_bytes()
    assert read_elements(data, WANTED) is None
    assert read_elements(data[132:], WANTED) is None


def test_damage_is_read_as_pydicom_reads_it_or_left_to_it(tmp_path) -> None:
    whole = written(tmp_path / "a.dcm").read_bytes()
    draw = random.Random(0)
    same = left = 0
    for _ in range(400):
        data = bytearray(whole)
        data[draw.randrange(132, len(data) - 60)] ^= 1 << draw.randrange(8)
        (tmp_path / "b.dcm").write_bytes(data[: draw.choice([None, draw.randrange(132, len(data))])])
        found = by_us((tmp_path / "b.dcm").read_bytes())
        left += found is None
        if found is not None:
            same += 1
            assert found == by_pydicom(tmp_path / "b.dcm")
    assert same > 100
    assert left > 100


def test_real_headers_are_those_of_pydicom(shared) -> None:
    paths = [
        path for name in ("dicom_series", "dicom_oracle") for path in sorted(shared(name).rglob("*")) if path.is_file()
    ]
    read = 0
    for path in paths:
        if not pydicom.misc.is_dicom(path):
            continue
        found = by_us(path.read_bytes())
        if found is not None:
            read += 1
            assert found == by_pydicom(path), path.relative_to(SHARED)
    assert read > 100


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [0, 1])
def test_plain_pixels_are_those_of_pydicom(bits: int, signed: int) -> None:
    allocated = 8 if bits == 8 else 16
    values = np.random.default_rng(0).integers(-(1 << bits - 1) if signed else 0, 1 << bits - signed, (5, 6))
    dataset = slice_dataset(
        np.zeros((5, 6), np.int16),
        (0, 0, 0),
        BitsAllocated=allocated,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=signed,
    )
    dataset.PixelData = values.astype(f"<{'iu'[1 - signed]}{allocated // 8}").tobytes()
    dataset["PixelData"].VR = "OW"
    assert _unpacked_pixels(dataset).tolist() == pixel_array(dataset).ravel().tolist()
    assert _unpacked_pixels(dataset).ravel().tolist() == values.ravel().tolist()


def test_pixels_with_an_overlay_in_their_unused_bits_are_left_to_pydicom() -> None:
    plane = np.full((5, 6), 100, np.int16)
    plane[2, 2] |= 1 << 13
    dataset = slice_dataset(plane, (0, 0, 0), BitsStored=12, HighBit=11, PixelRepresentation=0)
    assert _unpacked_pixels(dataset) is None
    assert (pixel_array(dataset) == 100).all()
