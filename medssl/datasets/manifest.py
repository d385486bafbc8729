"""The tables on disk: the manifest's columns, Parquet in and out, the names of frames, and what is asked of the tables.

rejects_table(Path("manifest"))                    # what was left out and why, with the files: for the terminal
source_files(Path("manifest"), "85f3706036c9")     # the files that a scan is made of
frame_name("85f3706036c9", 17)                     # "85f3706036c9-017", the 18th frame of a 4D scan
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medssl.core.atomic import atomic_file
from medssl.core.errors import MedsslError, nearest, visible

if TYPE_CHECKING:
    from rich.table import Table

PSEUDONYM_KEY = "pseudonym_key"  # the column with the fingerprint of the key that patients are named with
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
    "affine_rule",
    "qform_apart_mm",
    "flags",
    "status",
    "reason",
    "notes",
    PSEUDONYM_KEY,
)
SOURCES = pa.schema(
    {
        "scan": pa.string(),
        "files": pa.list_(pa.string()),
        "format": pa.string(),
        "member": pa.string(),
        "mask": pa.string(),
        "correct": pa.string(),
    }
)
ROWS_AT_ONCE = 1 << 13
LARGEST_ROWS, LARGEST_BYTES = 20_000_000, 8 << 30  # of a table that is read
WHOLE_NUMBERS = ("dims", "channels", "frames", "slice_axis")
NUMBERS = ("qform_apart_mm",)
FRAME_SEPARATOR = "-"  # pseudonyms are hexadecimal
PSEUDONYM = re.compile(r"[0-9a-f]{12}")
ID_FORMS = {"scan": re.compile(rf"{PSEUDONYM.pattern}(-\d{{3,}})?")}
ID_FORMS |= dict.fromkeys(("patient", "site", PSEUDONYM_KEY), PSEUDONYM)


def rejects_table(out: Path) -> Table:
    """The scans that were rejected, with their files: for the user's own terminal, never for a report."""
    from rich.table import Table
    from rich.text import Text

    out = Path(out)
    rejects = read_table(out / "rejects.parquet").merge(read_table(out / "sources.parquet"), on="scan")
    table = Table("scan", "file", "reason", title=f"{len(rejects)} rejected")
    for row in rejects.itertuples():
        more = f" and {len(row.files) - 1} more" if len(row.files) > 1 else ""
        table.add_row(row.scan, Text(visible(f"{row.files[0]}{more}")), Text(visible(row.reason)))
    return table


def source_files(out: Path, scan: str) -> list[str]:
    """The files that a scan is made of.

    Args:
        out: A manifest, or a folder that `medssl predict` or `medssl embed` wrote.
        scan: The scan's pseudonym, or that of one of its frames.

    Raises:
        MedsslError: The folder is another one, or the pseudonym is not in its manifest.
    """
    places = [folder / "sources.parquet" for folder in (Path(out), Path(out) / "manifest")]
    listed = next((place for place in places if place.exists()), None)
    if listed is None:
        raise MedsslError(
            f"{out} holds no sources.parquet: expected the folder that medssl index wrote (a cache names no file)"
        )
    sources = read_table(listed).set_index("scan")
    if scan_of_frame(scan) not in sources.index:
        raise MedsslError(f"scan {scan!r} is not in this manifest{nearest(scan, sources.index)}")
    return list(sources.loc[scan_of_frame(scan), "files"])


def frame_name(scan: str, number: int) -> str:
    """The name of one frame of a 4D scan, which is prepared as a scan of its own.

    Args:
        scan: Pseudonym of the 4D scan.
        number: Number of the frame, from 0 on.
    """
    return f"{scan}{FRAME_SEPARATOR}{number:03d}"


def scan_of_frame(name: str) -> str:
    """The scan that a frame belongs to; the name of a whole scan as it is."""
    return name.partition(FRAME_SEPARATOR)[0]


class Columns:
    """Rows added one by one, stored by column; equal cells are one object, so that a million rows fit in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.lists: dict[str, list[object]] = {name: [] for name in COLUMNS}

    def add(self, row: dict[str, object]) -> None:
        """Add a row; columns it does not have are None."""
        for name in row:  # in the order they come, not a set's: the split reads the label columns in their order
            if name not in self.lists:
                self.lists[name] = [None] * self.count
        for name, cells in self.lists.items():
            value = row.get(name)
            if isinstance(value, list):
                cells.append(_interned_list(name, tuple(value)))
            else:
                cells.append(_interned_text(value) if isinstance(value, str) else value)
        self.count += 1


@functools.lru_cache(4096)
def _interned_list(name: str, values: tuple) -> list:
    return list(values)


@functools.lru_cache(4096)
def _interned_text(text: str) -> str:
    return text


class RowGroups:
    """A Parquet file written a group of rows at a time; the file appears under its name only when it is complete.

    with RowGroups(path, schema) as table: table.add({"scan": "a3f0", ...})

    Args:
        path: The file to write.
        schema: Columns of the table and their types.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._rows: list[dict[str, object]] = []

    def add(self, row: dict[str, object]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def __enter__(self) -> RowGroups:
        self._open = contextlib.ExitStack()
        file = self._open.enter_context(atomic_file(self._path))
        self._writer = self._open.enter_context(pq.ParquetWriter(file, self._schema))
        return self

    def __exit__(self, kind, error, trace) -> bool | None:
        if kind is None:
            self._flush()
        return self._open.__exit__(kind, error, trace)


def manifest_frame(rows: Columns) -> pd.DataFrame:
    """The manifest with every column of the contract, then the labels; empties `rows`; whole numbers stay whole."""
    label_columns = [name for name in rows.lists if name.startswith("label.")]
    kinds = {name: "Int64" if name in WHOLE_NUMBERS else "float64" if name in NUMBERS else object for name in COLUMNS}
    kinds |= dict.fromkeys(label_columns, object)  # pandas would make 1.0 of a 1 beside an empty cell
    names = [*COLUMNS, *(["report"] if "report" in rows.lists else []), *label_columns]
    frame = pd.DataFrame({name: pd.Series(rows.lists.pop(name), dtype=kinds.get(name)) for name in names})
    frame["has_mask"] = frame["has_mask"].astype(bool)
    for name in label_columns:
        frame[name] = _label_column(frame[name])
    return _none_for_empty(frame)


def _label_column(values: pd.Series) -> pd.Series:
    """A label as whole numbers, numbers or text; an empty cell stays one."""
    known = values.dropna()
    if not len(known):
        return values
    if known.map(lambda value: isinstance(value, int | np.integer | np.bool_)).all():
        return values.astype("Int64")
    if known.map(lambda value: isinstance(value, int | float | np.number)).all():
        return values.astype("float64")
    return values.map(lambda value: None if value is None or pd.isna(value) else str(value))


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written; an empty cell of text is None.

    Files are named after scans, so a table from somebody else could lead anywhere by a scan called `../../elsewhere`:
    scans, patients and sites have the form of pseudonyms here, or the table is refused.

    Raises:
        MedsslError: The file cannot be read, or is no table with such scans.
    """
    try:
        _check_size(path)
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MedsslError(
            f"{path.name} in {path.parent} is not a table ({type(error).__name__}): expected one that medssl wrote; restore it "
            "from a copy, or make it again"
        ) from None
    _check_ids(frame, path)
    return _none_for_empty(frame)


def _check_size(path: Path) -> None:
    """Raise MedsslError for a table that unpacks to more than any manifest holds."""
    about = pq.read_metadata(path)
    unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if about.num_rows > LARGEST_ROWS or unpacked > LARGEST_BYTES:
        raise MedsslError(
            f"{path.name} in {path.parent} claims {about.num_rows} rows of {unpacked} bytes in all: expected at most {LARGEST_ROWS} and "
            f"{LARGEST_BYTES} (a decompression bomb?); index the scans again"
        )


def _check_ids(frame: pd.DataFrame, path: Path) -> None:
    """Raise MedsslError for a table with a scan, patient or site that is not a pseudonym, or with a scan twice."""
    if "scan" not in frame:
        raise MedsslError(f"{path.name} in {path.parent} has no column scan: expected a table that medssl wrote")
    for name in ID_FORMS.keys() & set(frame.columns):
        known = frame[name] if name == "scan" else frame[name].dropna()
        others = ~known.astype(str).str.fullmatch(ID_FORMS[name])
        if others.any():
            raise MedsslError(
                f"{path.name} in {path.parent} has {int(others.sum())} values in the column {name} that are not pseudonyms, the first "
                f"in row {int(np.argmax(others))}: expected 12 hexadecimal digits, and -NNN after them for a frame; another program "
                "wrote the table: index the scans again"
            )
    if frame["scan"].duplicated().any():
        raise MedsslError(
            f"{path.name} in {path.parent} lists {int(frame['scan'].duplicated().sum())} scans twice: expected one row a scan; "
            "index the scans again"
        )


def read_index(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest that `medssl index` wrote, and by scan the files that each is made of.

    Args:
        folder: The folder of the manifest, or the manifest's file.

    Raises:
        MedsslError: One of the two tables is not there, or they are not what `medssl index` wrote.
    """
    folder = folder.parent if folder.is_file() else folder
    for name in ("manifest.parquet", "sources.parquet"):
        if not (folder / name).is_file():
            raise MedsslError(f"{folder} holds no {name}: expected the folder that medssl index wrote (--out)")
    manifest, sources = read_table(folder / "manifest.parquet"), read_table(folder / "sources.parquet")
    for name, table, columns in (("manifest", manifest, COLUMNS), ("sources", sources, SOURCES.names)):
        if missing := [column for column in columns if column not in table and column != PSEUDONYM_KEY]:
            raise MedsslError(
                f"{name}.parquet has no column {missing[0]}: expected the table that medssl index wrote; index the scans again"
            )
    if unknown := set(manifest["scan"][manifest["status"] == "ok"]) - set(sources["scan"]):
        raise MedsslError(
            f"sources.parquet does not list {len(unknown)} scans of manifest.parquet: expected both of one index; index the scans "
            "again"
        )
    return manifest, sources.set_index("scan")


def pseudonym_key(manifest: pd.DataFrame) -> str | None:
    """The fingerprint of the key of a manifest's pseudonyms; None where it has none (an older one), or several."""
    known = manifest[PSEUDONYM_KEY].unique() if PSEUDONYM_KEY in manifest else []
    return known[0] if len(known) == 1 else None


def to_parquet(frame: pd.DataFrame) -> bytes:
    """A table as Parquet bytes, without `attrs`."""
    buffer = io.BytesIO()
    bare = frame.copy(deep=False)
    bare.attrs = {}
    schema = pa.Schema.from_pandas(bare, preserve_index=False)
    with pq.ParquetWriter(buffer, schema) as writer:
        for first in range(0, max(1, len(bare)), ROWS_AT_ONCE):
            rows = bare.iloc[first : first + ROWS_AT_ONCE]
            writer.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False))
    return buffer.getvalue()


def check_any_usable(manifest: pd.DataFrame) -> None:
    """Raise MedsslError, with the commonest reason, when no scan of a manifest can be used."""
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
