"""Labels from a CSV onto scans: matched by path, never guessed; what does not match is counted and named.

A row belongs to the scan whose path below a source folder it names; else to the only scan whose path ends
with it, suffix and all; else to the only one whose path without suffix does. For a DICOM series the path is
its folder's.

    table = LabelTable(IndexOptions(labels=Path("labels.csv"), patient="subject"))
    rows, warnings = table.match(paths, usable)         # row number or None for each scan
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from medssl.core.errors import MedsslError, nearest
from medssl.datasets.base import IndexOptions
from medssl.scans.paths import stem

MOST_VALUES = 20
# A column with one of these words in its name is no label unless it is asked for: it may name a person.
PERSONAL = {"address", "author", "birth", "birthday", "comment", "comments", "contact", "date", "dob", "doctor", "email",
            "initials", "institution", "insurance", "mail", "mrn", "name", "names", "note", "notes", "nurse", "operator",
            "phone", "physician", "radiologist", "rater", "reader", "referrer", "remark", "remarks", "reporter", "ssn",
            "surname", "technician", "user", "zip"}  # fmt: skip
NAMES_SHOWN = 5
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Warned:
    """Something to say to the person at the terminal: `text` holds counts only, `names` are theirs and go
    nowhere else."""

    text: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.names[:NAMES_SHOWN]) + (", ..." if len(self.names) > NAMES_SHOWN else "")
        return f"{self.text}: {shown}" if self.names else self.text


class LabelTable:
    """A CSV of labels, one row a scan. Raises MedsslError for a file or column that is not there."""

    def __init__(self, options: IndexOptions) -> None:
        key, patient, label, report = options.key, options.patient, options.label, options.report
        frame = _read(Path(str(options.labels)), key, patient)
        if report is not None and (report in (key, patient) or report not in frame.columns):
            raise MedsslError(f"report {report!r} is no column of text in the labels{nearest(report, frame.columns)}")
        self.report = report
        self.patient = patient if patient in frame.columns else None
        self.ids = frame[key].fillna("").str.strip().tolist()
        self.patients = frame[self.patient].tolist() if self.patient else []
        others = [column for column in frame.columns if column not in (key, self.patient, report)]
        self.kept = list(label) if label is not None else [name for name in others if _is_label(name, frame[name])]
        for name in self.kept:
            if name not in frame.columns:
                raise MedsslError(f"label {name!r} is no column of the labels{nearest(name, frame.columns)}")
        self.frame = frame
        self.left_out = [name for name in others if name not in self.kept] if label is None else []

    def match(self, paths: Iterable[Sequence[Parts]], usable: Sequence[bool]) -> tuple[list, list[Warned]]:
        """For each scan (its paths as parts, below its source): a row number, "twice" for rows that disagree,
        or None."""
        exact, by_end, by_stem = _indices(paths, {_parts(text) for text in self.ids})
        rows: dict[int, list[int]] = defaultdict(list)
        unknown: list[str] = []
        ambiguous: list[str] = []
        for number, text in enumerate(self.ids):
            parts = _parts(text)
            scans = exact.get(parts) or by_end.get(parts) or by_stem.get(parts) or set()
            scans = {scan for scan in scans if usable[scan]} or scans
            if len(scans) == 1:
                rows[scans.pop()].append(number)
            else:
                (ambiguous if scans else unknown).append(text)
        matched = [self._one(rows[scan]) if scan in rows else None for scan in range(len(usable))]
        return matched, self._warnings(matched, rows, unknown, ambiguous, usable)

    def values(self, row: int) -> dict[str, object]:
        """The kept labels of one row; an empty cell is None."""
        return {name: _plain(self.frame[name].iloc[row]) for name in self.kept}

    def report_of(self, row: int) -> tuple[str | None, list[str]]:
        """The report of one row, None for an empty cell, and what else its row says that is no label: names, notes."""
        if self.report is None:
            return None, []
        cells = self.frame.iloc[row].drop([self.report, *self.kept]).dropna()
        text = self.frame[self.report].iloc[row]
        return None if pd.isna(text) or not str(text).strip() else str(text), [str(value) for value in cells]

    def patient_of(self, row: int) -> str | None:
        """The patient of one row, None for an empty cell."""
        value = self.patients[row]
        return None if pd.isna(value) or not str(value).strip() else str(value).strip()

    def _one(self, rows: list[int]) -> int | str:
        said = self.frame.iloc[rows][[*self.kept, *(name for name in (self.patient, self.report) if name)]]
        return rows[0] if len(rows) == 1 or len(said.drop_duplicates()) <= 1 else "twice"

    def _warnings(self, matched, rows, unknown, ambiguous, usable) -> list[Warned]:
        repeated = tuple(self.ids[numbers[0]] for numbers in rows.values() if len(numbers) > 1)
        without = sum(row is None and fine for row, fine in zip(matched, usable))
        said = [
            (unknown, f"{len(unknown)} label rows name no scan that was found"),
            (ambiguous, f"{len(ambiguous)} label rows could mean several scans, none was guessed"),
            (repeated, f"{len(repeated)} scans have several label rows; rows that disagree are not used"),
            (
                self.left_out,
                f"{len(self.left_out)} columns are no labels by their values or may name a person (--label NAME keeps one, --patient NAME says whose a scan is)",
            ),
        ]
        warned = [Warned(text, tuple(names)) for names, text in said if names]
        return warned + ([Warned(f"{without} scans have no row in the labels")] if without else [])


def _read(csv: Path, key: str, patient: str | None) -> pd.DataFrame:
    try:
        columns = pd.read_csv(csv, nrows=0).columns
        if key not in columns:
            raise MedsslError(f"key {key!r} is no column of the labels{nearest(key, columns)}")
        return pd.read_csv(csv, dtype={name: str for name in (key, patient) if name in columns})
    except FileNotFoundError:
        raise MedsslError(f"labels {csv} does not exist: expected a CSV file") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise MedsslError(f"labels {csv} is no CSV file ({type(error).__name__}): expected columns and rows") from None


def _is_label(column: str, values: pd.Series) -> bool:
    """Few distinct values, not one of its own for each row, as names and dates have, and no person in the column's name."""
    if PERSONAL & set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())):
        return False
    distinct = values.nunique()
    return 0 < distinct <= MOST_VALUES and (distinct < len(values) or len(values) <= 2)


def _plain(value):
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parts(text: str) -> Parts:
    return tuple(part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in (".", "/"))


def _indices(paths: Iterable[Sequence[Parts]], wanted: set[Parts]) -> tuple[dict, dict, dict]:
    """Which scans a label row may mean, by its parts; only what some row says is kept."""
    exact: dict[Parts, set[int]] = defaultdict(set)
    by_end: dict[Parts, set[int]] = defaultdict(set)
    by_stem: dict[Parts, set[int]] = defaultdict(set)
    for scan, variants in enumerate(paths):
        for parts in variants:
            bare = (*parts[:-1], stem(Path(parts[-1])))
            _note(exact, parts[1:], scan, wanted)
            for start in range(len(parts)):
                _note(by_end, parts[start:], scan, wanted)
                _note(by_stem, bare[start:], scan, wanted)
    exact.pop((), None)
    return exact, by_end, by_stem


def _note(scans: dict[Parts, set[int]], parts: Parts, scan: int, wanted: set[Parts]) -> None:
    if parts in wanted:
        scans[parts].add(scan)
