"""What the dashboard shows of single cases: worst first, slices as a radiologist looks at them, masks over them.

    listed = worst_first(cases_a, cases_b)                       # score of each case in two arms
    plane = slice_of(cache.read(scan)[0], cache.affine(scan), "axial", 12)
    picture(plane, windows("CT")["lung"], [Overlay(mask, 0.4)])  # (rows, columns, 3) uint8, true to the spacing

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.cache import Cache
from medssl.reporting.style import BASELINE_STYLES
from medssl.studies.results import UNREADABLE

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis of a RAS+ volume a plane stands on
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # the two ends of each axis, low first
HU_WINDOWS = {
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (500, 2000),
    "brain": (40, 80),
    "liver": (60, 160),
}
SHARES = {"full range": (0.0, 1.0), "dark parts": (0.0, 0.5), "bright parts": (0.4, 1.0)}  # of the cache's own 0 to 1
Cases = Mapping[tuple, Mapping[int, pd.DataFrame]]  # (arm, mode, budget) -> draw -> one row a case
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2")  # of structures 1, 2, ...
OUTLINE = "#F0E442"  # of the reference, as in the report
LONG_SIDE_PX = 560


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


def draws(cases: Cases, budget: str) -> list[int]:
    """The draws of which any arm has cases at this budget."""
    return sorted({draw for key, frames in cases.items() if key[2] == budget for draw in frames})


def arms(cases: Cases, budget: str, draw: int) -> list[tuple[str, str]]:
    """(arm, mode) with cases in this draw: scratch first, the other baselines, then the pretrained ones."""
    found = {key[:2] for key, frames in cases.items() if key[2] == budget and draw in frames}
    order = [*BASELINE_STYLES]
    return sorted(found, key=lambda name: (order.index(name[0]) if name[0] in order else len(order), name))


def case_scores(cases: pd.DataFrame) -> pd.Series:
    """scan -> Dice averaged over its structures, or the probability given to the case's true class."""
    overlaps = [c for c in cases if str(c).startswith("dice.")]
    if overlaps:
        return cases.set_index("scan")[overlaps].mean(axis=1)
    given = cases[[c for c in cases if str(c).startswith("p.")]].to_numpy()
    return pd.Series(given[np.arange(len(cases)), cases["label"].to_numpy(dtype=int)], index=cases["scan"])


def worst_first(a: pd.DataFrame, b: pd.DataFrame | None = None) -> pd.DataFrame:
    """scan, patient, a, b, difference (b - a): a's worst case first; a case without a score comes last."""
    found = a[["scan", "patient"]].assign(a=case_scores(a).to_numpy())
    if b is not None:
        found["b"] = found["scan"].map(case_scores(b))
        found["difference"] = found["b"] - found["a"]
    return found.sort_values("a", kind="stable", na_position="last").reset_index(drop=True)


def class_probabilities(cases: pd.DataFrame, scan: str) -> tuple[dict[str, float], str]:
    """class -> probability of one case, and the name of its true class."""
    row = cases[cases["scan"] == scan].iloc[0]
    names = [str(c).removeprefix("p.") for c in cases if str(c).startswith("p.")]
    return {name: float(row[f"p.{name}"]) for name in names}, names[int(row["label"])]


def cache_of(run: Run, caches: Sequence[Path]) -> tuple[Cache | None, str]:
    """The cache a study was made with, known by its digest, or why there is none."""
    if not caches:
        return None, "The scans' voxels are not in this folder: start the dashboard with --data CACHE to see them."
    reasons = []
    for path in caches:
        try:
            cache = Cache(path)
        except MedsslError:
            reasons.append("one of --data is no finished cache")
            continue
        if cache.digest == run.data:
            return cache, ""
        reasons.append(f"a cache with digest {cache.digest[:12]} is of other data")
    return None, f"No cache given holds this study's data (digest {run.data[:12]}): {'; '.join(reasons)}."


def kept_masks(cell: Path) -> dict[str, np.ndarray]:
    """scan -> the mask this cell predicted; empty where it kept none (a first draw of a segmentation does)."""
    try:
        with np.load(cell / "masks.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*UNREADABLE, EOFError):
        return {}


def windows(modality: str) -> dict[str, tuple[float, float]]:
    """Presets, name -> (lowest, highest) value shown: HU for CT, else shares of the cache's own scale."""
    if modality == "CT":
        return {f"{name} ({c}/{w})": (c - w / 2, c + w / 2) for name, (c, w) in HU_WINDOWS.items()}
    return dict(SHARES)


def slices(shape: Sequence[int], plane: str) -> int:
    """How many slices a scan of this shape has in a plane; an image is one."""
    return int(shape[PLANES[plane]]) if len(shape) == 3 else 1


def fullest_slice(mask: np.ndarray | None, shape: Sequence[int], plane: str) -> int:
    """The slice that holds most of the mask, the middle one where there is none of it."""
    if len(shape) == 2:
        return 0
    axis = PLANES[plane]
    if mask is None or not mask.any():
        return shape[axis] // 2
    return int((mask > 0).sum(axis=tuple(i for i in range(3) if i != axis)).argmax())


def slice_of(array: np.ndarray, affine: np.ndarray, plane: str, index: int) -> Plane:
    """One slice of a RAS+ volume (X, Y, Z), the patient's right on the left, the head or the front up; an image
    (H, W) as it is, without letters, since nobody knows how it was taken."""
    steps_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if array.ndim == 2:
        return Plane(array, float(steps_mm[0]), float(steps_mm[1]))
    across, up = (axis for axis in range(3) if axis != PLANES[plane])
    pixels = np.take(array, index, axis=PLANES[plane]).T[::-1, ::-1]
    left, right = _ends(affine, across)[::-1]
    bottom, top = _ends(affine, up)
    return Plane(pixels, float(steps_mm[up]), float(steps_mm[across]), top, bottom, left, right)


def slice_in(cache: Cache, scan: str, plane: str, index: int) -> Plane:
    """`slice_of` a cached scan's first channel; of a volume only the slice is read."""
    shape = cache.shape(scan)
    if len(shape) == 2:
        return slice_of(cache.read(scan)[0], cache.affine(scan), plane, index)
    axis = PLANES[plane]
    start = [index if i == axis else 0 for i in range(3)]
    size = [1 if i == axis else n for i, n in enumerate(shape)]
    return slice_of(cache.read(scan, start, size)[0], cache.affine(scan), plane, 0)


def picture(plane: Plane, window: tuple[float, float], overlays: Sequence[Overlay] = ()) -> np.ndarray:
    """(rows, columns, 3) uint8: the slice through a window, as large in each direction as it is in mm."""
    low, high = window
    grey = np.clip((plane.pixels.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    size = _size_px(plane)
    drawn = np.asarray(Image.fromarray((255 * grey).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    colour = np.repeat(drawn[..., None].astype(np.float32), 3, axis=2)
    for overlay in overlays:
        mask = np.asarray(Image.fromarray(overlay.mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        for structure in np.unique(mask[mask > 0]):
            part = mask == structure
            part, paint = (_edge(part), OUTLINE) if overlay.outline else (part, structure_colour(int(structure)))
            colour[part] = (1 - overlay.opacity) * colour[part] + overlay.opacity * _rgb(paint)
    return np.rint(colour).astype(np.uint8)


def structure_colour(structure: int) -> str:
    """The colour a structure is filled with."""
    return COLOURS[(structure - 1) % len(COLOURS)]


def _size_px(plane: Plane) -> tuple[int, int]:
    """(width, height), the longer side the same for every scan."""
    height_mm, width_mm = plane.pixels.shape[0] * plane.row_mm, plane.pixels.shape[1] * plane.column_mm
    scale = LONG_SIDE_PX / max(height_mm, width_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def _ends(affine: np.ndarray, axis: int) -> tuple[str, str]:
    """The letters at the low and the high end of an axis: of the direction it runs along most."""
    way = affine[:3, axis]
    along = int(np.abs(way).argmax())
    low, high = LETTERS[along]
    return (low, high) if way[along] > 0 else (high, low)


def _edge(part: np.ndarray) -> np.ndarray:
    """The border of a region, two pixels wide, inside of it."""
    inner = part.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return part & ~inner


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
