"""Labels from a CSV onto scans: matched by path, never guessed; what does not match is counted and named.

A row belongs to the scan whose path below a source folder it names; else to the only scan whose path ends
with it, suffix and all; else to the only one whose path without suffix does. For a DICOM series the path is
its folder's. A row may also name a scan by its pseudonym, as the labels from the dashboard do; a pseudonym in its column of
patients is then taken as it is. Only the columns that are named are kept.

    table = LabelTable(IndexOptions(labels=Path("labels.csv"), patient="subject", label=["finding"]))
    for candidate in table.join(candidates, notices): ...

Afterwards the labels stand in the manifest:

    codes, classes = label_codes(manifest, "finding")        # {scan: 0, ...}, ["cyst", "tumour"]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from csv import Error as CsvError
from csv import reader
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError, nearest
from medssl.datasets.base import IndexOptions
from medssl.datasets.candidates import Candidate, Parts
from medssl.datasets.manifest import PSEUDONYM
from medssl.datasets.notices import Notice
from medssl.datasets.reports import scrub
from medssl.datasets.spellings import DIFFERENCES, MISSING_WORDS, written_in_two_ways
from medssl.scans.modality import MODALITIES
from medssl.scans.paths import stem

MODALITY = "modality"  # a column of this name says it for formats that do not
MAX_TEXTS = 20  # different texts of a label; where there are more, each must stand in a few rows on average
ROWS_OF_A_CLASS = 5
MAX_CHARACTERS = 64  # of a class's name
IDENTIFIER = 100_000  # a column of whole numbers that are all larger may identify somebody
DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:[ T].*)?"
DISAGREE = "its rows in labels disagree: patient unknown; keep one row"
NO_ROW = "no row in labels: patient unknown"
NO_PATIENT = "its row in labels has no patient: fill it in"


class LabelTable:
    """A CSV of labels, one row per scan.

    Args:
        options: `labels` is the file, `key`, `patient`, `label` and `report` name columns of it.

    Raises:
        MedsslError: A file or column is not there.
    """

    def __init__(self, options: IndexOptions) -> None:
        key, patient, report = options.key, options.patient, options.report
        frame = _read(Path(str(options.labels)), key, patient)
        self.patient = patient if patient in frame.columns else None
        self.labels, self.report = list(options.label or ()), report
        for option, name in (("report", report), *(("label", name) for name in self.labels)):
            _check_column(option, name, frame, taken=(key, self.patient))
        if report in self.labels:
            raise MedsslError(
                f"{report!r} is named by --label and by --report: expected a column for each; leave one out"
            )
        for name in self.labels:
            check_classes(name, frame[name])
        self.ids = frame[key].fillna("").str.strip().tolist()
        self.patients = frame[self.patient].tolist() if self.patient else []
        self.frame = frame
        self.modalities = [] if options.modality else _modalities(frame, (key, self.patient, report))
        used = (key, self.patient, report, *self.labels, *([MODALITY] if self.modalities else []))
        self.columns_left_out = [name for name in frame.columns if name not in used]

    def join(
        self, candidates: Iterable[Candidate], notices: list[Notice], scan_name: Callable[[Candidate], str]
    ) -> Iterator[Candidate]:
        """The candidates, which are read three times, with their labels, reports, and patients where the table has them.

        Args:
            candidates: The scans.
            notices: Gets what a user should know.
            scan_name: Returns the pseudonym of a scan.
        """
        usable = [candidate.reason is None for candidate in candidates]
        paths = ([*candidate.label_paths, ("", scan_name(candidate))] for candidate in candidates)
        rows = self._match(paths, usable, notices)
        return (
            self._labelled(candidate, numbers, scan_name(candidate)) for candidate, numbers in zip(candidates, rows)
        )

    def _match(
        self, paths: Iterable[Sequence[Parts]], usable: Sequence[bool], notices: list[Notice]
    ) -> Iterator[list[int]]:
        """For each scan (its paths as parts, below its source) the numbers of its rows."""
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
        notices += self._notices(rows, unknown, ambiguous, usable)
        return (rows.get(scan, []) for scan in range(len(usable)))

    def _labelled(self, candidate: Candidate, rows: list[int], scan: str) -> Candidate:
        agree = self._agree(rows)
        if rows and agree:
            self._add_row(candidate, rows[0])
            if self.ids[rows[0]] == scan and candidate.patient and PSEUDONYM.fullmatch(candidate.patient):
                candidate.pseudonym = candidate.patient
        if self.patient and not agree:
            candidate.reject(DISAGREE)
        elif self.patient and candidate.patient is None:
            candidate.reject(NO_PATIENT if rows else NO_ROW)
        return candidate

    def _add_row(self, candidate: Candidate, row: int) -> None:
        values = {name: _plain(self.frame[name].iloc[row]) for name in self.labels}
        candidate.labels = candidate.labels | values
        candidate.modality = self.modalities[row] if self.modalities else None
        candidate.patient = self._patient(row)
        if self.report is None or pd.isna(text := self.frame[self.report].iloc[row]) or not str(text).strip():
            return
        others = self.frame.iloc[row].drop([self.report, *self.labels]).dropna()
        header = [candidate.header.patient, candidate.header.site] if candidate.header else []
        candidate.report = scrub(str(text), [*map(str, others), *header, candidate.path.name])

    def _patient(self, row: int) -> str | None:
        """The patient of one row, None for an empty cell and where patients come from elsewhere."""
        if self.patient is None or pd.isna(self.patients[row]):
            return None
        return str(self.patients[row]).strip() or None

    def _agree(self, rows: list[int]) -> bool:
        """True where the rows of one scan say the same."""
        columns = [*self.labels, *(name for name in (self.patient, self.report) if name)]
        columns += [MODALITY] if self.modalities and MODALITY not in columns else []
        return len(rows) < 2 or len(self.frame.iloc[rows][columns].drop_duplicates()) <= 1

    def _notices(self, rows: dict[int, list[int]], unknown, ambiguous, usable: Sequence[bool]) -> list[Notice]:
        repeated = [self.ids[numbers[0]] for numbers in rows.values() if len(numbers) > 1]
        without = sum(scan not in rows and is_usable for scan, is_usable in enumerate(usable))
        reported = [
            (unknown, "label rows name no scan that was found"),
            (ambiguous, "label rows could mean several scans, none was guessed"),
            (repeated, "scans have several label rows; rows that disagree are not used"),
        ]
        notices = [Notice(f"{len(names)} {text}", tuple(names)) for names, text in reported if names]
        for name in self.labels:
            classes = set(self.frame[name].dropna().astype(str))
            notices += [
                Notice(f"the label {name!r} has classes that differ in {DIFFERENCES} alone", group)
                for group in written_in_two_ways(classes)
            ]
            if words := sorted(word for word in classes if word.lower() in MISSING_WORDS):
                text = f"the label {name!r} has the class {words[0]!r}: leave cells empty where there is no label"
                notices.append(Notice(text))
        if MODALITY in self.columns_left_out and (words := _no_codes(self.frame)):
            text = (
                "words in the column modality of the labels are no DICOM codes, so it is not used: expected CT, MR, ..."
            )
            notices.append(Notice(f"{len(words)} {text}", tuple(words)))
        if self.columns_left_out:
            text = "columns of the labels are left out (keep some with --label NAME..., name the patients' column with --patient NAME)"
            names = tuple(self.columns_left_out)
            notices.append(Notice(f"{len(names)} {text}", names, names_shown=len(names)))
        return notices + ([Notice(f"{without} scans have no row in the labels")] if without else [])


def _modalities(frame: pd.DataFrame, taken: Sequence[str | None]) -> list[str | None]:
    """The code of each row where the labels have a column of DICOM's codes, else nothing."""
    if MODALITY not in frame or MODALITY in taken or _no_codes(frame):
        return []
    return [None if pd.isna(value) else _code(value) for value in frame[MODALITY]]


def _no_codes(frame: pd.DataFrame) -> list[str]:
    """What stands in the column of modalities and is no code of DICOM."""
    values = frame[MODALITY].dropna().unique() if MODALITY in frame else []
    return sorted(str(value) for value in values if _code(value) not in MODALITIES)


def _code(value: object) -> str:
    return str(value).strip().upper()


def _read(csv: Path, key: str, patient: str | None) -> pd.DataFrame:
    try:
        _check_rows(csv)
        columns = pd.read_csv(csv, nrows=0).columns
        if key not in columns:
            raise MedsslError(f"key {key!r} is not a column of the labels{nearest(key, columns)}")
        texts = pd.read_csv(csv, dtype=str, keep_default_na=False, na_values=[""])
        frame = pd.read_csv(csv)
    except FileNotFoundError:
        raise MedsslError(f"labels {csv} does not exist: expected a CSV file") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, CsvError) as error:
        raise MedsslError(
            f"labels {csv} is not a CSV file ({type(error).__name__}): expected columns and rows in UTF-8"
        ) from None
    for name in frame:
        if name in (key, patient) or _has_texts(frame[name], texts[name]):
            frame[name] = texts[name]
        if not pd.api.types.is_numeric_dtype(frame[name]):  # a space that nobody sees makes no class
            frame[name] = frame[name].map(lambda value: value.strip() or None if isinstance(value, str) else value)
    return frame


def _has_texts(values: pd.Series, texts: pd.Series) -> bool:
    """Whether words such as NA and None, which pandas takes for empty cells, are the names of classes in this column.

    Among numbers, or true and false, they mean that there is no value.
    """
    known = values.dropna()
    are_values = pd.api.types.is_numeric_dtype(values) or known.map(lambda value: isinstance(value, bool)).all()
    return bool((values.isna() & texts.notna()).any()) and not (are_values and len(known))


def _check_rows(path: Path) -> None:
    """Raise MedsslError for two columns of one name, and for a row with more cells than there are columns.

    pandas would call the second `finding.1`, and would move every cell by one column.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = reader(file)
        names = [name.strip() for name in next(rows, [])]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            shown = repr(twice[0]) if twice[0] else "without a name"
            raise MedsslError(
                f"labels {path} have {names.count(twice[0])} columns {shown}: expected each name once; rename one, or remove it"
            )
        for number, row in enumerate(rows, 2):
            if len(row) > len(names):
                raise MedsslError(
                    f"row {number} of labels {path} has {len(row)} cells, there are {len(names)} columns: expected at most as many; "
                    "put cells with commas in quotes"
                )


def _check_column(option: str, name: str | None, frame: pd.DataFrame, taken: Sequence[str | None]) -> None:
    if name is None:
        return
    if name in taken:
        raise MedsslError(
            f"{option} {name!r} is the column of the paths or of the patients: expected another; it would name the patients"
        )
    if name not in frame.columns:
        raise MedsslError(f"{option} {name!r} is not a column of the labels{nearest(name, frame.columns)}")


def check_classes(name: str, values: pd.Series) -> None:
    """Check that a label holds numbers or the names of classes, since it is kept as it is.

    Raises:
        MedsslError: It holds dates, long texts, or nearly as many texts as rows: identifiers or free text.
    """
    known = values.dropna()
    texts = known[[isinstance(value, str) for value in known]].astype(str).str.strip()
    numbers = pd.to_numeric(known.drop(texts.index))
    if problem := _what_texts_tell(texts) or _what_numbers_tell(numbers):
        raise MedsslError(
            f"the label {name!r} holds {problem}: expected numbers, or names of classes that many rows share; give every "
            "row a number or a class in a column of its own, and name that one"
        )


def _what_texts_tell(texts: pd.Series) -> str | None:
    distinct = texts.nunique()
    if texts.str.fullmatch(DATE).any():
        return "dates"
    if (texts.str.len() > MAX_CHARACTERS).any():
        return f"texts of more than {MAX_CHARACTERS} characters"
    if distinct > MAX_TEXTS and distinct * ROWS_OF_A_CLASS > len(texts):
        return f"{distinct} different texts in {len(texts)} rows, as names and identifiers are"
    return None


def _what_numbers_tell(numbers: pd.Series) -> str | None:
    if not np.isfinite(numbers.astype(float)).all():
        return "infinite numbers"
    if numbers.empty or (numbers % 1 != 0).any() or (numbers < IDENTIFIER).any():
        return None
    if not pd.to_datetime(numbers.astype("int64").astype(str), format="%Y%m%d", errors="coerce").isna().any():
        return "dates as numbers"
    if numbers.nunique() > max(MAX_TEXTS, len(numbers) // 2):
        return f"{numbers.nunique()} different whole numbers of six digits and more, as identifiers are"
    return None


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

    def add(scans: dict[Parts, set[int]], parts: Parts, scan: int) -> None:
        if parts in wanted:
            scans[parts].add(scan)

    for scan, variants in enumerate(paths):
        for parts in variants:
            without_suffix = (*parts[:-1], stem(Path(parts[-1])))
            add(exact, parts[1:], scan)
            for start in range(len(parts)):
                add(by_end, parts[start:], scan)
                add(by_stem, without_suffix[start:], scan)
    exact.pop((), None)
    return exact, by_end, by_stem


def label_values(manifest: pd.DataFrame, label: str) -> pd.Series:
    """Return the values of a label column, indexed by scan, without the scans that have none.

    Raises:
        MedsslError: There is no such label.
    """
    column = f"label.{label}"
    if column not in manifest:
        known = [name.removeprefix("label.") for name in manifest if name.startswith("label.")]
        raise MedsslError(
            f"there is no label {label!r} in this cache: expected one of {', '.join(known) or 'none'}; join it with "
            "`medssl index --labels`"
        )
    return manifest.set_index("scan")[column].dropna()


def label_codes(manifest: pd.DataFrame, label: str) -> tuple[dict[str, int], list[str]]:
    """Return the class number of each scan that has the label, and the names of the classes in order.

    Raises:
        MedsslError: There is no such label.
    """
    values = label_values(manifest, label).astype(str)
    classes = sorted(values.unique())
    return {scan: classes.index(value) for scan, value in values.items()}, classes
