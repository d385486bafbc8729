"""Flags on scans that can be read but may not be wanted: fixed words in the manifest's column `flags`, to filter on.

`index` sets those that headers show, `prepare` adds those that voxels show; a scan without a flag has None. To leave some out:

    medssl prepare MANIFEST --out CACHE --leave-out "few slices" "mostly air"
    manifest[~has_flag(manifest, "few slices")]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError, nearest
from medssl.scans.scan import Header, Scan

FEW_SLICES = 8  # a volume with an axis shorter than this
SPACING_MM = (0.1, 10.0)  # of any axis of a volume
ANISOTROPY = 10.0  # coarsest over finest spacing
CLIPPED_SHARE = 0.01  # of voxels exactly at the highest value, or at the lowest the type can hold
AIR_SHARE = 0.95  # of voxels exactly at the lowest value
FEW_VALUES = 16  # distinct ones; a label map or a thresholded image has fewer
SAMPLED_VOXELS = 1 << 20  # voxels in which values are counted
SIDES_UNKNOWN = ("pixdim", "spacings", "no space")  # affine rules that do not tell left from right
BURNED_IN = "burned-in text risk"
DUPLICATE = "duplicate of"
FLAGS = (
    "few slices",
    "extreme spacing",
    "laterality unknown",
    BURNED_IN,
    "clipped range",
    "mostly air",
    "few values",
    DUPLICATE,
)
SEPARATOR = "; "


def header_flags(header: Header) -> list[str]:
    """The flags that a header alone shows."""
    volume = len(header.shape) == 3
    steps = header.spacing_mm
    extreme = min(steps) < SPACING_MM[0] or max(steps) > SPACING_MM[1] or max(steps) > ANISOTROPY * min(steps)
    flags = {
        "few slices": volume and min(header.shape) < FEW_SLICES,
        "extreme spacing": volume and extreme,
        "laterality unknown": volume and header.affine_rule in SIDES_UNKNOWN,
        BURNED_IN: header.burned_in_risk is not None,
    }
    return [flag for flag, applies in flags.items() if applies]


def voxel_flags(scan: Scan) -> list[str]:
    """The flags that the voxels show, before any scaling; shares are of about a million of them."""
    low, high = scan.array.min(), scan.array.max()
    floor = np.iinfo(scan.array.dtype).min if scan.array.dtype.kind == "i" else None
    some = sample_voxels(scan.array, SAMPLED_VOXELS)
    clipped = np.mean(some == high) > CLIPPED_SHARE or (low == floor and np.mean(some == low) > CLIPPED_SHARE)
    flags = {
        "clipped range": clipped,
        "mostly air": np.mean(some == low) > AIR_SHARE,
        "few values": len(np.unique(some)) < FEW_VALUES,
    }
    return [flag for flag, applies in flags.items() if applies]


def join_flags(before: object, flags: Iterable[str] = ()) -> str | None:
    """The flags of a manifest's cell, which may be empty, and more flags as one text, each once; None for none."""
    words = [*(before.split(SEPARATOR) if isinstance(before, str) else ()), *flags]
    return SEPARATOR.join(dict.fromkeys(words)) or None


def flag_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with `duplicate of SCAN` on every usable scan whose voxels an earlier one has, byte for byte."""
    ok = manifest[(manifest.status == "ok") & manifest.digest.notna()]
    first = ok.groupby("digest", sort=False)["scan"].transform("first")
    flags = manifest["flags"].copy()
    for row in ok.index[first != ok["scan"]]:
        flags[row] = join_flags(flags[row], [f"{DUPLICATE} {first[row]}"])
    return manifest.assign(flags=flags)


def has_flag(manifest: pd.DataFrame, *wanted: str) -> pd.Series:
    """True where a scan has one of these flags.

    Raises:
        MedsslError: A word is not a flag.
    """
    check_flags(wanted)
    texts = manifest["flags"].map(lambda text: text.split(SEPARATOR) if isinstance(text, str) else [])
    return texts.map(lambda flags: any(flag.startswith(tuple(wanted)) for flag in flags)).astype(bool)


def check_flags(words: Iterable[str]) -> None:
    """Raise MedsslError for a word that is not a flag."""
    for word in words:
        if word not in FLAGS:
            raise MedsslError(f"{word!r} is not a flag of a scan{nearest(word, FLAGS)}")


def reject_flagged(manifest: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """The manifest with every usable scan that has one of these flags rejected, the flags as the reason."""
    matches = has_flag(manifest, *wanted) & (manifest.status == "ok") if wanted else pd.Series(False, manifest.index)
    reasons = "left out as asked, flagged: " + manifest["flags"][matches].astype(str)
    manifest = manifest.copy()
    manifest.loc[matches, "status"] = "rejected"
    manifest.loc[matches, "reason"] = reasons
    return manifest


def sample_voxels(array: np.ndarray, count: int) -> np.ndarray:
    """About `count` voxels of (C, *S) or a few times as many, on an even grid over the scan; all of a smaller one."""
    step = max(1, int((array.size / count) ** (1 / (array.ndim - 1))))
    return array[(slice(None), *[slice(None, None, step)] * (array.ndim - 1))]
