"""What NIfTI, NRRD and MetaImage have in common: three stored axes, an affine, and perhaps time or colours.

header = describe_volume((35, 51, 37), affine, frames=1, notes=(), rule="sform")
array = with_channels(array, header)               # (X, Y, Z) -> (1, X, Y, Z)
"""

from __future__ import annotations

import numpy as np

from medssl.scans.geometry import check_affine, spacing
from medssl.scans.scan import Header


def describe_volume(
    shape: tuple[int, ...],
    affine: np.ndarray,
    frames: int,
    notes: tuple[str, ...],
    rule: str,
    apart_mm: float | None = None,
) -> Header:
    """The header of three axes as stored; one slice is an image. Raises ScanError for an affine that cannot be used."""
    notes += check_affine(affine, shape)
    steps = spacing(affine)
    if frames > 1:
        notes += (f"4D: {frames} frames held as channels",)
    if shape[2] == 1:
        return Header(
            modality="OT",
            shape=(shape[1], shape[0]),
            affine=np.diag([steps[1], steps[0], 1.0, 1.0]),
            spacing_mm=(steps[1], steps[0]),
            channels=frames,
            frames=frames,
            notes=(*notes, "one slice: read as a 2D image"),
            affine_rule=rule,
            qform_apart_mm=apart_mm,
        )
    thickest = int(np.argmax(steps))
    clear = steps[thickest] > 1.2 * sorted(steps)[1]
    return Header(
        modality="OT",
        shape=shape,
        affine=affine,
        spacing_mm=steps,
        channels=frames,
        frames=frames,
        slice_axis=thickest if clear else None,
        notes=notes,
        affine_rule=rule,
        qform_apart_mm=apart_mm,
    )


def with_channels(array: np.ndarray, header: Header) -> np.ndarray:
    """(X, Y, Z[, C]) -> (C, X, Y, Z); one slice becomes (C, H, W), rows down and columns right as stored."""
    stored = (header.shape[1], header.shape[0], 1) if len(header.shape) == 2 else header.shape
    array = np.moveaxis(array.reshape(*stored, header.channels or 1), -1, 0)
    return array[..., 0].transpose(0, 2, 1) if len(header.shape) == 2 else array
