"""DICOM: right geometry or a refusal. The faults of the project's table, each made and each named."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from medssl.core.errors import ScanError
from medssl.scans.dicom import slices as dicom_slices
from medssl.scans.dicom.mosaic import Tiles, tile_positions
from medssl.scans.dicom.series import group_slices
from medssl.scans.dicom.slices import read_slices
from medssl.scans.dicom.volume import read_series, series_header
from tests.scans.scan_makers import AXIAL, ct_like, slice_dataset, write_series

ROTATED = np.linalg.qr(np.array([[0.9, 0.3, 0.2], [-0.2, 0.8, -0.5], [0.1, 0.2, 0.9]]).T)[0].T
OBLIQUE = tuple(ROTATED[:2].ravel())
PLANES = {"axial": AXIAL, "sagittal": (0, 1, 0, 0, 0, -1), "oblique": OBLIQUE}


def series(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gz")
    return group_slices(item for file in files for item in read_slices(str(file)))


def read(folder):
    (found,) = series(folder)
    return read_series(found.files, "id", "patient")


def refusal(folder):
    (found,) = series(folder)
    with pytest.raises(ScanError) as refused:
        read_series(found.files, "id", "patient")
    return str(refused.value)


@pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)
def test_every_voxel_lies_where_its_slice_says(tmp_path, orientation):
    volume = ct_like()
    scan = read(write_series(tmp_path, volume, orientation))
    assert scan.array.shape == (1, 12, 10, 8)
    assert scan.array.dtype == np.int16
    assert (scan.array[0] == volume).all()
    row, column = np.array(orientation).reshape(2, 3)
    world_lps = np.array([-20, 30, 5]) + 3 * 0.9 * row + 4 * 0.7 * column + 6 * 2.5 * np.cross(row, column)
    assert np.allclose((scan.affine @ [3, 4, 6, 1])[:3], world_lps * [-1, -1, 1], atol=1e-4)
    assert np.allclose(scan.spacing_mm, (0.9, 0.7, 2.5), atol=1e-4)


def test_header_says_what_the_volume_is(tmp_path):
    (found,) = series(write_series(tmp_path))
    header = series_header(found)
    assert header.shape == (12, 10, 8)
    assert (header.modality, header.manufacturer, header.patient) == ("CT", "Siemens", "P1")
    assert header.slice_axis == 2


def without_slice_5(dataset, z):
    return z != 5


def copy_of_slice_5(dataset, z):
    if z == 6:
        dataset.ImagePositionPatient = [-20.0, 30.0, 5 + 5 * 2.5]


def tilted(dataset, z):
    dataset.ImagePositionPatient = [-20.0, 30.0 + z * 2.5 * np.tan(np.radians(15)), 5.0 + z * 2.5]


def field(name, value, at=3):
    def edit(dataset, z):
        if z == at or at is None:
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    return edit


def turn_the_last_three(dataset, z):
    if z > 4:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def cut_pixels(dataset, z):
    if z == 3:
        dataset.PixelData = dataset.PixelData[:100]


def united_imaging_grid(dataset, z):
    dataset.Manufacturer = "UIH"
    dataset.add_new((0x0065, 0x0010), "LO", "Image Private Header")
    dataset.add_new((0x0065, 0x1050), "DS", "25")


FAULTS = {
    "missing": (dict(edit=without_slice_5), "missing slice: 1 of 8, the first between 15.00 and 20.00 mm"),
    "duplicate": (dict(edit=copy_of_slice_5), "duplicate position: 8 slices lie at 7 places, two of them at 17.50"),
    "uneven": (dict(depths=[0, 2.5, 5, 7.5, 12.5, 17.5, 22.5, 27.5]), "uneven spacing: steps run from 2.500 to 5.000"),
    "half steps": (dict(depths=[0, 2.5, 5, 8.7, 10, 12.5, 15, 17.5]), "uneven spacing"),
    "tilt": (dict(edit=tilted), "gantry tilt of 15.0 degrees"),
    "no position": (dict(edit=field("ImagePositionPatient", None)), "1 of 8 slices have no position .*0020,0032"),
    "no orientation": (dict(edit=field("ImageOrientationPatient", None)), "no orientation .*0020,0037"),
    "spacing 0": (dict(edit=field("PixelSpacing", [0, 0.7])), r"PixelSpacing \(0028,0030\) is 0, 0.7"),
    "spacing missing": (dict(edit=field("PixelSpacing", None)), "no spacing_mm .*0028,0030"),
    "spacing differs": (dict(edit=field("PixelSpacing", [0.7, 0.8])), "PixelSpacing .* runs from 0.7 to 0.9"),
    "slope 0": (dict(edit=field("RescaleSlope", "0")), "RescaleSlope"),
    "one place": (dict(depths=[0.0] * 8), "all 8 slices have one position"),
    "4D without order": (
        dict(depths=[0, 0, 2.5, 2.5, 5, 5, 7.5, 7.5], edit=field("InstanceNumber", 1, None)),
        "2 slices at 5.00 mm differ, and neither temporal position",
    ),
    "4D uneven": (dict(depths=[0, 0, 0, 2.5, 2.5, 5, 5, 5]), "unequal frames: places hold 2 to 3 slices"),
    "mosaic": (dict(edit=field("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"], None)), "mosaic without its CSA header"),
    "united imaging": (dict(edit=united_imaging_grid), r"grid of United Imaging, 25 slices .*\(0065,1050\)"),
    "burned in": (dict(edit=field("BurnedInAnnotation", "YES")), "burned into the pixels"),
    "mixed": (dict(edit=turn_the_last_three), "mixed orientation"),
    "palette": (dict(PhotometricInterpretation="PALETTE COLOR"), "palette"),
    "truncated": (dict(edit=cut_pixels), "truncated: 100 bytes, expected 240"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_series_is_refused_in_words(tmp_path, fault):
    options, words = FAULTS[fault]
    folder = write_series(tmp_path / "SMITH_JOHN", **options, PatientName="SMITH^JOHN")
    message = refusal(folder)
    assert re.search(words, message), message
    assert "SMITH" not in message


def test_spacing_that_is_no_number_is_refused(tmp_path):
    folder = write_series(tmp_path)
    file = next(folder.glob("*.dcm"))
    file.write_bytes(file.read_bytes().replace(b"0.7\\0.9 ", b"NaN\\0.9 ").replace(b"0.7\\0.9", b"NaN\\0.9"))
    assert "0028,0030" in refusal(folder)


def test_a_localizer_and_a_stray_are_left_out_and_reported(tmp_path):
    write_series(tmp_path)
    plane = np.zeros((10, 12))
    scout = slice_dataset(plane, (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.save_as(tmp_path / "a.dcm")
    slice_dataset(plane, (0, 0, 0), (0, 1, 0, 0, 0, -1)).save_as(tmp_path / "b.dcm")
    main, *others = sorted(series(tmp_path), key=lambda part: -len(part.slices))
    assert series_header(main).shape == (12, 10, 8)
    assert series_header(main).notes == ("1 stray slices left out",)
    reasons = " | ".join(str(part.reason) for part in others)
    assert len(others) == 2
    assert "1 localizer slices" in reasons
    assert "1 of 9 slices have another orientation (90.0 degrees)" in reasons


def test_two_series_and_two_patients_in_a_folder_are_never_merged(tmp_path):
    write_series(tmp_path / "a", series="1.1", PatientID="A")
    write_series(tmp_path / "b", ct_like(seed=1), series="1.2", PatientID="A")
    write_series(tmp_path / "c", ct_like(seed=2), series="1.1", PatientID="B")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, file in enumerate(sorted(tmp_path.glob("[abc]/*.dcm"))):
        file.rename(mixed / f"{number}.dcm")
    found = series(mixed)
    arrays = [read_series(part.files, "id", "p").array[0] for part in found]
    assert len(found) == 3
    assert {array.tobytes() for array in arrays} == {ct_like(seed=seed).tobytes() for seed in range(3)}


def test_a_series_stored_twice_under_other_numbers_is_one_volume_and_two_moments_are_two_frames(tmp_path):
    first = write_series(tmp_path / "twice")
    for path in sorted(first.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber, dataset.SOPInstanceUID = 9 - dataset.InstanceNumber, pydicom.uid.generate_uid()
        dataset.save_as(first / f"again_{path.name}")
    scan = read(first)
    assert scan.frames == 1
    assert "8 slices dropped: copies equal to the pixel" in scan.notes
    assert (scan.array[0] == ct_like()).all()
    dataset.PixelData = bytes(2) + dataset.PixelData[2:]  # one pixel of one slice is another: it is no copy
    dataset.save_as(first / f"again_{path.name}")
    assert read(first).frames == 2


def test_copies_of_a_series_in_two_folders_stay_apart_but_halves_join(tmp_path):
    write_series(tmp_path / "copies" / "a")
    write_series(tmp_path / "copies" / "b")
    assert [len(part.slices) for part in series(tmp_path / "copies")] == [8, 8]
    write_series(tmp_path / "halves" / "a", edit=lambda dataset, z: z < 4)
    write_series(tmp_path / "halves" / "b", edit=lambda dataset, z: z >= 4)
    assert (read(tmp_path / "halves").array[0] == ct_like()).all()


def test_each_slice_has_its_own_rescale(tmp_path):
    def slopes(dataset, z):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(z + 0.5), "3"

    scan = read(write_series(tmp_path, edit=slopes))
    expected = ct_like() * (np.arange(8) + 0.5) + 3
    assert np.allclose(scan.array[0], expected, atol=1e-3)


def test_monochrome1_is_inverted_once_and_said(tmp_path):
    stored = np.abs(ct_like()) % 4096
    options = dict(PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0, BitsStored=12, HighBit=11)
    scan = read(write_series(tmp_path, stored, **options))
    assert (scan.array[0] == 4095 - stored).all()
    assert "MONOCHROME1 inverted" in scan.notes
    counts = read(write_series(tmp_path / "pt", stored, Modality="PT", **options))
    assert (counts.array[0] == stored).all()


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_every_transfer_syntax_gives_the_same_voxels(tmp_path, syntax):
    volume = ct_like((80, 72, 3))
    write_series(tmp_path, volume)
    for file in tmp_path.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(file)
            continue
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = syntax
        little = syntax != ExplicitVRBigEndian
        options = dict(implicit_vr=syntax.is_implicit_VR, little_endian=little, force_encoding=True)
        pydicom.dcmwrite(file, dataset, **options)
    assert (read(tmp_path).array[0] == volume).all()


def test_a_missing_codec_names_its_package(tmp_path, monkeypatch):
    write_series(tmp_path)
    for file in tmp_path.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(file)

    class Absent:
        is_available = False

    monkeypatch.setattr(dicom_slices, "get_decoder", lambda syntax: Absent())
    assert "pip install pylibjpeg-rle" in refusal(tmp_path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    write_series(tmp_path)
    whole = next(tmp_path.glob("*.dcm")).read_bytes()
    for name, data in {"cut.dcm": whole[:300], "text.dcm": b"hello" * 100, "empty.dcm": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ScanError):
            read_slices(str(tmp_path / name))


@pytest.mark.parametrize("modality", ["DX", "CT"])
def test_one_plane_is_an_image_as_seen_on_a_screen(tmp_path, modality):
    plane = ct_like((10, 12, 1))[:, :, 0]
    slice_dataset(plane, (0, 0, 0), Modality=modality).save_as(tmp_path / "a.dcm")
    scan = read(tmp_path)
    assert (scan.array == plane[None]).all()
    assert scan.dims == 2
    assert scan.spacing_mm == (0.7, 0.9)


def test_projections_of_one_series_are_single_images(tmp_path):
    write_series(tmp_path, Modality="DX")
    found = series(tmp_path)
    assert len(found) == 8
    assert all(len(series_header(part).shape) == 2 for part in found)


def test_tiles_may_run_against_the_normal_of_the_picture():
    tiles = Tiles(4, (8, 8), 2.5, (0, 0, -1))
    places = tile_positions(tiles, (16, 16), (-8, -8, 3), AXIAL, (0.5, 0.5))
    assert np.allclose(places, [[-6, -6, 3 - 2.5 * k] for k in range(4)])
    with pytest.raises(ScanError, match=r"a product of 0.0000"):
        tile_positions(Tiles(4, (8, 8), 2.5, (0, 1, 0)), (16, 16), (-8, -8, 3), AXIAL, (0.5, 0.5))


def write_frames(folder, places, frames, edit):
    """A classic series with `frames` slices at each of `places`; slice (time, z) holds the number 100 * time + z."""
    folder.mkdir(parents=True, exist_ok=True)
    for time in range(frames):
        for z in range(places):
            plane = np.full((10, 12), 100 * time + z, np.int16)
            dataset = slice_dataset(plane, (0, 0, 2.5 * z), Modality="MR", InstanceNumber=1)
            edit(dataset, time, z)
            dataset.save_as(folder / f"{(7 * (time * places + z)) % 101:03d}.dcm")
    return folder


def instance_backwards(dataset, time, z):
    dataset.InstanceNumber = 50 - 10 * time - z


def timed(keyword):
    def edit(dataset, time, z):
        instance_backwards(dataset, time, z)  # the time wins over the instance number
        setattr(dataset, keyword, time + 1)

    return edit


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"])
def test_frames_come_in_the_order_of_their_time(tmp_path, keyword):
    scan = read(write_frames(tmp_path, 3, 4, timed(keyword)))
    assert scan.frames == 4
    assert "4D: 4 frames held as channels" in scan.notes
    assert scan.array[:, 0, 0].tolist() == [[100 * time + z for z in range(3)] for time in range(4)]


def test_frames_without_a_time_come_in_the_order_of_instance_numbers(tmp_path):
    scan = read(write_frames(tmp_path, 3, 2, instance_backwards))
    assert scan.array[:, 0, 0].tolist() == [[100, 101, 102], [0, 1, 2]]


def test_a_frame_that_would_mix_two_b_values_is_refused(tmp_path):
    def edit(dataset, time, z):
        dataset.InstanceNumber = 10 * time + z
        dataset.DiffusionBValue = 1000.0 * (time if z else 1 - time)

    message = refusal(write_frames(tmp_path, 3, 2, edit))
    assert "frame 1 of 2 mixes (temporal position, b-value) (-1.0, 0.0) and (-1.0, 1000.0)" in message


def by_echo(dataset, time, z):
    dataset.EchoTime = 2.5 + 2 * time


def by_phase(dataset, time, z):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "MP"[time], "ND"]


def by_ge_raw_type(dataset, time, z):
    dataset.Manufacturer = "GE MEDICAL SYSTEMS"
    dataset.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
    dataset.add_new((0x0043, 0x102F), "SS", time)


def by_words(dataset, time, z):
    dataset.InstanceNumber = 10 * time + z
    dataset.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", ("TRACEW", "ADC")[time]]


@pytest.mark.parametrize("edit", [by_echo, by_phase, by_ge_raw_type, by_words])
def test_echoes_phase_and_maps_are_scans_of_their_own(tmp_path, edit):
    found = series(write_frames(tmp_path, 3, 2, edit))
    scans = [read_series(part.files, "id", "p", part.member) for part in found]
    assert sorted(scan.array[0, 0, 0].tolist() for scan in scans) == [[0, 1, 2], [100, 101, 102]]
    assert [scan.frames for scan in scans] == [1, 1]
    assert all("one of 2 pictures" in series_header(part).notes[0] for part in found)


def test_one_place_at_several_trigger_times_is_an_image_with_frames(tmp_path):
    scan = read(write_frames(tmp_path, 1, 5, timed("TriggerTime")))
    assert (scan.dims, scan.frames) == (2, 5)
    assert scan.array[:, 0, 0].tolist() == [0, 100, 200, 300, 400]


def cine(path, modality, colours=False, tint=0):
    planes = np.random.default_rng(0).integers(0, 250, (6, 10, 12)).astype(np.uint8)
    fields = dict(Modality=modality, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    dataset = slice_dataset(planes[0], None, NumberOfFrames=6, **fields)
    del dataset.ImageOrientationPatient
    if colours:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = np.stack([planes, planes, planes + np.uint8(tint)], axis=-1).tobytes()
    else:
        dataset.PixelData = planes.tobytes()
    dataset.save_as(path)
    return planes


@pytest.mark.parametrize("colours", [False, True])
def test_a_cine_is_an_image_with_frames(tmp_path, colours):
    planes = cine(tmp_path / "a.dcm", "US", colours)
    (found,) = series(tmp_path)
    assert (series_header(found).frames, series_header(found).shape) == (6, (10, 12))
    scan = read(tmp_path)
    assert (scan.dims, scan.frames) == (2, 6)
    assert (scan.array == planes).all()


def test_frames_that_are_no_cine_or_in_colour_are_refused(tmp_path):
    (tmp_path / "nm").mkdir()
    cine(tmp_path / "nm" / "a.dcm", "NM")
    assert "6 frames without positions is not a cine of its modality" in refusal(tmp_path / "nm")
    (tmp_path / "us").mkdir()
    cine(tmp_path / "us" / "a.dcm", "US", colours=True, tint=3)
    assert "6 frames of 3 colours: expected grey frames" in refusal(tmp_path / "us")
