"""Real DICOM: dicom2nifti's series against their ground truth, dcm_qa's against what dcm2niix makes of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medssl.scans import geometry
from medssl.scans.dicom.volume import read_series
from tests.scans.test_dicom import read, refusal, series

pytestmark = pytest.mark.long


def ground_truth(path):
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    if data.dtype.names:
        return np.stack([data[name] for name in data.dtype.names[:3]]), image.affine
    return np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0), image.affine


def check_equal(scan, expected, expected_affine, within_mm=1e-3):
    """Voxels equal and affines the same, after RAS+."""
    array, affine = geometry.to_ras(scan.array, scan.affine)
    expected, expected_affine = geometry.to_ras(expected, expected_affine)
    assert array.shape == expected.shape
    assert np.abs(array - expected.astype(float)).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(affine - expected_affine).max() < within_mm
    assert geometry.corners_apart_mm(affine, expected_affine, array.shape[1:]) < within_mm


TRUE = [
    "anatomical/001",
    "ge/anatomical/001",
    "generic/anatomical/001",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "generic/rgb/001",
    "hitachi/anatomical/001",
    "hyperfine/anatomical/001",
    "philips/anatomical/001",
    "philips_enhanced/anatomical/001",
    "siemens/anatomical/001",
    "siemens_multiframe/anatomical/001",
    # dicom2nifti wants more than two slices; but two parallel slices 1 mm apart are a volume like any other
    "failing/slicecount/001",
]
FRAMES = [
    "ge/dti/001",
    "ge/dti/002",
    "ge/fmri/001",
    "philips/fmri/001",
    "philips_enhanced/fmri/001",
    "siemens/dti_classic/001",
    "siemens/fmri_classic/001",
]
TRUE += FRAMES
BLANK = ["philips_enhanced/dti/001"]  # 3 of the 4 frames of its ground truth are zero throughout


@pytest.mark.parametrize("name", TRUE)
def test_real_series_equal_their_ground_truth(shared, name):
    root = shared("dicom_series")
    scan = read(root / name)
    check_equal(scan, *ground_truth(root / f"{name}_ground_truth.nii.gz"))
    assert scan.frames == (scan.array.shape[0] if name in FRAMES else 1)


REFUSED = {
    "failing/gantrytilting/001": "gantry tilt",
    "failing/notavolume/001": "not a volume",
    "failing/sliceincrement/001": "uneven spacing",
    "failing/sliceincrement/002": "gantry tilt",
    "failing/sliceorientation/001": "mixed orientation",
    "siemens/fmri/001": "mosaic without its CSA header",
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_series_that_are_no_volume_are_refused(shared, name):
    assert REFUSED[name] in refusal(shared("dicom_series") / name)


def test_every_real_series_is_accounted_for(shared, capsys):
    root = shared("dicom_series")
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    with_dicom = {name for name in folders if re.search("/00[12]", name)}
    lone = {"ge/anatomical/001_single_slice"}  # equal too, as an image
    assert with_dicom == {*TRUE, *BLANK, *REFUSED, *lone}
    references = {path.relative_to(root).as_posix()[: -len("_ground_truth.nii.gz")] for path in root.rglob("*.nii.gz")}
    counts = (len(TRUE) + len(lone), len(BLANK), len(REFUSED), len(references - with_dicom))
    with capsys.disabled():
        print(
            "\ndicom_series: {} equal to their reference, {} to the part of it that is not blank, {} refused; "
            "{} reference without a series".format(*counts)
        )
    assert counts == (25, 1, 6, 1)


def test_frames_equal_the_reference_where_it_is_not_blank_and_dcm2niix_throughout(shared, tmp_path):
    root = shared("dicom_series")
    scan = read(root / BLANK[0])
    expected, affine = ground_truth(root / f"{BLANK[0]}_ground_truth.nii.gz")
    assert [bool(frame.any()) for frame in expected] == [True, False, False, False]
    check_equal(replace(scan, array=scan.array[3:]), expected[:1], affine)
    check_same_frames(scan, converted(root / BLANK[0], tmp_path), order=(3, 0, 1, 2))  # dcm2niix puts b = 0 last


def converted(folder, out):
    """What the dcm2niix on this machine makes of a folder: {name: (frames, X, Y, Z), affine, its JSON}."""
    if not shutil.which("dcm2niix"):
        pytest.skip("dcm2niix is not installed")
    subprocess.run(["dcm2niix", "-o", out, "-f", "%s", folder], check=True, capture_output=True)
    (image,) = out.glob("*.nii")
    return reference(image)


def check_same_frames(scan, expected, order):
    array, affine = geometry.to_ras(scan.array, scan.affine)
    frames, expected_affine = geometry.to_ras(*expected)
    assert np.abs(affine - expected_affine).max() < 1e-3
    assert np.allclose(array, frames[list(order)], atol=1e-3)


def test_a_lone_slice_is_the_image_its_ground_truth_shows(shared):
    root = shared("dicom_series/ge/anatomical")
    scan = read(root / "001_single_slice")
    expected, affine = ground_truth(root / "001_single_slice_ground_truth.nii.gz")
    assert scan.dims == 2
    # a sagittal slice: on the screen columns run to the back, rows to the feet
    turned = np.moveaxis(geometry.to_ras(expected, affine)[0][0].squeeze(), 0, 1)[::-1, ::-1]
    assert (scan.array[0] == turned).all()


def reference(path):
    """(frames, X, Y, Z) and affine of what dcm2niix made; Philips' private scaling, which its JSON names, undone."""
    image = nib.load(path)
    about = json.loads(path.with_suffix(".json").read_text())
    data = np.asarray(image.dataobj, np.float64)
    if about.get("UsePhilipsFloatNotDisplayScaling"):
        stored = image.dataobj.get_unscaled()
        data = stored * about["PhilipsRescaleSlope"] + about["PhilipsRescaleIntercept"]
    return np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0), image.affine


def oracle(shared, name):
    return reference(shared("dicom_oracle") / name)


def test_nine_copies_of_a_mosaic_in_nine_syntaxes_equal_dcm2niix(shared):
    folder = shared("dicom_oracle/transfer_syntaxes/In")
    found = series(folder)
    assert len(found) == 9  # one patient, one SeriesInstanceUID: their SeriesNumber keeps them apart
    for part in found:
        (file,) = part.files
        scan = read_series(part.files, "id", "p")
        assert scan.array.shape == (1, 64, 64, 35)
        check_equal(scan, *oracle(shared, f"transfer_syntaxes/Ref/{Path(file).stem}.nii"))


def test_several_mosaics_of_a_series_are_frames(shared, tmp_path):
    source = shared("dicom_oracle/transfer_syntaxes/In") / "1.dcm"
    for number in (2, 0, 1):
        dataset = pydicom.dcmread(source)
        dataset.AcquisitionNumber = dataset.InstanceNumber = number
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + number).tobytes()
        dataset.save_as(tmp_path / f"{9 - number}.dcm")
    scan = read(tmp_path)
    expected, _ = oracle(shared, "transfer_syntaxes/Ref/1.nii")
    assert scan.frames == len(scan.array) == 3
    assert [float(frame.mean() - expected.mean()) for frame in scan.array] == pytest.approx([0, 1, 2])


def test_a_multi_frame_series_of_four_volumes_equals_dcm2niix(shared):
    scan = read(shared("dicom_oracle/enhanced_multiframe/In/Siemens/XA10"))
    assert scan.frames == 4
    check_equal(scan, *oracle(shared, "enhanced_multiframe/Ref/Siemens_REST1_w_SMS_PF7-8_6.nii"))


def test_magnitude_and_field_map_of_one_file_are_two_scans_as_dcm2niix_has_it(shared):
    found = series(shared("dicom_oracle/enhanced_multiframe/In/Philips"))
    assert [part.member for part in found] == [None, "frame 32"]
    for part, name in zip(found, ("e1", "e2_fieldmaphz")):
        scan = read_series(part.files, "id", "p", part.member)
        check_equal(scan, *oracle(shared, f"enhanced_multiframe/Ref/Philips_WIP_B0_NS_801_{name}.nii"))
        assert scan.notes == ("one of 2 pictures (echoes, magnitude and phase, ...) in its series",)
