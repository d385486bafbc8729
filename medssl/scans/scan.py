"""A clean scan in memory, and the one statement of the axis order.

`*S` is `(H, W)` in 2D and `(X, Y, Z)` in 3D: the array order of a RAS+ volume, as nibabel and MONAI have it.
Axis 0 of a volume runs to the patient's Right, axis 1 to Anterior, axis 2 to Superior once it is oriented;
`affine` maps voxel indices to millimetres in that RAS+ world. A 2D image is rows by columns as it is seen on
a screen; its affine holds the pixel size only.

    from medssl.scans.read import read_scan
    scan = read_scan(["t1.nii.gz"], "nifti", id="a3f0", patient="77c1")
    scan.array.shape, scan.spacing_mm
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scan:
    """One image or volume of one patient.

    Attributes:
        array: (C, *S), the stored type (CT: int16 HU; MR and the rest: as the file has it, rescale applied).
        affine: (4, 4) float64, voxel index -> mm in RAS+ (2D: diagonal, pixel size).
        spacing_mm: One number per axis of S.
        patient: A pseudonym, not a name or an identifier from a header.
        id: A pseudonym, not a path or an identifier from a header.
        modality: DICOM's code in capitals (CT, MR, DX, US, ...); OT where it is unknown.
        mask: (*S) integer structure labels on the same grid, 0 is background; None where there is none.
        frames: Number of time points; a 4D scan holds them as channels and says so here, otherwise 1.
        notes: What was done or noticed while reading ("MONOCHROME1 inverted"), in fixed words and numbers only.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]
    patient: str
    id: str
    modality: str = "OT"
    mask: np.ndarray | None = None
    frames: int = 1
    notes: tuple[str, ...] = ()

    @property
    def dims(self) -> int:
        """2 for an image, 3 for a volume."""
        return self.array.ndim - 1


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any voxel is read; lengths and orders as stored, affine as in `Scan`.

    Attributes:
        modality: DICOM's code in capitals, OT where it is unknown.
        shape: S, without channels.
        affine: (4, 4) float64, voxel index -> mm in RAS+.
        spacing_mm: One number per axis of S.
        channels: C, or None where only the pixels can tell (grey stored as RGB).
        frames: Number of time points, 1 but for 4D scans.
        slice_axis: The axis across the slices, None where there are none.
        manufacturer: Maker of the scanner, None where nothing says so.
        patient: Raw text that becomes a pseudonym at once and is not written anywhere.
        site: Raw text that becomes a pseudonym at once and is not written anywhere.
        labels: What the file itself holds as labels (MedMNIST).
        notes: What was done or noticed while reading, in fixed words and numbers only.
        affine_rule: Where a volume's affine comes from: sform, qform, pixdim (NIfTI); directions, spacings, no space
            (NRRD, MetaImage); None for DICOM and images.
        qform_apart_mm: How far the qform lies from the sform used.
        burned_in_risk: Why text may be burned into the pixels, None where nothing says so.
        corrected: "tilt", "spacing" where the user asked for it and it is needed.
    """

    modality: str
    shape: tuple[int, ...]
    affine: np.ndarray
    spacing_mm: tuple[float, ...]
    channels: int | None = 1
    frames: int = 1
    slice_axis: int | None = None
    manufacturer: str | None = None
    patient: str | None = None
    site: str | None = None
    labels: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    affine_rule: str | None = None
    qform_apart_mm: float | None = None
    burned_in_risk: str | None = None
    corrected: tuple[str, ...] = ()


def merge_equal_channels(array: np.ndarray) -> np.ndarray:
    """(C, *S) -> (1, *S) where three colour channels hold the same picture (grey stored as RGB), else unchanged."""
    same = array.shape[0] == 3 and (array[0] == array[1]).all() and (array[0] == array[2]).all()
    return array[:1] if same else array
