"""What prepare would make of a manifest, and why, without making it.

medssl plan MANIFEST [--spacing-mm 1 1 1]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.preprocessing.cache import read_index
from medssl.preprocessing.cohort import choose_scans, grid_settings
from medssl.preprocessing.fingerprint import fingerprint
from medssl.preprocessing.store import look


def plan(
    manifest: Path,
    spacing_mm: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
    dims: int | None = None,
    modality: str | None = None,
    scans: int = 8,
) -> list[str]:
    """What prepare would make of a manifest, and why; nothing is written.

    spacing_mm, size, dims, modality: as for prepare. scans: how many are read in full for the intensities.
    Raises MedsslError as prepare does for a mixed cohort or options that do not fit.
    """
    rows, sources = read_index(Path(manifest))
    rows = choose_scans(rows, dims, modality)
    rows = rows[rows.status == "ok"].reset_index(drop=True)
    settings = grid_settings(rows, spacing_mm, size, {})
    chosen = set(np.linspace(0, len(rows) - 1, max(1, min(scans, len(rows)))).astype(int))
    looked = (
        look(row, sources.loc[row["scan"]].to_dict(), settings) if number in chosen else None
        for number, row in enumerate(rows.to_dict("records"))
    )
    return _lines(fingerprint(rows, settings, looked))


def _lines(about: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in about.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            shown = " x ".join(f"{one:g}" for one in value) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines
