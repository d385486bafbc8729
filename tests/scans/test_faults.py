"""Each fault beside a clean series: the clean one is used, the faulty one has exactly the outcome asked for."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.cli.main import main
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table, source_files
from medssl.preprocessing.cache import Cache
from medssl.scans.modality import AIR_HU
from medssl.scans.read import read_scan
from tests.scans import faults
from tests.scans.scan_makers import write_series

SECRET = "MILLER"
REJECTED = {  # fault -> what the reason must say
    "missing": "missing slice: 1 of 20, the first between 15.00 and 20.00 mm where the step is 2.500 mm",
    "duplicate": "duplicate position: 20 slices lie at 19 places, two of them at 17.50 mm, and their pixels differ",
    "uneven": "uneven spacing: steps run from 2.500 to 5.000 mm",
    "tilt": "gantry tilt of 15.0 degrees?); index with --correct tilt",
    "no position": "1 of 20 slices have no position (ImagePositionPatient, 0020,0032)",
    "spacing 0": "PixelSpacing (0028,0030) is 0, 0.9: expected positive mm",
    "spacing NaN": "PixelSpacing (0028,0030) is nan, 0.9: expected finite numbers",
    "truncated": "pixel data (7FE0,0010) is truncated",
    "no slope": "1 of 20 slices have neither RescaleSlope nor RescaleIntercept",
    "no intercept": "10 of 20 slices have no RescaleIntercept",
    "half a series": "10 of 20 slices have no SeriesInstanceUID (0020,000E)",
    "half a study": "10 of 20 slices have no StudyInstanceUID (0020,000D)",
    "half a modality": "10 of 20 slices have no Modality (0008,0060)",
    "two signs": "PixelRepresentation (0028,0103) is 0 and 1 within the series",
    "two inversions": "PhotometricInterpretation (0028,0004) is MONOCHROME1 and MONOCHROME2 within the series",
    "no patient": "1 of 20 slices have no PatientID (0010,0020)",
    "high bit": "HighBit (0028,0102) is 15 where 12 bits are stored: expected 11",
    "united imaging": "a grid of United Imaging, 25 slices as tiles of one picture (0065,1050), is not read",
}
LEFT_OUT = {  # fault -> why a part of it is left out, while the rest is the clean volume
    "localizer": "1 localizer slices (ImageType, 0008,0008): left out",
    "stray": "1 of 21 slices have another orientation (90.0 degrees)",
}
SAME = [
    "copy",
    "monochrome1",
    "slopes",
    "enhanced",
    "reversed",
    "overlong",
    "deflated",
]  # the clean voxels, nothing else
FRAMES = ["4D", "enhanced 4D"]
TWICE = ["two series", "two patients", "two studies", "two frames of reference"]
APART = ["two modalities", "two units"]  # which no cache holds together
SYNTAXES = ["big endian", "rle", "jpeg 2000"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(manifest of the cache with a column `fault`, where each scan is read from): all faults beside a clean series."""
    root = tmp_path_factory.mktemp("faults")
    write_series(root / "d" / "clean", faults.clean(), series="1.2.3", step=faults.STEP_MM, PatientName=SECRET)
    for fault in set(faults.FAULTS) - set(APART):
        faults.make(fault, root / "d" / SECRET / fault)
    assert main(["index", str(root / "d"), "--out", str(root / "m")]) == 3
    assert main(["prepare", str(root / "m"), "--out", str(root / "c"), "--spacing-mm", "0.9", "0.7", "2.5"]) == 3
    table = read_table(root / "c" / "manifest.parquet")
    sources = read_table(root / "m" / "sources.parquet").set_index("scan")
    table["fault"] = [source_files(root / "m", scan)[0].split("/")[-2] for scan in table.scan]
    return table, sources, root


def rows(archive, fault, status):
    table = archive[0]
    return table[(table.fault == fault) & (table.status == status)]


def voxels(archive, scan):
    row = archive[1].loc[scan]
    return read_scan(list(row["files"]), "dicom", scan, "p", member=row["member"])


def test_every_fault_has_an_outcome():
    assert {*REJECTED, *LEFT_OUT, *SAME, *FRAMES, *TWICE, *APART, *SYNTAXES} == set(faults.FAULTS)


def test_the_clean_series_is_used(archive):
    (scan,) = rows(archive, "clean", "ok").scan
    assert (voxels(archive, scan).array[0] == faults.clean()).all()
    assert scan in set(Cache(archive[2] / "c").manifest.scan)


@pytest.mark.parametrize("fault", REJECTED)
def test_it_is_rejected_and_the_reason_names_tag_and_number(archive, fault):
    assert len(rows(archive, fault, "ok")) == 0
    (reason,) = rows(archive, fault, "rejected").reason
    assert REJECTED[fault] in reason
    assert SECRET not in reason


@pytest.mark.parametrize("fault", LEFT_OUT)
def test_a_stranger_is_left_out_and_reported(archive, fault):
    (scan,) = rows(archive, fault, "ok").scan
    (reason,) = rows(archive, fault, "rejected").reason
    assert LEFT_OUT[fault] in reason
    assert (voxels(archive, scan).array[0] == faults.clean()).all()


@pytest.mark.parametrize("fault", SAME)
def test_it_is_the_clean_volume_all_the_same(archive, fault):
    assert len(rows(archive, fault, "rejected")) == 0
    (scan,) = rows(archive, fault, "ok").scan
    found = voxels(archive, scan)
    (clean,) = rows(archive, "clean", "ok").scan
    assert np.abs(found.array[0] - faults.clean()).max() < 1e-3
    assert np.allclose(found.affine, voxels(archive, clean).affine, atol=1e-6)
    notes = rows(archive, fault, "ok").notes.iloc[0] or ""
    assert ("1 slices dropped: copies equal to the pixel" in notes) == (fault == "copy")
    assert ("MONOCHROME1 inverted" in notes) == (fault == "monochrome1")


@pytest.mark.parametrize("fault", FRAMES)
def test_times_are_frames_never_slices(archive, fault):
    table = read_table(archive[2] / "m" / "manifest.parquet").set_index("scan")
    scan = archive[0][archive[0].fault == fault].scan.iloc[0]
    assert table.frames[scan] == table.channels[scan] == 3
    found = voxels(archive, scan)
    assert found.frames == 3
    assert all((frame == faults.clean() + time).all() for time, frame in enumerate(found.array))


@pytest.mark.parametrize("fault", TWICE)
def test_two_in_a_folder_are_two(archive, fault):
    found = sorted(
        (voxels(archive, scan).array[0] - faults.clean() for scan in rows(archive, fault, "ok").scan), key=np.max
    )
    assert [np.unique(part).tolist() for part in found] == [[0], [1]]


@pytest.mark.parametrize("fault", APART)
def test_two_modalities_and_two_units_are_two(tmp_path, fault):
    faults.make(fault, tmp_path / "d")
    manifest = index([tmp_path / "d"], tmp_path / "m")
    files = [source_files(tmp_path / "m", scan) for scan in manifest.scan]
    found = [read_scan(list(part), "dicom", "scan", "patient").array[0] - faults.clean() for part in files]
    assert sorted(np.unique(part).tolist() for part in found) == [[0], [1]]


@pytest.mark.parametrize("fault", SYNTAXES)
def test_a_syntax_changes_nothing(archive, fault):
    (scan,) = rows(archive, fault, "ok").scan
    expected = np.kron(faults.clean()[:, :, :3], np.ones((8, 8, 1), np.int16))
    assert (voxels(archive, scan).array[0] == expected).all()


FAILING = {
    "gantrytilting/001": "gantry tilt of 14.0 degrees",
    "notavolume/001": "all 4 slices have one position",
    "sliceincrement/001": "uneven spacing",
    "sliceincrement/002": "gantry tilt",
    "sliceorientation/001": "mixed orientation",
    # slicecount/001 is no failure: dicom2nifti wants more than two slices, two parallel ones are a volume all the same
    "slicecount/001": None,
}


def test_the_failing_series_of_dicom2nifti_are_rejected_beside_a_clean_one(shared, tmp_path):
    root = shared("dicom_series") / "failing"
    write_series(tmp_path / "clean" / "001", series="1.2.3")
    manifest = index([tmp_path / "clean", root], tmp_path / "m")
    reasons = {}
    for scan, status, reason in zip(manifest.scan, manifest.status, manifest.reason):
        file = source_files(tmp_path / "m", scan)[0]
        if file.endswith(".dcm"):
            reasons["/".join(file.split("/")[-3:-1])] = (status, reason)
    assert reasons.pop("clean/001") == ("ok", None)
    assert set(reasons) == set(FAILING)
    for name, words in FAILING.items():
        status, reason = reasons[name]
        assert (status, reason) == ("ok", None) if words is None else words in reason


CORRECTED = {
    "tilt": ("tilt", "gantry tilt of 15.0 degrees corrected"),
    "uneven": ("spacing", "uneven spacing corrected: steps of 2.500 to 5.000 mm resampled"),
    "missing": ("spacing", "1 gaps filled in from their neighbours"),
}


def test_what_is_corrected_on_request_is_on_record_and_in_the_cache(tmp_path):
    write_series(tmp_path / "d" / "clean", faults.clean(), series="1.2.3", step=faults.STEP_MM)
    for fault in CORRECTED:
        faults.make(fault, tmp_path / "d" / fault)
    assert main(["index", str(tmp_path / "d"), "--out", str(tmp_path / "m"), "--correct", "tilt,spacing"]) == 0
    manifest = read_table(tmp_path / "m" / "manifest.parquet")
    assert (
        main(["prepare", str(tmp_path / "m"), "--out", str(tmp_path / "c"), "--spacing-mm", "0.9", "0.7", "2.5"]) == 0
    )
    cache = Cache(tmp_path / "c")
    for row in manifest.itertuples():
        fault = source_files(tmp_path / "m", row.scan)[0].split("/")[-2]
        name, words = CORRECTED.get(fault, (None, ""))
        assert row.corrected == name
        assert words in (row.notes or "")
        if fault == "missing":
            gap = cache.read(row.scan)[0, ::-1, ::-1]  # RAS+ turns both axes of the plane
            volume = faults.clean().clip(-1024).astype(float)
            volume[:, :, 5] = np.rint((volume[:, :, 4] + volume[:, :, 6]) / 2)
            assert (gap == volume).all()
        if fault == "tilt":  # the grid has grown: beside the first and the last slice nothing was measured
            edges = cache.read(row.scan)[0][:, [0, -1]][..., [0, -1]]
            assert 2 <= (edges == AIR_HU).all(axis=0).sum() < 4


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)], ids=["axial", "sagittal"])
def test_points_of_a_tilted_series_come_back_within_a_tenth_of_a_millimetre(tmp_path, orientation):
    """Gaussian blobs at known places of the patient are imaged on tilted planes, corrected, and found again."""
    points = np.array([[12.3, 17.1, 21.7], [25.4, 19.8, 30.2], [18.0, 24.3, 14.4]])
    row, column = np.array(orientation, float).reshape(2, 3)
    normal = np.cross(row, column)
    centres = points[:, :1] * row + points[:, 1:2] * column + points[:, 2:] * normal
    columns, rows = np.meshgrid(np.arange(48) * 0.8, np.arange(50) * 0.7)
    for tilt in (0.0, np.tan(np.radians(15))):
        folder = tmp_path / f"{tilt:.2f}"
        depths = np.arange(30) * 1.5
        volume = np.zeros((48, 50, 30))
        for z, depth in enumerate(depths):
            plane = columns[..., None] * row + (rows[..., None] + tilt * depth) * column + depth * normal
            for centre in centres:
                volume[:, :, z] += 1000 * np.exp(-np.sum((plane - centre) ** 2, axis=-1) / (2 * 1.5**2)).T

        def shift(dataset, z, tilt=tilt, depths=depths):
            place = depths[z] * normal + tilt * depths[z] * column
            dataset.ImagePositionPatient = [round(float(x), 6) for x in place]

        write_series(folder, volume.astype(np.int16), orientation, 1.5, (0, 0, 0), shift, PixelSpacing=[0.7, 0.8])
        scan = read_scan(sorted(map(str, folder.glob("*"))), "dicom", "id", "p", correct="tilt")
        assert bool(scan.notes) == bool(tilt)
        for centre in centres:
            assert np.linalg.norm(found_near(scan, centre * [-1, -1, 1]) - centre * [-1, -1, 1]) < 0.1


def found_near(scan, world):
    """The centre of mass, in mm, of the 6 mm around a place."""
    grid = np.stack(np.meshgrid(*map(np.arange, scan.array.shape[1:]), indexing="ij"), axis=-1).reshape(-1, 3)
    places = grid @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    near = np.linalg.norm(places - world, axis=1) < 6
    weights = np.maximum(scan.array[0].reshape(-1)[near].astype(float), 0)
    return weights @ places[near] / weights.sum()
