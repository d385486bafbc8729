"""The embedded cohort: same bytes from the same seed, true geometry, true densities, true words.

pytest tests/datasets/test_phantom.py
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import KINDS, LABELS, mask_path, phantom
from medssl.preprocessing.cache import Cache, prepare

SMALL = {"shape": (32, 32, 24), "spacing_mm": (10.0, 10.0, 12.0)}
CODE = {name: value for value, name in LABELS.items()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients at the default size: every kind of lesion once, two patients with two scans."""
    return phantom(tmp_path_factory.mktemp("cohort"), patients=8)


@pytest.fixture(scope="module")
def table(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(cohort / "labels.csv", keep_default_na=False)


def slices_of(folder: Path) -> list[pydicom.Dataset]:
    """The series from feet to head."""
    return sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU (columns, rows, slices) and RAS+ affine, by the DICOM standard's own formula (C.7.6.2.1.1)."""
    slices = slices_of(folder)
    first, last = slices[0], slices[-1]
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    origin, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    affine = np.eye(4)
    affine[:3, 0] = across * first.PixelSpacing[1]
    affine[:3, 1] = down * first.PixelSpacing[0]
    affine[:3, 2] = (end - origin) / (len(slices) - 1)
    affine[:3, 3] = origin
    stack = np.stack([one.pixel_array.T.astype(float) for one in slices], axis=2)
    return stack * first.RescaleSlope + first.RescaleIntercept, np.diag([-1.0, -1, 1, 1]) @ affine


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("[!.]*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.long
def test_same_seed_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    one = digests(phantom(tmp_path / "one", patients=3, seed=5, **SMALL))
    two = digests(phantom(tmp_path / "two", patients=3, seed=5, jobs=2, **SMALL))
    other = digests(phantom(tmp_path / "other", patients=3, seed=6, **SMALL))
    assert one == two
    assert all(other[name] != digest for name, digest in one.items() if name in other)


def test_longer_cohort_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short = digests(phantom(tmp_path / "short", patients=2, **SMALL))
    long = digests(phantom(tmp_path / "long", patients=3, **SMALL))
    scans = {name: digest for name, digest in short.items() if name.endswith((".dcm", ".gz"))}
    assert scans
    assert scans.items() <= long.items()


def test_table_lists_the_series_on_disk(cohort: Path, table: pd.DataFrame) -> None:
    assert list(table) == ["file", "patient", "lesion", "kind", "scanner"]
    folders = {path.parent.relative_to(cohort).as_posix() for path in cohort.glob("dicom/*/*/*.dcm")}
    assert set(table.file) == folders
    assert set(table.file) == set(pd.read_csv(cohort / "reports.csv").file)
    assert {mask_path(cohort, file) for file in table.file} == set((cohort / "masks").iterdir())
    assert set(table.kind) == {"none", *KINDS}
    assert set(table.scanner) <= {"A", "B", "C"}


def test_some_patients_have_two_scans_with_one_truth(cohort: Path, table: pd.DataFrame) -> None:
    visits = table.groupby("patient").size()
    assert (visits == 2).sum() == 2
    assert visits.max() == 2
    assert (table.groupby("patient")[["lesion", "kind"]].nunique() == 1).all(axis=None)
    for patient in visits[visits == 2].index:
        first, second = (read(cohort / file)[0] for file in table.file[table.patient == patient])
        assert 0.8 < np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.999  # the same body, another scan


def test_series_are_valid_and_evenly_spaced(cohort: Path, table: pd.DataFrame) -> None:
    seen: set[str] = set()
    upward = set()
    for row in table.itertuples():
        slices = slices_of(cohort / row.file)
        heights = np.array([one.ImagePositionPatient[2] for one in slices], float)
        assert np.allclose(np.diff(heights), 6.0)
        upward.add(slices[0].InstanceNumber == 1)
        for one in slices:
            assert one.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
            assert one.SOPClassUID == pydicom.uid.CTImageStorage
            assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
            assert one.SOPInstanceUID.is_valid
            seen.add(one.SOPInstanceUID)
        assert len({one.SeriesInstanceUID for one in slices}) == 1
        assert slices[0].PatientID == row.patient
        assert "PHANTOM" in str(slices[0].PatientName)
        assert slices[0].Manufacturer == row.scanner
    assert len(seen) == 48 * len(table)
    assert upward == {True, False}


def test_mask_lies_on_the_grid_of_the_series(cohort: Path, table: pd.DataFrame) -> None:
    for file in table.file:
        hu, affine = read(cohort / file)
        mask = nibabel.load(mask_path(cohort, file))
        assert mask.shape == hu.shape
        assert np.allclose(mask.affine, affine, atol=1e-3)
        assert nibabel.aff2axcodes(mask.affine) == ("L", "P", "S")


def test_anatomy_is_on_the_right_side(cohort: Path, table: pd.DataFrame) -> None:
    right_share = []
    for file in table.file:
        mask = nibabel.load(mask_path(cohort, file))
        labels = np.asarray(mask.dataobj)
        centre = {
            name: nibabel.affines.apply_affine(mask.affine, np.argwhere(labels == code).mean(0))
            for name, code in CODE.items()
            if name != "lesion"
        }
        assert centre["liver"][0] > centre["spine"][0] + 20  # x grows to the patient's right
        assert centre["vessels"][1] > centre["spine"][1] + 10  # y to the front
        assert centre["lungs"][2] > centre["liver"][2] + 30  # z to the head
        x = nibabel.affines.apply_affine(mask.affine, np.argwhere(labels == CODE["lungs"]))[:, 0]
        right_share.append((x > centre["spine"][0]).mean())
    assert np.mean(right_share) > 0.53  # the left lung is the smaller one
    assert min(right_share) > 0.45


def test_structures_have_their_density(cohort: Path, table: pd.DataFrame) -> None:
    expected = {"lungs": (-950, -650), "liver": (15, 120), "spine": (150, 700), "vessels": (90, 220)}
    lesion = {"cyst": (-20, 45), "metastasis": (-10, 75), "nodule": (-350, 80), "sclerotic": (350, 1000)}
    for row in table.itertuples():
        hu, _ = read(cohort / row.file)
        labels = np.asarray(nibabel.load(mask_path(cohort, row.file)).dataobj)
        for name, (low, high) in expected.items():
            inside = hu[labels == CODE[name]]
            assert len(inside) > 500, name
            assert low < np.median(inside) < high, name
        if row.kind != "none":
            low, high = lesion[row.kind]
            assert low < np.median(hu[labels == CODE["lesion"]]) < high, row.kind


def test_lesion_flag_agrees_with_the_mask(cohort: Path, table: pd.DataFrame) -> None:
    for row in table.itertuples():
        found = (np.asarray(nibabel.load(mask_path(cohort, row.file)).dataobj) == CODE["lesion"]).sum()
        assert (found > 3) == (row.lesion == "yes") == (row.kind != "none")


def test_report_says_what_is_there(cohort: Path, table: pd.DataFrame) -> None:
    words = {"cyst": "cyst", "metastasis": "metasta", "nodule": "nodule", "sclerotic": "sclerotic"}
    reports = pd.read_csv(cohort / "reports.csv").set_index("file").report
    assert reports.nunique() == len(reports)
    for row in table.itertuples():
        text = reports[row.file].lower()
        assert {kind for kind, word in words.items() if word in text} == {row.kind} - {"none"}
        sizes = [int(size) for size in re.findall(r"(\d+) mm", text)]
        assert len(sizes) == (row.kind != "none")
        if row.kind == "cyst":  # always a single one: its diameter can be measured
            mask = nibabel.load(mask_path(cohort, row.file))
            lesion = np.argwhere(np.asarray(mask.dataobj) == CODE["lesion"])
            measured_mm = (len(lesion) * 150 * 6 / np.pi) ** (1 / 3)
            assert sizes[0] == pytest.approx(measured_mm, rel=0.15)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 24, 20)])
def test_every_lesion_is_in_view_on_coarse_grids(tmp_path: Path, seed: int, shape: tuple[int, int, int]) -> None:
    out = phantom(tmp_path, patients=8, seed=seed, shape=shape, spacing_mm=(12.0, 12.0, 14.0))
    for row in pd.read_csv(out / "labels.csv").itertuples():
        labels = np.asarray(nibabel.load(mask_path(out, row.file)).dataobj)
        assert (labels == CODE["lesion"]).any() == (row.lesion == "yes")
        assert {1, 2, 3, 4} <= set(np.unique(labels))


def test_second_call_keeps_a_finished_cohort_and_repairs_an_unfinished_one(tmp_path: Path) -> None:
    out = phantom(tmp_path / "cohort", patients=1, **SMALL)
    before, slice_file = digests(out), out / "dicom/P0001/P0001_S01/0001.dcm"
    written = slice_file.stat().st_mtime_ns
    phantom(out, patients=1, **SMALL)
    assert slice_file.stat().st_mtime_ns == written
    slice_file.unlink()
    (out / "labels.csv").unlink()  # as a killed run leaves it
    assert digests(phantom(out, patients=1, **SMALL)) == before


def test_two_cohorts_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    phantom(tmp_path, patients=1, **SMALL)
    with pytest.raises(MedsslError, match="holds other data"):
        phantom(tmp_path, patients=2, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"shape": (64, 64)}, "expected three numbers"),
        ({"shape": (64, 64, 4)}, "from 16 to 1024"),
        ({"shape": (2000, 64, 48)}, "from 16 to 1024"),
        ({"spacing_mm": (5.0, 0.0, 6.0)}, r"spacing_mm is \(5.0, 0.0, 6.0\)"),
        ({"spacing_mm": (5.0, 5.0, float("nan"))}, "spacing_mm"),
        ({"spacing_mm": (5.0, 5.0, 0.5)}, "slices or more"),
    ],
)
def test_wrong_settings_are_refused_in_words(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        phantom(tmp_path / "cohort", **wrong)
    assert not (tmp_path / "cohort").exists()


def test_one_slice_makes_images_of_liver_spine_and_vessels(tmp_path: Path) -> None:
    out = phantom(tmp_path / "c", patients=16, shape=(64, 64, 1), spacing_mm=(5.0, 5.0, 6.0), seed=3)
    seen = [set(np.unique(nibabel.load(path).get_fdata()).astype(int)) for path in sorted((out / "masks").iterdir())]
    assert seen == [{0, CODE["liver"], CODE["spine"], CODE["vessels"]}] * len(seen)
    manifest = index([f"phantom:{out}"], tmp_path / "m")
    assert [tuple(shape) for shape in manifest["shape"]] == [(64, 64)] * len(seen)
    assert (manifest["status"] == "ok").all()
    prepare(tmp_path / "m", tmp_path / "p")
    assert Cache(tmp_path / "p").dims == 2
