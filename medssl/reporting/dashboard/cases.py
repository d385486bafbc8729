"""What the page on cases shows: the cases of two arms, the worst first, and each as pictures or probabilities.

    listed = worst_first(study.cases[a][0], study.cases[b][0])        # the score of each case in two arms
    frames = scan_frames(cache, scan, Display("axial", 12, windows("CT")["lung (-600/1500)"]), True, masks)

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.reporting.dashboard.viewer import (
    Overlay,
    Plane,
    cached_slice,
    fullest_slices,
    part_of_slice,
    picture,
    slice_of,
)
from medssl.reporting.redaction import without_paths
from medssl.studies.arms import BASELINES
from medssl.studies.results import Cases, arrays

EXAMPLE_OPACITY = 0.35
THUMBNAIL_PX = 220


@dataclass(frozen=True)
class Display:
    """How a scan is shown: the plane and the slice, the window, the opacity of masks, an outline of the reference."""

    plane: str
    index: int
    window: tuple[float, float]
    opacity: float = 0.0
    outline: bool = False


@dataclass(frozen=True)
class Frame:
    """One picture: pixels (rows, columns, 3), the plane with the letters of its edges, and whether a mask lies on it."""

    pixels: np.ndarray
    plane: Plane
    masked: bool


@dataclass(frozen=True)
class Example:
    """A case of which an arm saved one slice: its rank (worst, median, best), its Dice and its picture."""

    rank: str
    dice: float
    frame: Frame


def budgets(study: ReviewedStudy) -> list[str]:
    """Return the budgets at which any arm has cases, the smallest first."""
    patients = dict(zip(study.main["budget_name"], study.main["patients"], strict=True))
    return sorted({key[2] for key in study.cases}, key=lambda name: patients.get(name, 0))


def draws(cases: Cases, budget: str) -> list[int]:
    """Return the draws of which any arm has cases at this budget."""
    return sorted({draw for key, frames in cases.items() if key[2] == budget for draw in frames})


def arms(cases: Cases, budget: str, draw: int) -> list[tuple[str, str]]:
    """Return (arm, mode) with cases in this draw: scratch first, the other baselines, then the pretrained arms."""
    with_cases = {key[:2] for key, frames in cases.items() if key[2] == budget and draw in frames}
    order = {name: place for place, name in enumerate(BASELINES)}
    return sorted(with_cases, key=lambda arm: (order.get(arm[0], len(order)), arm))


def case_scores(cases: pd.DataFrame) -> pd.Series:
    """Return scan -> Dice averaged over its structures, or the probability of the case's true class."""
    dice = [column for column in cases if str(column).startswith("dice.")]
    if dice:
        return cases.set_index("scan")[dice].mean(axis=1)
    probabilities = cases[[column for column in cases if str(column).startswith("p.")]].to_numpy()
    true_class = cases["label"].to_numpy(dtype=int)
    return pd.Series(probabilities[np.arange(len(cases)), true_class], index=cases["scan"])


def worst_first(a: pd.DataFrame, b: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return scan, patient and the scores `a` and `b`: the worst case of arm A first, those without a score last."""
    listed = a[["scan", "patient"]].assign(a=case_scores(a).to_numpy())
    if b is not None:
        listed["b"] = listed["scan"].map(case_scores(b))
    return listed.sort_values("a", kind="stable", na_position="last").reset_index(drop=True)


def class_probabilities(cases: pd.DataFrame, scan: str) -> tuple[dict[str, float], str]:
    """Return class -> probability of one case, and the name of its true class."""
    row = cases[cases["scan"] == scan].iloc[0]
    names = [str(column).removeprefix("p.") for column in cases if str(column).startswith("p.")]
    return {name: float(row[f"p.{name}"]) for name in names}, names[int(row["label"])]


def cache_of(run: Run, caches: Sequence[Path]) -> tuple[Cache | None, str]:
    """Return the cache that a study was made with, recognised by its digest, or the reason why there is none."""
    caches = [path for path in caches if not _is_manifest(path)]
    if not caches:
        return None, "The scans themselves are not in this folder. To see them, start the dashboard with --data CACHE."
    reasons = []
    for path in caches:
        try:
            cache = Cache(path)
        except MedsslError as error:
            reasons.append(without_paths(str(error)))
            continue
        if cache.digest == run.data:
            return cache, ""
        reasons.append(f"the cache with digest {cache.digest[:12]} holds other data")
    return (
        None,
        f"No cache given with --data holds the data of this study (digest {run.data[:12]}): {'; '.join(reasons)}.",
    )


def scan_notes(cache: Cache, scan: str) -> str:
    """Return what was noted about a scan when it was read; empty where nothing was."""
    notes = cache.manifest.set_index("scan")["notes"][scan]
    return notes if isinstance(notes, str) else ""


def scan_frames(
    cache: Cache, scan: str, display: Display, segmented: bool, masks: Sequence[np.ndarray | None] = ()
) -> list[Frame]:
    """Draw one slice of a scan with its reference, then once for each mask, with the outline of the reference.

    Only that slice of the scan and of its reference is read.

    Args:
        cache: The cache that holds the scan.
        scan: The id of the scan.
        display: How to show it.
        segmented: Whether the scan has a reference mask.
        masks: The part of each predicted mask that the slice needs (see `viewer.part_of_slice`); None stands for one that
            was not saved, whose frame shows the image alone.
    """
    image, affine = cached_slice(cache, scan, display.plane, display.index), cache.affine(scan)

    def layer(mask: np.ndarray, opacity: float, outline: bool = False) -> Overlay:
        return Overlay(slice_of(mask, affine, display.plane, 0).pixels, opacity, outline)

    def frame(*layers: Overlay) -> Frame:
        return Frame(picture(image, display.window, layers), image, bool(layers))

    if not segmented:
        return [frame()]
    reference = cache.read_mask(scan, *part_of_slice(cache.shape(scan), display.plane, display.index))
    outline = [layer(reference, 1.0, outline=True)] if display.outline else []
    predictions = [frame() if mask is None else frame(layer(mask, display.opacity), *outline) for mask in masks]
    return [frame(layer(reference, display.opacity)), *predictions]


def thumbnail(cache: Cache, scan: str, plane: str, window: tuple[float, float]) -> Frame:
    """Draw the middle slice of a scan, small; only that slice is read."""
    middle = fullest_slices(None, cache.shape(scan))[plane]
    image = cached_slice(cache, scan, plane, middle)
    return Frame(picture(image, window, long_side_px=THUMBNAIL_PX), image, False)


def saved_examples(study: ReviewedStudy, key: Key, draw: int) -> list[Example]:
    """Return the slices that a cell saved of its worst, median and best case; empty where it saved none."""
    slices = arrays(study.cell_folder(key, draw) / "examples.npz", "image")
    data_spec = DataSpec.from_record(study.run.config)
    affine = np.diag([*(*data_spec.spacing_mm, 1.0)[:3], 1.0])
    return [
        Example(rank, float(slices[f"dice.{n}"]), _example_frame(slices, n, affine, data_spec.dims == 3))
        for n, rank in enumerate(("worst", "median", "best"))
        if f"image.{n}" in slices
    ]


def _is_manifest(path: Path) -> bool:
    """Whether this is the folder of a manifest, which the page Cohort shows and which holds no voxels."""
    return (path / "manifest.parquet").is_file() and not (path / "cache.json").is_file()


def _example_frame(slices: Mapping[str, np.ndarray], n: int, affine: np.ndarray, volume: bool) -> Frame:
    image, prediction, reference = (
        slice_of(slices[f"{kind}.{n}"][:, :, None] if volume else slices[f"{kind}.{n}"], affine, "axial", 0)
        for kind in ("image", "prediction", "reference")
    )
    low, high = np.percentile(image.pixels, [1, 99])
    layers = [Overlay(prediction.pixels, EXAMPLE_OPACITY), Overlay(reference.pixels, 1.0, outline=True)]
    return Frame(picture(image, (low, high), layers), image, True)
