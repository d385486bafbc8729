"""The fingerprint of a cohort, and what follows from it: the spacing that volumes are resampled to.

After nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z): the target is the median spacing; where the coarsest
axis is more than 3 times coarser than the others, and has more than 3 times fewer voxels, that axis gets the 10th
percentile of its spacings instead, so that the finer scans of the cohort keep their detail. Deviations: axes are the
patient's (R, A, S), not the file's; the target is rounded to 0.01 mm; intensities are those of body voxels, since there
are no labels, on the scale of the cache (CT: HU; MR: 0 to 1 between each scan's own 0.5 and 99.5 percentiles). They inform
the reader: nothing is clipped or shifted by them.

    about = fingerprint(scans, settings, intensities)         # `fingerprint.json` of a cache; `medssl fingerprint` shows it
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from medssl.datasets.quality import SAMPLED_VOXELS, sample_voxels
from medssl.preprocessing.normalize import body_mask
from medssl.scans.modality import family_of

ANISOTROPIC = 3.0  # nnU-Net's threshold
COARSE_PERCENTILE = 10
QUANTILES = np.linspace(0, 1, 201)  # of each scan; the cohort's percentiles are taken over all of these
SAMPLED = 10_000  # voxels of a scan, as nnU-Net takes them
AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
SCALES = {
    "CT": "int16 HU, as measured; windows are views",
    "image": "float16, 8-bit values divided by 255; others as volumes",
    "volume": "float16, each scan's 0.5 and 99.5 percentiles to 0 and 1, clipped to -1 and 4",
}


def target_spacing(scans: pd.DataFrame) -> tuple[list[float], str]:
    """The spacing that a cohort's volumes are resampled to.

    Args:
        scans: The usable volumes of a manifest.

    Returns:
        mm along R, A, S, and a description of the rule that gave them.
    """
    spacings, sizes = _along_patient(scans)
    target, size = np.median(spacings, axis=0), np.median(sizes, axis=0)
    rule = "the median of each axis"
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    if target[coarse] > ANISOTROPIC * target[others].max() and ANISOTROPIC * size[coarse] < size[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], COARSE_PERCENTILE), target[others].max())
        rule = f"the median, and along {'RAS'[coarse]} (anisotropic) the {COARSE_PERCENTILE}th percentile"
    return [max(0.01, round(float(step), 2)) for step in target], rule


def intensity_statistics(array: np.ndarray, modality: str) -> dict[str, Any] | None:
    """Mean, standard deviation and quantiles of about 10,000 body voxels of a cached scan; None for a scan without body."""
    array = sample_voxels(array, SAMPLED_VOXELS)
    voxels = array[body_mask(array, family_of(modality))]
    if not voxels.size:
        return None
    voxels = voxels[:: max(1, voxels.size // SAMPLED)].astype(np.float64)
    quantiles = np.quantile(voxels, QUANTILES).astype("<f4").tobytes()
    return {"mean": float(voxels.mean()), "std": float(voxels.std()), "quantiles": quantiles}


def fingerprint(scans: pd.DataFrame, settings: dict[str, Any], intensities: Iterable[dict | None]) -> dict[str, Any]:
    """What is known of a cohort and what was decided from it, to be written as JSON.

    Args:
        scans: The usable scans of the manifest, as index wrote them.
        settings: How they are prepared, see `plan.cache_settings`.
        intensities: `intensity_statistics` of each scan in order; None for one that was not measured.
    """
    dims = settings["dims"]
    by_modality: dict[str, list[dict]] = defaultdict(list)
    for modality, statistics in zip(scans.modality, intensities):
        if statistics is not None:
            by_modality[modality].append(statistics)
    about: dict[str, Any] = {"scans": len(scans), "dims": dims, "modality": settings["modality"]}
    if dims == 3:
        spacings, sizes = _along_patient(scans)
        median = np.median(spacings, axis=0)
        about["spacing_mm"] = _distribution(spacings)
        about["size_voxels"] = _distribution(sizes)
        about["anisotropy"] = _rounded(median.max() / median.min())
    else:
        about["size_voxels"] = _distribution(np.array([list(shape) for shape in scans["shape"]]))
    about["intensity"] = {name: _pooled(measured) for name, measured in sorted(by_modality.items())}
    about["decided"] = _decided(scans, settings)
    return about


def _along_patient(scans: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(scans, 3) mm and voxels along R, A, S; each scan's orientation gives the order of its axes."""
    order = {letters: np.argsort([AXES[letter] for letter in letters]) for letters in scans.orientation.unique()}
    spacings, sizes = (np.array([list(values) for values in scans[name]]) for name in ("spacing_mm", "shape"))
    axes = np.array([order[letters] for letters in scans.orientation])
    return np.take_along_axis(spacings, axes, 1), np.take_along_axis(sizes, axes, 1)


def _distribution(values: np.ndarray) -> dict[str, list[float]]:
    """Of (scans, axes) values, for each axis."""
    statistics = {
        "minimum": values.min(axis=0),
        "10th percentile": np.percentile(values, 10, axis=0),
        "median": np.median(values, axis=0),
        "90th percentile": np.percentile(values, 90, axis=0),
        "maximum": values.max(axis=0),
    }
    return {name: [_rounded(value) for value in row] for name, row in statistics.items()}


def _pooled(scans: list[dict[str, Any]]) -> dict[str, float]:
    """The statistics of all scans together; every scan has the same weight, as in nnU-Net."""
    means, stds = (np.array([scan[name] for scan in scans]) for name in ("mean", "std"))
    points = np.concatenate([np.frombuffer(scan["quantiles"], "<f4") for scan in scans])
    low, median, high = np.percentile(points, (0.5, 50, 99.5))
    std = np.sqrt(max(0.0, np.mean(stds**2 + means**2) - means.mean() ** 2))
    pooled = {"mean": means.mean(), "std": std, "0.5th percentile": low, "median": median, "99.5th percentile": high}
    return {"scans": len(scans), **{name: _rounded(value) for name, value in pooled.items()}}


def _decided(scans: pd.DataFrame, settings: dict[str, Any]) -> dict[str, Any]:
    kind = "CT" if settings["modality"] == "CT" else "image" if settings["dims"] == 2 else "volume"
    decided = {"intensity": SCALES[kind], "frames": settings.get("frames", "sequence")}
    if settings["dims"] == 2:
        return decided | {"size": settings["size"] or "each image's own"}
    target, rule = target_spacing(scans)
    if target != settings["spacing_mm"]:
        rule = f"given, or decided before; now it would be {target}: {rule}"
    return decided | {"spacing_mm": settings["spacing_mm"], "spacing_rule": rule}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
