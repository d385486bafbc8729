"""Damaged DICOM files: a refusal in words, never a crash, a hang, or memory reserved for what a header claims."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from medssl.core.errors import ScanError
from medssl.datasets.audit import audit
from medssl.scans.dicom.header import as_plain
from medssl.scans.dicom.series import group_slices
from medssl.scans.dicom.slices import read_pixels, read_slices
from medssl.scans.dicom.volume import read_series, series_header
from medssl.scans.paths import readable_errors
from tests.scans import faults
from tests.scans.scan_makers import slice_dataset

MOST_BYTES = 1 << 30


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Whole files of several kinds: (folder, their bytes)."""
    root = tmp_path_factory.mktemp("seeds")
    plane = np.arange(4096, dtype=np.int16).reshape(64, 64)
    slice_dataset(plane, (0, 0, 0)).save_as(root / "plain.dcm", enforce_file_format=True)
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless)):
        packed = pydicom.dcmread(root / "plain.dcm")
        packed.compress(syntax, generate_instance_uid=False)
        packed.save_as(root / f"{name}.dcm")
    deflated = pydicom.dcmread(root / "plain.dcm")
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(root / "deflated.dcm", deflated)
    (faults.make("enhanced", root / "e") / "all.dcm").rename(root / "enhanced.dcm")
    return root, [path.read_bytes() for path in sorted(root.glob("*.dcm"))]


@settings(max_examples=100, deadline=20_000, suppress_health_check=list(HealthCheck))
@given(
    which=st.integers(0, 4),
    damage=st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 10_000),
)
@pytest.mark.long
def test_random_damage_is_read_or_refused(seeds, which, damage, cut):
    root, wholes = seeds
    data = bytearray(wholes[which])
    for place, value in damage:
        data[132 + place % (len(data) - 132)] = value
    file = root / "damaged.bin"
    file.write_bytes(bytes(data[:cut]))
    tracemalloc.start()
    with contextlib.suppress(ScanError):  # anything else fails the test
        for part in group_slices(read_slices(str(file))):
            series_header(part)
            read_series(part.files, "id", "p", part.member)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < MOST_BYTES


def claiming(root, name, **fields):
    dataset = pydicom.dcmread(root / f"{name}.dcm")
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.save_as(root / "claim.bin")
    return str(root / "claim.bin")


@pytest.mark.parametrize("name", ["plain", "rle", "j2k"])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(seeds, name):
    file = claiming(seeds[0], name, Rows=65535, Columns=65535, NumberOfFrames=50)
    tracemalloc.start()
    (item,) = read_slices(file)
    assert "claim" in (item.problem or "")
    with pytest.raises(ScanError, match="claims 429483622500 bytes|claims 429483622500 of pixels"):
        read_pixels(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 24


def test_an_element_longer_than_its_file_reserves_nothing(seeds):
    root, _ = seeds
    data = (root / "plain.dcm").read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8
    (root / "long.bin").write_bytes(data[:at] + b"\xf0\xff\xff\xff" + data[at + 4 :])
    tracemalloc.start()
    with contextlib.suppress(ScanError):
        read_pixels(str(root / "long.bin"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 24


class PanicException(BaseException):
    """What a decoder written in Rust raises, by its name; it is no Exception."""


def test_a_panic_of_a_decoder_is_an_error_of_its_file_and_an_interrupt_is_not():
    with pytest.raises(ScanError, match="PanicException"), readable_errors("the pixels"):
        raise PanicException
    with pytest.raises(KeyboardInterrupt), readable_errors("the pixels"):
        raise KeyboardInterrupt


def deflated(root, change) -> str:
    dataset = pydicom.dcmread(root / "plain.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    change(dataset)
    pydicom.dcmwrite(root / "bomb.bin", dataset)
    return str(root / "bomb.bin")


def private_zeros(group: int, count: int):
    def change(dataset) -> None:
        dataset.add_new((group, 0x0010), "LO", "CREATOR")
        dataset.add_new((group, 0x1001), "OB", bytes(count))

    return change


def more_pixels(dataset) -> None:
    dataset.PixelData = bytes(300 << 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (private_zeros(0x0011, 300 << 20), "stand before the pixels of this deflated file"),
        (more_pixels, "unpack to 314572800 bytes, its header claims 8192"),
    ],
)
def test_a_deflated_file_is_not_unpacked_beyond_its_claim(seeds, change, words):
    file = deflated(seeds[0], change)
    assert os.path.getsize(file) < 400_000
    for read in (read_slices, read_pixels):
        tracemalloc.start()
        with pytest.raises(ScanError, match=words):
            read(file)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 300 << 20
    assert audit([(Path(file), "dicom")]).field.tolist() == ["the whole header"]
    with pytest.raises(ScanError, match=words):
        as_plain(file)


def test_what_follows_the_pixels_of_a_deflated_file_is_not_unpacked(seeds):
    file = deflated(seeds[0], private_zeros(0x7FE1, 100 << 20))
    tracemalloc.start()
    pixels, _ = read_pixels(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pixels == read_pixels(str(seeds[0] / "plain.dcm"))[0]).all()
    assert most < 1 << 24
    assert (pydicom.dcmread(as_plain(file)).pixel_array == pixels[0, :, :, 0]).all()
    assert as_plain(str(seeds[0] / "plain.dcm")) == str(seeds[0] / "plain.dcm")
