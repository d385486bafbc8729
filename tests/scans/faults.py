"""Every fault of the project's table, made from one clean CT series of 20 slices 2.5 mm apart.

make("tilt", tmp_path / "tilt")             # a folder with the series that has this fault
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.scans.scan_makers import ct_like, slice_dataset, write_series

SHAPE, STEP_MM, ORIGIN = (12, 10, 20), 2.5, (-20.0, 30.0, 5.0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
HALF = range(10)  # slices


def clean() -> np.ndarray:
    """(12, 10, 20) int16: the voxels of the clean series."""
    return ct_like(SHAPE, seed=7)


def make(fault: str, folder: Path) -> Path:
    """The clean series with one fault, its SeriesInstanceUID made of the fault's name."""
    uid = f"1.2.826.{1 + sorted(FAULTS).index(fault)}"
    FAULTS[fault](folder, uid)
    return folder


def _written(**options) -> Callable[[Path, str], object]:
    return lambda folder, uid: write_series(folder, clean(), series=uid, step=STEP_MM, **options)


def _fields(at=range(SHAPE[2]), **fields) -> Callable[[Path, str], object]:
    """The clean series with fields of the slices `at` set, or taken away by None."""

    def edit(dataset, z):
        for name, value in fields.items() if z in at else ():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    return _written(edit=edit)


def _tilted(dataset, z):
    dataset.ImagePositionPatient = [-20.0, round(30.0 + z * STEP_MM * np.tan(np.radians(15)), 6), 5.0 + z * STEP_MM]


def _on_slice_5(dataset, z):
    if z == 6:
        dataset.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + 5 * STEP_MM]


def _upper(dataset, z):
    return z not in HALF


def _lower(dataset, z):
    return z in HALF


def _copied(folder: Path, uid: str) -> None:
    _written()(folder, uid)
    source = sorted(folder.glob("*.dcm"))[3]
    copy = pydicom.dcmread(source)
    copy.InstanceNumber = 99
    copy.save_as(folder / "copy.dcm")


def _with_stranger(orientation, **fields) -> Callable[[Path, str], object]:
    def write(folder: Path, uid: str) -> None:
        _written()(folder, uid)
        slice_dataset(np.zeros((10, 12)), (0, 0, 0), orientation, series=uid, **fields).save_as(folder / "z.dcm")

    return write


def _two(first: dict, second: dict) -> Callable[[Path, str], object]:
    """Two series in one folder."""

    def write(folder: Path, uid: str) -> None:
        for part, fields in enumerate((first, second)):
            volume = clean() + np.int16(part)
            write_series(folder / str(part), volume, step=STEP_MM, **{"series": uid, **fields})
            for file in sorted((folder / str(part)).glob("*.dcm")):
                file.rename(folder / f"{part}{file.name}")

    return write


def _nan_spacing(folder: Path, uid: str) -> None:
    _written()(folder, uid)
    file = sorted(folder.glob("*.dcm"))[2]
    data = file.read_bytes()
    assert data.count(b"0.7\\0.9 ") == 1
    file.write_bytes(data.replace(b"0.7\\0.9 ", b"NaN\\0.9 "))


def _truncated(folder: Path, uid: str) -> None:
    _written()(folder, uid)
    file = sorted(folder.glob("*.dcm"))[4]
    file.write_bytes(file.read_bytes()[:-90])


def _monochrome1(folder: Path, uid: str) -> None:
    stored = 4095 - (clean().astype(int) + 1000)
    fields = dict(PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0, BitsStored=12, HighBit=11)
    write_series(folder, stored, series=uid, step=STEP_MM, RescaleIntercept="-1000", **fields)


def _slopes(folder: Path, uid: str) -> None:
    """Each slice is stored with a scale of its own, and comes out as the same values."""

    def edit(dataset, z):
        dataset.RescaleSlope = str(1 / (1 + z % 4))
        stored = np.frombuffer(dataset.PixelData, "<i2").astype(int) * (1 + z % 4)
        dataset.PixelData = stored.astype("<i2").tobytes()

    _written(edit=edit)(folder, uid)


def _syntax(syntax) -> Callable[[Path, str], object]:
    def write(folder: Path, uid: str) -> None:
        volume = np.kron(clean()[:, :, :3], np.ones((8, 8, 1), np.int16))  # JPEG 2000 wants more than a few pixels
        write_series(folder, volume, series=uid, step=STEP_MM)
        for file in folder.glob("*.dcm"):
            dataset = pydicom.dcmread(file)
            if syntax.is_encapsulated:
                dataset.compress(syntax, generate_instance_uid=False)
                dataset.save_as(file)
                continue
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=False, force_encoding=True)

    return write


def _item(name: str, **fields) -> Dataset:
    """A functional group: one sequence with one item."""
    inner, outer = Dataset(), Dataset()
    for key, value in fields.items():
        setattr(inner, key, value)
    setattr(outer, name, [inner])
    return outer


def _enhanced(folder: Path, uid: str, times: int = 1) -> None:
    """The clean series as one multi-frame file, frames from the top down, place by place."""
    folder.mkdir(parents=True)
    volume = clean()
    planes, groups = [], []
    for z in reversed(range(SHAPE[2])):
        for time in range(times):
            planes.append((volume[:, :, z] + time).T)
            group = _item("PlanePositionSequence", ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + z * STEP_MM])
            group.update(_item("FrameContentSequence", TemporalPositionIndex=time + 1))
            groups.append(group)
    dataset = slice_dataset(planes[0], ORIGIN, series=uid)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    shared = _item("PixelMeasuresSequence", PixelSpacing=[0.7, 0.9])
    shared.update(_item("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    shared.update(_item("PixelValueTransformationSequence", RescaleSlope="1", RescaleIntercept="0"))
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], groups
    dataset.NumberOfFrames = len(planes)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.PixelData = np.stack(planes).astype("<i2").tobytes()
    dataset.save_as(folder / "all.dcm")


def _fourth_dimension(folder: Path, uid: str) -> None:
    """Three times at every place, told apart by their temporal position; files and instance numbers are shuffled."""
    order = np.random.default_rng(0).permutation(3 * SHAPE[2])
    for time in range(3):
        for z in range(SHAPE[2]):
            plane = (clean()[:, :, z] + time).T
            dataset = slice_dataset(plane, (*ORIGIN[:2], ORIGIN[2] + z * STEP_MM), series=uid)
            dataset.TemporalPositionIdentifier, number = time + 1, int(order[time * SHAPE[2] + z])
            dataset.InstanceNumber = number
            folder.mkdir(parents=True, exist_ok=True)
            dataset.save_as(folder / f"{number:03d}.dcm")


def _deflated(folder: Path, uid: str) -> None:
    """Deflated files, with a megabyte of zeros in a private element behind the pixels."""
    _written()(folder, uid)
    for file in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.add_new((0x7FE1, 0x0010), "LO", "CREATOR")
        dataset.add_new((0x7FE1, 0x1001), "OB", bytes(1 << 20))
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        pydicom.dcmwrite(file, dataset)


def _united_imaging(dataset, z):
    dataset.Manufacturer = "UIH"
    dataset.add_new((0x0065, 0x0010), "LO", "Image Private Header")
    dataset.add_new((0x0065, 0x1050), "DS", "25")


def _overlong(dataset, z):
    from pydicom.valuerep import DS

    position = [f"{value:.12f}00000" for value in (*ORIGIN[:2], ORIGIN[2] + z * STEP_MM)]
    dataset["ImagePositionPatient"]._value = [DS(text, validation_mode=pydicom.config.IGNORE) for text in position]


FAULTS: dict[str, Callable[[Path, str], object]] = {
    "missing": _written(edit=lambda dataset, z: z != 5),
    "duplicate": _written(edit=_on_slice_5),
    "copy": _copied,
    "uneven": _written(depths=[*(2.5 * z for z in range(10)), *(22.5 + 5.0 * z for z in range(1, 11))]),
    "tilt": _written(edit=_tilted),
    "localizer": _with_stranger(SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "stray": _with_stranger(SAGITTAL),
    "two series": _two({"series": "1.2.9.1"}, {"series": "1.2.9.2"}),
    "two patients": _two({"PatientID": "A"}, {"PatientID": "B"}),
    "two studies": _two({"StudyInstanceUID": "1.2.8.1"}, {"StudyInstanceUID": "1.2.8.2"}),
    "two frames of reference": _two({"FrameOfReferenceUID": "1.2.8.1"}, {"FrameOfReferenceUID": "1.2.8.2"}),
    "two modalities": _two({"Modality": "CT"}, {"Modality": "PT"}),
    "two units": _two({"Modality": "PT", "Units": "BQML"}, {"Modality": "PT", "Units": "CNTS"}),
    "no intercept": _fields(HALF, RescaleIntercept=None),
    "half a series": _fields(HALF, SeriesInstanceUID=None),
    "half a study": _two({"StudyInstanceUID": "1.2.8.1", "edit": _upper}, {"edit": _lower}),
    "half a modality": _fields(HALF, Modality=None),
    "two signs": _fields(HALF, PixelRepresentation=0),
    "two inversions": _fields(HALF, PhotometricInterpretation="MONOCHROME1"),
    "no slope": _fields([3], RescaleSlope=None, RescaleIntercept=None),
    "no patient": _fields([3], PatientID=""),
    "high bit": _fields(BitsStored=12, HighBit=15),
    "united imaging": _written(edit=_united_imaging),
    "deflated": _deflated,
    "no position": _fields([3], ImagePositionPatient=None),
    "spacing 0": _fields([3], PixelSpacing=[0, 0.9]),
    "spacing NaN": _nan_spacing,
    "truncated": _truncated,
    "monochrome1": _monochrome1,
    "slopes": _slopes,
    "big endian": _syntax(ExplicitVRBigEndian),
    "rle": _syntax(RLELossless),
    "jpeg 2000": _syntax(JPEG2000Lossless),
    "enhanced": _enhanced,
    "enhanced 4D": lambda folder, uid: _enhanced(folder, uid, times=3),
    "4D": _fourth_dimension,
    "reversed": lambda folder, uid: _written(edit=lambda dataset, z: setattr(dataset, "InstanceNumber", z))(
        folder, uid
    ),
    "overlong": _written(edit=_overlong),
}
__all__ = ["FAULTS", "ORIGIN", "STEP_MM", "clean", "make"]
