"""Small synthetic scans for the tests: DICOM series with any fault wanted, NIfTI volumes, masks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def ct_like(shape=(12, 10, 8), seed=0) -> np.ndarray:
    """(X, Y, Z) int16 without any symmetry."""
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def slice_dataset(plane, position, orientation=AXIAL, series=None, **fields) -> FileDataset:
    """One CT slice; plane: (rows, columns) of stored values. A field set to None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": series or "1.2.3.4",
        "Modality": "CT",
        "Manufacturer": "SIEMENS",
        "PatientID": "P1",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": plane.shape[0],
        "Columns": plane.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "PixelSpacing": [0.7, 0.9],
        "ImagePositionPatient": None if position is None else [float(f"{x:.6f}") for x in position],
        "ImageOrientationPatient": list(orientation),
        **fields,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = plane.astype("<i2" if values["PixelRepresentation"] else "<u2").tobytes()
    return dataset


def write_series(
    folder: Path,
    volume=None,
    orientation=AXIAL,
    step=2.5,
    origin=(-20.0, 30.0, 5.0),
    edit=None,
    depths=None,
    **fields,
) -> Path:
    """volume (X, Y, Z) as a series; `depths` replaces the slices' places along the normal, `edit(dataset, z)`
    mends."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = ct_like() if volume is None else volume
    normal = np.cross(orientation[:3], orientation[3:])
    depths = [z * step for z in range(volume.shape[2])] if depths is None else depths
    for z, depth in enumerate(depths):
        dataset = slice_dataset(volume[:, :, z].T, np.array(origin) + depth * normal, orientation, **fields)
        dataset.InstanceNumber = len(depths) - z
        if edit and edit(dataset, z) is False:
            continue
        dataset.save_as(folder / f"{(z * 7) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def write_nifti(path: Path, array=None, affine=None, dtype=None) -> Path:
    """array (X, Y, Z[, T]) as NIfTI with both form codes set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = ct_like() if array is None else array
    image = nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine, dtype=dtype)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    return path


def tree(root: Path, count=6, mask=True, shape=(14, 12, 10)) -> Path:
    """root/images/s0.nii.gz ... with root/labels/s0.nii.gz."""
    for number in range(count):
        array = ct_like(shape, seed=number)
        write_nifti(root / "images" / f"s{number}.nii.gz", array)
        if mask:
            write_nifti(root / "labels" / f"s{number}.nii.gz", (array > 900).astype(np.uint8) * (1 + number % 2))
    return root
