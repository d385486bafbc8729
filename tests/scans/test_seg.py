"""Masks as DICOM SEG: on their image's grid whatever their frame order, or refused in words."""

from __future__ import annotations

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medssl.datasets.index import index
from medssl.preprocessing.cache import prepare
from tests.scans.scan_makers import AXIAL, ct_like, write_series

OBLIQUE = (1.0, 0.0, 0.0, 0.0, 0.8, 0.6)


def structures(shape=(12, 10, 8)):
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 1:4, 1:3] = 1
    mask[7:11, 5:9, 4:6] = 2
    return mask


def write_seg(folder, out, mask, kind="BINARY", edit=None, shuffle=True):
    """mask (X, Y, Z) as a DICOM SEG of the series in `folder`, empty planes left out, frames in any order."""
    images = sorted((pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=lambda item: -item.InstanceNumber)
    images = [image for image in images if hasattr(image, "FrameOfReferenceUID")]
    order = np.random.default_rng(0).permutation(len(images)) if shuffle else range(len(images))
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            "SECRET",
            codes.cid7150.Tissue,
            codes.cid7166.ConnectiveTissue,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in (1, 2)
    ]
    planes = mask.transpose(2, 1, 0)[list(order)] if mask.ndim == 3 else mask.transpose(2, 1, 0, 3)[list(order)]
    dataset = highdicom.seg.Segmentation(
        [images[number] for number in order],
        planes,
        kind,
        segments,
        "1.2.9",
        9,
        "1.2.9.1",
        1,
        "maker",
        "model",
        "1",
        "1",
        max_fractional_value=1,
        omit_empty_frames=True,
    )
    if edit:
        edit(dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(out)
    return out


def with_reference(dataset, z):
    """What highdicom asks of an image beside its geometry."""
    dataset.FrameOfReferenceUID, dataset.StudyInstanceUID = "1.2.5", "1.2.6"
    dataset.SliceThickness = 2.5
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(dataset, keyword, "")
    dataset.StudyID = dataset.ReferringPhysicianName = ""


def archive(tmp_path, mask, orientation=AXIAL, place="segs/p1.dcm", **options):
    folder = write_series(tmp_path / "d" / "scans" / "p1", orientation=orientation, edit=with_reference)
    write_seg(folder, tmp_path / "d" / place, mask, **options)
    return tmp_path / "d"


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_seg_lies_on_its_image_whatever_its_frame_order(tmp_path, orientation, kind):
    data = archive(tmp_path, structures(), orientation, kind=kind)
    manifest = index([data], tmp_path / "m", mask="../segs/{name}.dcm")
    assert list(manifest.has_mask) == [True], list(manifest.reason)
    cache = prepare(tmp_path / "m", tmp_path / "c")
    scan = cache.manifest.scan[0]
    assert cache.structures == (1, 2)
    image, mask = cache.read(scan)[0], cache.read_mask(scan)
    volume = ct_like().clip(-1024)
    for structure in (1, 2):
        assert sorted(image[mask == structure]) == sorted(volume[structures() == structure])


def test_a_deflated_seg_is_read_as_its_plain_twin(tmp_path):
    def deflated(dataset):
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.add_new((0x7FE1, 0x0010), "LO", "CREATOR")
        dataset.add_new((0x7FE1, 0x1001), "OB", bytes(50 << 20))

    masks = []
    for name, edit in (("plain", None), ("deflated", deflated)):
        data = archive(tmp_path / name, structures(), edit=edit)
        assert index([data], tmp_path / name / "m", mask="../segs/{name}.dcm").has_mask.tolist() == [True]
        cache = prepare(tmp_path / name / "m", tmp_path / name / "c")
        masks.append(cache.read_mask(cache.manifest.scan[0]))
    assert (masks[0] == masks[1]).all()


@pytest.mark.parametrize(
    ("place", "pattern"), [("segs/p1/1.dcm", "../segs/{name}"), ("scans/p1/seg.dcm", "{name}/seg.dcm")]
)
def test_a_seg_may_lie_in_a_folder_of_its_own_or_beside_its_slices(tmp_path, place, pattern):
    manifest = index([archive(tmp_path, structures(), place=place)], tmp_path / "m", mask=pattern)
    assert list(manifest.status) == ["ok"]
    assert manifest.has_mask.all()
    assert list(manifest["shape"][0]) == [12, 10, 8]


def moved(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 0.3


def in_part(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[0] += 0.9


def overlapping():
    both = np.stack([structures() == 1, structures() == 2], axis=-1).astype(np.uint8)
    both[2:4, 1:3, 1, 1] = 1
    return both


REFUSED = {
    "moved": (dict(edit=moved), "0.30 mm off the planes of its image: expected at most 0.1 mm"),
    "beside": (dict(edit=in_part), "expected one whole plane of it"),
    "fractional": (dict(kind="FRACTIONAL"), "a fractional DICOM SEG (0062,0001)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_seg_that_does_not_fit_rejects_its_scan(tmp_path, fault):
    options, words = REFUSED[fault]
    mask = structures()
    if fault == "fractional":
        mask = np.stack([mask == 1, mask == 2], axis=-1).astype(np.float32)
    write_series(tmp_path / "d" / "other", series="1.9")
    manifest = index([archive(tmp_path, mask, **options)], tmp_path / "m", mask="../segs/{name}.dcm")
    assert sorted(manifest.status) == ["ok", "rejected"]
    reason = manifest.reason.dropna().iloc[0]
    assert words in reason
    assert "SECRET" not in reason


def test_overlapping_segments_are_rejected_by_prepare(tmp_path):
    write_series(tmp_path / "d" / "other", series="1.9")
    index([archive(tmp_path, overlapping())], tmp_path / "m", mask="../segs/{name}.dcm")
    prepare(tmp_path / "m", tmp_path / "c")
    reasons = pd.read_parquet(tmp_path / "c" / "manifest.parquet").reason.dropna()
    assert len(reasons) == 1
    assert "segments 1 and 2 of the DICOM SEG overlap in 4 voxels" in reasons.iloc[0]


def test_a_seg_without_image_and_an_rtstruct_are_rejects_never_scans(tmp_path):
    data = archive(tmp_path, structures())
    contours = pydicom.dcmread(next((data / "scans" / "p1").glob("*.dcm")))
    contours.SOPClassUID = contours.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(contours, keyword)
    contours.save_as(data / "contours.dcm")
    manifest = index([data], tmp_path / "m")
    assert sorted(manifest.status) == ["ok", "rejected", "rejected"]
    reasons = " | ".join(manifest.reason.dropna())
    assert "a DICOM SEG is a mask and is not read as a scan" in reasons
    assert "an RTSTRUCT holds contours" in reasons
    assert not manifest.has_mask.any()


def test_an_rtstruct_given_as_mask_is_refused_in_words(tmp_path):
    write_series(tmp_path / "d" / "other", series="1.9")
    data = archive(tmp_path, structures())
    file = data / "segs" / "p1.dcm"
    contours = pydicom.dcmread(file)
    contours.SOPClassUID = contours.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    contours.save_as(file)
    manifest = index([data], tmp_path / "m", mask="../segs/{name}.dcm")
    assert "an RTSTRUCT holds contours" in manifest.reason.dropna().iloc[0]
