"""Scans whose format does not say their modality, and whose values look like Hounsfield units: the user is asked.

    notices += hounsfield_notices(manifest, read_table(out / SOURCES))

Kept as OT, a CT is scaled to 0..1 by its own percentiles: it loses its units, its windows and the meaning of air.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from medssl.core.errors import ScanError
from medssl.datasets.notices import Notice
from medssl.datasets.quality import SAMPLED_VOXELS, sample_voxels
from medssl.scans.read import read_scan

SCANS_READ = 8  # evenly chosen; the voxels of a whole collection would take hours
UNKNOWN = "OT"
AIR_RANGE, TISSUE_RANGE = (-1100, -900), (-200, 300)  # HU
LEAST_SHARE = 0.02  # of voxels in each of the two ranges


def looks_like_hounsfield_units(array: np.ndarray) -> bool:
    """Return whether some of the values are those of air, and some those of soft tissue, in HU; array: of any shape."""
    values = sample_voxels(array, SAMPLED_VOXELS)
    shares = (np.mean((values >= low) & (values <= high)) for low, high in (AIR_RANGE, TISSUE_RANGE))
    return all(share >= LEAST_SHARE for share in shares)


def hounsfield_notices(manifest: pd.DataFrame, sources: pd.DataFrame) -> list[Notice]:
    """Read a few of the usable volumes of unknown modality, and ask where their values look like those of CT.

    Args:
        manifest: The manifest.
        sources: The files of its scans.
    """
    volumes = (manifest["status"] == "ok") & (manifest["modality"] == UNKNOWN) & (manifest["dims"] == 3)
    scans = manifest.loc[volumes & (manifest["format"] != "dicom"), "scan"]
    chosen = scans.iloc[np.unique(np.linspace(0, len(scans) - 1, SCANS_READ).astype(int))] if len(scans) else scans
    verdicts = list(_verdicts(sources.set_index("scan").loc[chosen]))
    if not any(verdicts):
        return []
    text = (
        f"{sum(verdicts)} of {len(verdicts)} volumes that were looked at hold values like the Hounsfield units of CT, but "
        f"no modality is given for {len(scans)} scans, which are kept as {UNKNOWN}, without units: give --modality CT, or a "
        "column modality in the labels"
    )
    return [Notice(text)]


def _verdicts(sources: pd.DataFrame) -> Iterator[bool]:
    for scan, source in sources.iterrows():
        try:
            read = read_scan(list(source["files"]), source["format"], str(scan), "", member=source["member"])
        except ScanError:  # it says nothing about its units; `prepare` rejects it with the reason
            continue
        yield looks_like_hounsfield_units(read.array)
