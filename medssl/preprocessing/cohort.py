"""Which scans of a manifest make one cache, and on what grid: one number of dimensions, one kind of modality.

rows = choose_scans(manifest, dims=3, modality="MR")
settings = grid_settings(rows, spacing_mm=None, size=None, before={})      # spacing: by the cohort's fingerprint
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import frame_name
from medssl.preprocessing.fingerprint import target_spacing
from medssl.scans.modality import pooled_code

VERSION = 3


def choose_scans(rows: pd.DataFrame, dims: int | None, modality: str | None) -> pd.DataFrame:
    """The scans of one number of dimensions and one kind of modality; rejected rows stay. Raises MedsslError
    if mixed."""
    ok = rows.status == "ok"
    group = rows.modality.map(pooled_code)
    if dims is not None:
        ok &= rows.dims == dims
    if modality is not None:
        ok &= (rows.modality == modality) | (group == modality)
    ok = ok.astype(bool)
    if not ok.any():
        have = _counts(rows[rows.status == "ok"].groupby(["dims", "modality"]).size())
        raise MedsslError(f"no scan is left by dims={dims}, modality={modality}: the manifest holds {have}")
    if rows[ok].dims.nunique() > 1:
        raise MedsslError(
            f"the manifest mixes {_counts(rows[ok].dims.value_counts())} dimensions (dims: scans): expected one; "
            "choose with --dims 2 or --dims 3"
        )
    if group[ok].nunique() > 1:
        raise MedsslError(
            f"the manifest mixes modalities, {_counts(group[ok].value_counts())}: expected one; choose with --modality"
        )
    return rows[ok | (rows.status == "rejected")].reset_index(drop=True)


def _counts(counts: pd.Series) -> str:
    words = {key: " ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in counts.index}
    return ", ".join(f"{words[key]}: {number}" for key, number in counts.items())


def grid_settings(
    rows: pd.DataFrame, spacing_mm, size, before: dict[str, Any], frames: str = "sequence"
) -> dict[str, Any]:
    """What decides the voxels of the cache; `frames` stands in it only where it is no sequence. Raises MedsslError when an existing cache was begun with other
    settings."""
    ok = rows[rows.status == "ok"]
    dims = int(ok.dims.iloc[0])
    modality = pooled_code(ok.modality.iloc[0])
    _check_grid(dims, spacing_mm, size)
    if dims == 3 and spacing_mm is None:
        spacing_mm = before.get("spacing_mm") or target_spacing(ok)[0]
    if dims == 2 and size is None:
        size = before.get("size")
    settings = {
        "version": VERSION,
        "dims": dims,
        "modality": str(modality),
        "spacing_mm": [float(step) for step in spacing_mm] if dims == 3 else None,
        "size": [int(n) for n in size] if size else None,
    }
    if frames != "sequence":
        settings["frames"] = frames
    for name in settings | before:
        value = settings.get(name, "sequence")
        if before and before.get(name, "sequence") != value:
            raise MedsslError(
                f"this cache was begun with {name} {before.get(name, 'sequence')}, now it is {value}: expected the same; "
                "choose another --out, or delete the cache"
            )
    return settings


def _check_grid(dims: int, spacing_mm, size) -> None:
    if dims == 2 and spacing_mm is not None:
        raise MedsslError("spacing_mm has no effect on 2D images: expected size=(H, W), for example --size 224 224")
    if dims == 3 and size is not None:
        raise MedsslError("size has no effect on volumes: expected spacing_mm, for example --spacing-mm 1 1 1")
    for name, values in (("spacing_mm", spacing_mm), ("size", size)):
        if values is not None and (len(values) != dims or not all(np.isfinite(values)) or min(values) <= 0):
            raise MedsslError(f"{name} is {tuple(values)}: expected {dims} positive numbers")


def one_a_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each frame of a 4D scan, in place of its one: SCAN-000, SCAN-001, ..., each of the same patient."""
    several = (rows.status == "ok") & (rows.frames.fillna(1) > 1)
    counts = rows.frames.where(several, 1).fillna(1).astype(int)
    spread = rows.loc[rows.index.repeat(counts)].copy()
    numbers = spread.groupby(level=0).cumcount()
    is_frame = several.loc[spread.index].to_numpy()
    spread.loc[is_frame, ["frames", "channels"]] = 1
    names = [frame_name(scan, number) for scan, number in zip(spread.scan[is_frame], numbers[is_frame])]
    spread.loc[is_frame, "scan"] = names
    return spread.reset_index(drop=True)
