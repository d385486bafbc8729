"""Slices make one volume only where their numbers mean the same: patient, study, units, rescaling."""

from __future__ import annotations

import pandas as pd
import pytest

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


def test_a_high_bit_that_is_not_the_last_stored_one_is_rejected(tmp_path):
    write_series(tmp_path / "d", BitsStored=12, HighBit=15)
    assert "HighBit (0028,0102) is 15 where 12 bits are stored: expected 11" in index_rejects(tmp_path).reason.iloc[0]
