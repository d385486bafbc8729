"""The tables on disk: the manifest's columns, Parquet in and out, and the two questions asked of them.

rejects_table(Path("manifest"))             # what was left out and why, with the files: for the terminal
where(Path("manifest"), "85f3706036c9")     # the files that a scan is made of
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medssl.errors import MedsslError, nearest

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "scan",
    "patient",
    "modality",
    "format",
    "dims",
    "shape",
    "channels",
    "frames",
    "spacing_mm",
    "orientation",
    "slice_axis",
    "corrected",
    "manufacturer",
    "site",
    "digest",
    "has_mask",
    "status",
    "reason",
    "notes",
)
WHOLE_NUMBERS = ("dims", "channels", "frames", "slice_axis")


def rejects_table(out: Path) -> Table:
    """The scans that were rejected, with their files: for the terminal of the one who indexed, not for a
    report."""
    from rich.table import Table

    out = Path(out)
    rejects = read_table(out / "rejects.parquet").merge(read_table(out / "sources.parquet"), on="scan")
    table = Table("scan", "file", "reason", title=f"{len(rejects)} rejected")
    for row in rejects.itertuples():
        more = f" and {len(row.files) - 1} more" if len(row.files) > 1 else ""
        table.add_row(row.scan, _unmarked(f"{row.files[0]}{more}"), _unmarked(row.reason))
    return table


def where(out: Path, scan: str) -> list[str]:
    """The files that a scan is made of. Raises MedsslError for a pseudonym that is not in the manifest."""
    sources = read_table(Path(out) / "sources.parquet").set_index("scan")
    if scan not in sources.index:
        raise MedsslError(f"scan {scan!r} is not in this manifest{nearest(scan, sources.index)}")
    return list(sources.loc[scan, "files"])


def manifest_frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as the manifest: every column of the contract, then the labels; whole numbers stay whole."""
    frame = pd.DataFrame(rows)
    label_columns = [name for name in frame.columns if name.startswith("label.")]
    frame = frame.reindex(columns=[*COLUMNS, *label_columns])
    for name in COLUMNS:
        frame[name] = frame[name].astype("Int64" if name in WHOLE_NUMBERS else object)
    frame["has_mask"] = frame["has_mask"].astype(bool)
    for name in label_columns:
        values = frame[name].dropna()
        if len(values) and values.map(lambda value: isinstance(value, (int, np.integer))).all():
            frame[name] = frame[name].astype("Int64")
        elif values.map(lambda value: isinstance(value, str)).any():
            frame[name] = frame[name].map(lambda value: None if value is None or pd.isna(value) else str(value))
    return _none_for_empty(frame)


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written; an empty cell of text is None."""
    return _none_for_empty(pd.read_parquet(path))


def to_parquet(frame: pd.DataFrame) -> bytes:
    """A table as Parquet bytes, without whatever hangs on it in memory."""
    buffer = io.BytesIO()
    bare = frame.copy(deep=False)
    bare.attrs = {}
    bare.to_parquet(buffer, index=False)
    return buffer.getvalue()


def refuse_nothing(manifest: pd.DataFrame) -> None:
    """Raises MedsslError, with the commonest reason, when no scan of a manifest can be used."""
    if (manifest.status == "ok").any():
        return
    reasons = manifest.reason.value_counts()
    raise MedsslError(
        f"none of {len(manifest)} scans can be used; most often ({reasons.iloc[0]} times): {reasons.index[0]}"
    )


def _none_for_empty(frame: pd.DataFrame) -> pd.DataFrame:
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            column = frame[name].astype(object)
            frame[name] = column.where(column.notna(), None)
    return frame


def _unmarked(text: str) -> str:
    from rich.markup import escape

    return escape(text)
