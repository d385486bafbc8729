"""Slices as a radiologist looks at them: the patient's right on the left, true to the spacing, masks over the image.

    plane = slice_of(cache.read(scan)[0], cache.affine(scan), "axial", 12)
    picture(plane, windows("CT")["lung (-600/1500)"], [Overlay(mask, 0.4)])  # (rows, columns, 3) uint8

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medssl.preprocessing.cache import Cache

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis of a RAS+ volume that is perpendicular to the plane
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # the two ends of each axis, low first
HU_WINDOWS = {  # centre and width
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "liver": (90, 150),
    "bone": (480, 2500),
    "brain": (40, 80),
}
SCALED_WINDOWS = {"full range": (0.0, 1.0), "dark parts": (0.0, 0.5), "bright parts": (0.4, 1.0)}  # of values 0 to 1
STRUCTURE_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2")  # of structures 1, 2, ...
OUTLINE_COLOUR = "#F0E442"  # of the reference, as in the report
LONG_SIDE_PX = 560
OUTLINE_PX = 2


@dataclass(frozen=True)
class Plane:
    """One slice as it is shown: pixels (rows, columns), the size of one in mm, and the letters at its four edges."""

    pixels: np.ndarray
    row_mm: float
    column_mm: float
    top: str = ""
    bottom: str = ""
    left: str = ""
    right: str = ""


@dataclass(frozen=True)
class Overlay:
    """A mask (rows, columns) of structures over a picture: filled with this opacity, or outlined in one colour."""

    mask: np.ndarray
    opacity: float
    outline: bool = False


def windows(modality: str) -> dict[str, tuple[float, float]]:
    """Return the presets, name -> (lowest, highest) value shown: HU for CT, else values of the cache's scale 0 to 1."""
    if modality == "CT":
        return {f"{name} ({c}/{w})": (c - w / 2, c + w / 2) for name, (c, w) in HU_WINDOWS.items()}
    return dict(SCALED_WINDOWS)


def slice_count(shape: Sequence[int], plane: str) -> int:
    """Return how many slices a scan of this shape has in a plane; an image has one."""
    return int(shape[PLANES[plane]]) if len(shape) == 3 else 1


def fullest_slices(mask: np.ndarray | None, shape: Sequence[int]) -> dict[str, int]:
    """Return plane -> index of the slice with most of the mask, or of the middle slice where the mask is empty."""
    if len(shape) == 2:
        return dict.fromkeys(PLANES, 0)
    if mask is None or not mask.any():
        return {plane: shape[axis] // 2 for plane, axis in PLANES.items()}
    others = {plane: tuple(i for i in range(3) if i != axis) for plane, axis in PLANES.items()}
    return {plane: int(np.count_nonzero(mask, axis=axes).argmax()) for plane, axes in others.items()}


def slice_of(array: np.ndarray, affine: np.ndarray, plane: str, index: int) -> Plane:
    """Cut one slice out of a RAS+ volume (X, Y, Z), with the patient's right on the left and the head or the front up.

    An image (H, W) is returned as it is, without letters, since its orientation is not known.
    """
    steps_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if array.ndim == 2:
        return Plane(array, float(steps_mm[0]), float(steps_mm[1]))
    across, up = (axis for axis in range(3) if axis != PLANES[plane])
    pixels = np.take(array, index, axis=PLANES[plane]).T[::-1, ::-1]
    left, right = _end_letters(affine, across)[::-1]
    bottom, top = _end_letters(affine, up)
    return Plane(pixels, float(steps_mm[up]), float(steps_mm[across]), top, bottom, left, right)


def part_of_slice(shape: Sequence[int], plane: str, index: int) -> tuple[list[int], list[int]]:
    """Return the first voxel and the size of the part of a scan that one slice needs; an image is needed as a whole."""
    if len(shape) == 2:
        return [0, 0], list(shape)
    axis = PLANES[plane]
    return [index if i == axis else 0 for i in range(3)], [1 if i == axis else n for i, n in enumerate(shape)]


def cached_slice(cache: Cache, scan: str, plane: str, index: int) -> Plane:
    """Cut a slice out of the first channel of a cached scan; only that slice of a volume is read."""
    start, size = part_of_slice(cache.shape(scan), plane, index)
    return slice_of(cache.read(scan, start, size)[0], cache.affine(scan), plane, 0)


def picture(
    plane: Plane,
    window: tuple[float, float],
    overlays: Sequence[Overlay] = (),
    long_side_px: int = LONG_SIDE_PX,
) -> np.ndarray:
    """Draw a slice through a window: (rows, columns, 3) uint8, as large in each direction as it is in mm."""
    low, high = window
    grey = np.clip((plane.pixels.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    size = _size_px(plane, long_side_px)
    resized = np.asarray(Image.fromarray((255 * grey).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    pixels = np.repeat(resized[..., None].astype(np.float32), 3, axis=2)
    for overlay in overlays:
        mask = np.asarray(Image.fromarray(overlay.mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        for structure in np.unique(mask[mask > 0]):
            region = mask == structure
            region = _edge(region) if overlay.outline else region
            colour = OUTLINE_COLOUR if overlay.outline else structure_colour(int(structure))
            pixels[region] = (1 - overlay.opacity) * pixels[region] + overlay.opacity * _rgb(colour)
    return np.rint(pixels).astype(np.uint8)


def structure_colour(structure: int) -> str:
    """Return the colour with which a structure is filled."""
    return STRUCTURE_COLOURS[(structure - 1) % len(STRUCTURE_COLOURS)]


def _size_px(plane: Plane, long_side_px: int) -> tuple[int, int]:
    """(width, height), the longer side the same for every scan."""
    height_mm, width_mm = plane.pixels.shape[0] * plane.row_mm, plane.pixels.shape[1] * plane.column_mm
    scale = long_side_px / max(height_mm, width_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def _end_letters(affine: np.ndarray, axis: int) -> tuple[str, str]:
    """The letters at the low and the high end of an array axis: those of the body axis nearest to it."""
    direction = affine[:3, axis]
    nearest = int(np.abs(direction).argmax())
    low, high = LETTERS[nearest]
    return (low, high) if direction[nearest] > 0 else (high, low)


def _edge(region: np.ndarray) -> np.ndarray:
    """The border of a region, inside of it."""
    inner = region
    for _ in range(OUTLINE_PX):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
