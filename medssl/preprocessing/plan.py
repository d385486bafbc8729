"""What prepare makes of a manifest: which scans go into one cache, and on which grid.

scans = choose_scans(manifest, dims=3, modality="MR")
settings = cache_settings(scans, spacing_mm=None, size=None)      # the spacing follows from the cohort's fingerprint

medssl fingerprint MANIFEST [--spacing-mm 1 1 1]                  # shows all this, and writes nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import frame_name, read_index
from medssl.preprocessing.fingerprint import fingerprint, target_spacing
from medssl.preprocessing.store import measure_scan
from medssl.scans.modality import pooled_code

CACHE_FORMAT = 4  # a change of the voxels or the files of a cache makes every older one unusable


def show_fingerprint(
    manifest: Path,
    spacing_mm: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
    dims: int | None = None,
    modality: str | None = None,
    scans: int = 8,
) -> list[str]:
    """Show what prepare would make of a manifest, and why; nothing is written.

    Args:
        manifest: The folder that `medssl index` wrote.
        spacing_mm: Spacing in mm that volumes would be resampled to, along R, A, S; by default the cohort decides.
        size: Height and width that images would be resampled to; by default each keeps its own.
        dims: Take only the images (2) or only the volumes (3) of a manifest that holds both.
        modality: Take only the scans of this modality (DICOM's code), where a manifest holds several.
        scans: Number of scans that are read in full to measure intensities.

    Returns:
        The lines of text.

    Raises:
        MedsslError: The manifest mixes dimensions or modalities, or the options do not fit its scans.
    """
    indexed, sources = read_index(Path(manifest))
    chosen = choose_scans(indexed, dims, modality)
    chosen = chosen[chosen.status == "ok"].reset_index(drop=True)
    settings = cache_settings(chosen, spacing_mm, size)
    measured = set(np.linspace(0, len(chosen) - 1, max(1, min(scans, len(chosen)))).astype(int))
    intensities = (
        measure_scan(row, sources.loc[row["scan"]].to_dict(), settings) if number in measured else None
        for number, row in enumerate(chosen.to_dict("records"))
    )
    return list(_lines(fingerprint(chosen, settings, intensities)))


def choose_scans(manifest: pd.DataFrame, dims: int | None, modality: str | None) -> pd.DataFrame:
    """The scans of a manifest that go into one cache: of one number of dimensions and one kind of modality.

    Args:
        manifest: The manifest.
        dims: 2 or 3, where the manifest holds both.
        modality: DICOM's code, where the manifest holds several.

    Returns:
        The usable scans that fit, and all rejected ones.

    Raises:
        MedsslError: No scan fits, or those that do are still of several kinds.
    """
    ok = manifest.status == "ok"
    pooled = manifest.modality.map(pooled_code)
    if dims is not None:
        ok &= manifest.dims == dims
    if modality is not None:
        ok &= (manifest.modality == modality) | (pooled == modality)
    ok = ok.astype(bool)
    if not ok.any():
        available = _counts(manifest[manifest.status == "ok"].groupby(["dims", "modality"]).size())
        raise MedsslError(f"no scan is left by dims={dims}, modality={modality}: the manifest holds {available}")
    if manifest[ok].dims.nunique() > 1:
        raise MedsslError(
            f"the manifest mixes {_counts(manifest[ok].dims.value_counts())} dimensions (dims: scans): expected one; "
            "choose with --dims 2 or --dims 3"
        )
    if pooled[ok].nunique() > 1:
        raise MedsslError(
            f"the manifest mixes modalities, {_counts(pooled[ok].value_counts())}: expected one; choose with --modality"
        )
    return manifest[ok | (manifest.status == "rejected")].reset_index(drop=True)


def cache_settings(
    scans: pd.DataFrame,
    spacing_mm: Sequence[float] | None,
    size: Sequence[int] | None,
    previous: Mapping[str, Any] | None = None,
    frames: str = "sequence",
) -> dict[str, Any]:
    """What decides the voxels of a cache, as `cache.json` holds it.

    Args:
        scans: The scans that `choose_scans` returned.
        spacing_mm: Spacing of volumes; by default the previous one, else the cohort's own.
        size: (H, W) of images; by default the previous one, else each image's own.
        previous: The settings that the cache was begun with.
        frames: "sequence" or "each"; recorded only where it is "each".

    Raises:
        MedsslError: The settings do not fit the scans, or the cache was begun with other ones.
    """
    previous = previous or {}
    ok = scans[scans.status == "ok"]
    dims = int(ok.dims.iloc[0])
    _check_grid(dims, spacing_mm, size)
    if dims == 3 and spacing_mm is None:
        spacing_mm = previous.get("spacing_mm") or target_spacing(ok)[0]
    if dims == 2 and size is None:
        size = previous.get("size")
    settings = {
        "version": CACHE_FORMAT,
        "dims": dims,
        "modality": str(pooled_code(ok.modality.iloc[0])),
        "spacing_mm": [float(step) for step in spacing_mm] if spacing_mm else None,
        "size": [int(n) for n in size] if size else None,
    }
    if frames != "sequence":
        settings["frames"] = frames
    if previous:
        _check_unchanged(settings, previous)
    return settings


def check_format(cache: Path, about: Mapping[str, Any]) -> None:
    """Raise MedsslError unless a cache has the format of this version of medssl.

    Args:
        cache: Folder of the cache.
        about: What its `cache.json` holds.
    """
    stored_format = about.get("settings", {}).get("version", "unknown")
    if stored_format != CACHE_FORMAT:
        writer = f"medssl {about['medssl']}" if "medssl" in about else "another version of medssl"
        raise MedsslError(
            f"{cache.name} is a cache of format {stored_format}, made by {writer}: expected format {CACHE_FORMAT}; prepare the "
            "manifest into a new folder (medssl prepare MANIFEST --out NEW), or use that version of medssl"
        )


def one_row_per_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """A row for each frame of a 4D scan, in place of its one: SCAN-000, SCAN-001, ..., each of the same patient."""
    is_sequence = (manifest.status == "ok") & (manifest.frames.fillna(1) > 1)
    counts = manifest.frames.where(is_sequence, 1).fillna(1).astype(int)
    repeated = manifest.loc[manifest.index.repeat(counts)].copy()
    numbers = repeated.groupby(level=0).cumcount()
    is_frame = is_sequence.loc[repeated.index].to_numpy()
    repeated.loc[is_frame, ["frames", "channels"]] = 1
    names = [frame_name(scan, number) for scan, number in zip(repeated.scan[is_frame], numbers[is_frame])]
    repeated.loc[is_frame, "scan"] = names
    return repeated.reset_index(drop=True)


def _counts(counts: pd.Series) -> str:
    names = {key: " ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in counts.index}
    return ", ".join(f"{names[key]}: {number}" for key, number in counts.items())


def _check_grid(dims: int, spacing_mm: Sequence[float] | None, size: Sequence[int] | None) -> None:
    if dims == 2 and spacing_mm is not None:
        raise MedsslError("spacing_mm has no effect on 2D images: expected size=(H, W), for example --size 224 224")
    if dims == 3 and size is not None:
        raise MedsslError("size has no effect on volumes: expected spacing_mm, for example --spacing-mm 1 1 1")
    options: dict[str, Sequence[float] | None] = {"spacing_mm": spacing_mm, "size": size}
    for name, values in options.items():
        if values is not None and (len(values) != dims or not all(np.isfinite(values)) or min(values) <= 0):
            raise MedsslError(f"{name} is {tuple(values)}: expected {dims} positive numbers")


def _check_unchanged(settings: Mapping[str, Any], previous: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*settings, *previous]):
        before, now = previous.get(name, "sequence"), settings.get(name, "sequence")  # only `frames` may be absent
        if before != now:
            raise MedsslError(
                f"this cache was begun with {name} {before}, now it is {now}: expected the same; choose another --out, or "
                "delete the cache"
            )


def _lines(about: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in about.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            shown = " x ".join(f"{one:g}" for one in value) if isinstance(value, list) else value
            yield f"{indent}{name}: {shown}"
