"""Slices make one volume only where their numbers mean the same: patient, study, units, rescaling."""

from __future__ import annotations

import pandas as pd
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLossless

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from tests.scans.scan_makers import write_series


def index_rejects(tmp_path) -> pd.DataFrame:
    """The manifest of a folder of which nothing can be used."""
    with pytest.raises(MedsslError):
        index([tmp_path / "d"], tmp_path / "m")
    return read_table(tmp_path / "m" / "manifest.parquet")


def without_rescale(dataset, z):
    if z in (2, 5):
        del dataset.RescaleIntercept
        del dataset.RescaleSlope


def test_slices_that_do_not_say_how_they_are_rescaled_reject_their_series(tmp_path):
    """They were taken as stored, 1024 HU away from their neighbours, without a word."""
    write_series(tmp_path / "d", edit=without_rescale, RescaleIntercept=-1024, RescaleSlope=1)
    manifest = index_rejects(tmp_path)
    assert "2 of 8 slices have neither RescaleSlope nor RescaleIntercept" in manifest.reason.iloc[0]


def test_slices_without_a_patient_reject_their_series(tmp_path):
    def edit(dataset, z):
        if z == 3:
            dataset.PatientID = ""

    write_series(tmp_path / "d", edit=edit, PatientID="17")
    manifest = index_rejects(tmp_path)
    assert len(manifest) == 1
    assert "1 of 8 slices have no PatientID (0010,0020)" in manifest.reason.iloc[0]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("StudyInstanceUID", ("1.2", "1.3")),
        ("FrameOfReferenceUID", ("1.2", "1.3")),
        ("Modality", ("CT", "PT")),
        ("Units", ("BQML", "CNTS")),
        ("PatientID", ("1", "2")),
    ],
)
def test_slices_that_differ_in_meaning_are_not_one_volume(tmp_path, field, values):
    for number, value in enumerate(values):

        def edit(dataset, z, number=number):
            dataset.InstanceNumber = 100 * number + z
            dataset.save_as(tmp_path / "d" / f"{number}{z}.dcm", enforce_file_format=True)
            return False

        write_series(tmp_path / "d", edit=edit, series="1.2.3", **{field: value})
    assert len(index([tmp_path / "d"], tmp_path / "m")) == 2


@pytest.mark.parametrize("slices", [range(4), (0,)], ids=["half of them", "the last of them"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("StudyInstanceUID", "1.2.9"),
        ("SeriesInstanceUID", "1.2.8"),
        ("FrameOfReferenceUID", "1.2.7"),
        ("Units", "HU"),
        ("Modality", "CT"),
    ],
)
def test_slices_that_lack_what_the_others_say_are_no_volume_of_their_own(tmp_path, field, value, slices):
    """Half a series was a volume, and so was the other half; a slice at its end was an image."""

    def edit(dataset, z):
        setattr(dataset, field, value)
        if z in slices:
            delattr(dataset, field)

    write_series(tmp_path / "d", edit=edit)
    manifest = index_rejects(tmp_path)
    assert len(manifest) == 1
    assert f"{len(slices)} of 8 slices have no {field} (" in manifest.reason.iloc[0]


def test_a_series_without_a_uid_beside_one_that_has_it_is_another_when_it_holds_the_same_places(tmp_path):
    write_series(tmp_path / "d", series="1.2.3")

    def edit(dataset, z):
        del dataset.SeriesInstanceUID
        dataset.save_as(tmp_path / "d" / f"other{z}.dcm", enforce_file_format=True)
        return False

    write_series(tmp_path / "d", edit=edit)
    assert [list(shape) for shape in index([tmp_path / "d"], tmp_path / "m")["shape"]] == [[12, 10, 8]] * 2


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [
        ("PixelRepresentation", 0, None),  # numbers below 0 came out 65,536 too high
        ("PixelRepresentation", None, None),
        ("PhotometricInterpretation", "MONOCHROME1", None),  # inverted among slices that were not
        ("RescaleType", "US", "HU"),
        ("RescaleIntercept", None, -1024),  # with a slope: 1024 HU away from the others
        ("RescaleSlope", None, 2),
    ],
)
def test_slices_whose_numbers_do_not_mean_the_same_reject_their_series(tmp_path, field, value, other):
    def edit(dataset, z):
        if z in (2, 5):
            delattr(dataset, field) if value is None else setattr(dataset, field, value)

    write_series(tmp_path / "d", edit=edit, **({} if other is None else {field: other}))
    reason = index_rejects(tmp_path).reason.iloc[0]
    assert field in reason
    assert "do not mean the same" in reason


def test_slices_of_eight_bits_among_sixteen_reject_their_series(tmp_path):
    """They were taken as they are, though a scan of eight bits was stretched to its own range."""

    def edit(dataset, z):
        if z == 3:
            dataset.update({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7})
            dataset.PixelData = bytes(120)

    write_series(tmp_path / "d", edit=edit)
    assert "BitsAllocated (0028,0100) is 16 and 8 within the series" in index_rejects(tmp_path).reason.iloc[0]


def test_numbers_that_may_or_may_not_be_negative_are_rejected(tmp_path):
    write_series(tmp_path / "d", edit=lambda dataset, z: delattr(dataset, "PixelRepresentation"))
    assert "PixelRepresentation (0028,0103) is missing" in index_rejects(tmp_path).reason.iloc[0]


@pytest.mark.parametrize("slices", [range(4), (2, 5)], ids=["half of them", "two of them"])
def test_an_echo_time_in_some_slices_does_not_divide_the_volume(tmp_path, slices):
    def edit(dataset, z):
        if z in slices:
            del dataset.EchoTime

    write_series(tmp_path / "d", edit=edit, Modality="MR", EchoTime="3.5")
    manifest = index_rejects(tmp_path)
    assert len(manifest) == 1
    assert "that share no place" in manifest.reason.iloc[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("Rows", 0), ("NumberOfFrames", 100_000_000), ("NumberOfFrames", -5), ("SamplesPerPixel", 0)],
)
def test_sizes_and_frames_that_cannot_be_are_rejected_before_anything_is_made_of_them(tmp_path, field, value):
    """100 million frames of no pixels took over 6 GB."""

    def edit(dataset, z):
        setattr(dataset, field, value)
        if value == 100_000_000:
            dataset.Rows = 0

    write_series(tmp_path / "d", edit=edit)
    assert "expected" in index_rejects(tmp_path).reason.iloc[0]


def test_frames_packed_to_nothing_are_limited(tmp_path):
    def edit(dataset, z):
        dataset.update({"Rows": 1, "Columns": 1, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7})
        dataset.NumberOfFrames = 60_000_000
        dataset.file_meta.TransferSyntaxUID = JPEGLossless
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        dataset["PixelData"].VR = "OB"

    write_series(tmp_path / "d", edit=edit)
    assert "NumberOfFrames (0028,0008) is 6e+07: expected at most 65536" in index_rejects(tmp_path).reason.iloc[0]


def test_a_high_bit_that_is_not_the_last_stored_one_is_rejected(tmp_path):
    write_series(tmp_path / "d", BitsStored=12, HighBit=15)
    assert "HighBit (0028,0102) is 15 where 12 bits are stored: expected 11" in index_rejects(tmp_path).reason.iloc[0]
