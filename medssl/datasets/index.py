"""Folders of scans -> a manifest, by their headers alone; with labels, patients and masks joined on.

The files in the folder `out`:
    manifest.parquet    one row a scan, no path and no name: may be shared as the data themselves may be
    rejects.parquet     the scans that cannot be used, and why
    sources.parquet     which files each scan is (mode 0600)
    pseudonym.key       what the pseudonyms are made with (mode 0600)
    audit.csv           with audit=True: what header text was left behind, by tag and count, never a value

    manifest = index([Path("hippocampus")], Path("manifest"), labels=Path("volumes.csv"), patient="subject",
                     mask="../labels/{name}", modality="MR")
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, ScanError, nearest
from medssl.datasets.audit import write_audit
from medssl.datasets.base import IndexOptions, named_dataset
from medssl.datasets.candidates import BATCH, Found, Pile, relative
from medssl.datasets.labels import LabelTable, Parts, Warned
from medssl.datasets.manifest import SOURCES, Columns, RowGroups, manifest_frame, read_table, refuse_nothing, to_parquet
from medssl.datasets.masks import MaskTemplate
from medssl.datasets.quality import header_flags, joined
from medssl.datasets.reports import counted, scrub
from medssl.scans import geometry
from medssl.scans.dicom.corrections import check_corrections
from medssl.scans.dicom.series import Series, group
from medssl.scans.dicom.slices import Slice, read_slices
from medssl.scans.modality import check_code
from medssl.scans.paths import kind, run_parallel, suffix, walk
from medssl.scans.privacy import Pseudonyms
from medssl.scans.read import check_mask, files_of, read_headers
from medssl.scans.scan import Header

LOOK_FIRST = "look at it, then --accept-burned-in-risk keeps it, or set BurnedInAnnotation (0028,0301) to NO"
NO_ROW = "no row in labels: patient unknown"


def index(
    sources: Sequence[Path | str],
    out: Path,
    labels: Path | None = None,
    key: str = "file",
    patient: str | None = None,
    label: Sequence[str] | None = None,
    report: str | None = None,
    mask: str | None = None,
    classes_from_folders: bool = False,
    modality: str | None = None,
    accept_burned_in_risk: bool = False,
    audit: bool = False,
    correct: Sequence[str] | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Read the headers of every scan under the sources and write the manifest; returns it.

    sources: folders and files, or one NAME:FOLDER, a dataset that knows its own labels, patients and masks (decathlon,
    medmnist, phantom, see base.py); options given here come before its own. labels: a CSV; `key` names its column of paths, `label` the columns to keep (default: all with few
    values). report: a column of report text, kept for methods that read it after what looks like a name, a date or a
    long number was taken out; that is no anonymisation, so read it before you hand it on. patient: a column of the CSV, else a pattern with one group on the path; else DICOM's PatientID;
    else each scan is its own patient, with a warning. mask: where an image's mask lies, from the image's folder
    (a DICOM series: from the one above it), as ../labels/{name} or {stem}_mask.nii.gz, {name}_seg.dcm. classes_from_folders: the folder's
    name as label `class`. modality: for formats that do
    not say it. correct: what may be corrected in a DICOM series instead of refused, tilt (gantry tilt, sheared straight)
    and spacing (uneven steps or a missing slice, resampled); the manifest says where it was done. jobs: processes, -1 for one a core. scheduler: the address of a dask.distributed cluster that sees the same
    files, in place of jobs. accept_burned_in_risk: keep, flagged, what is quarantined because it may show a name in its
    pixels: ultrasound, fluoroscopy, secondary captures and screen saves whose header does not say BurnedInAnnotation NO;
    look at them first. audit: also write audit.csv. Warnings go to the terminal; `manifest.attrs["warnings"]` has them
    without names.
    Raises MedsslError for folders with nothing usable and for options that do not fit.

    >>> manifest = index([Path("scans")], Path("manifest"), patient=r"(sub-\\d+)")        # doctest: +SKIP
    """
    requested = IndexOptions(labels, key, patient, label, report, mask, classes_from_folders, modality)
    paths, options = _resolved(sources, requested)
    template = MaskTemplate(options.mask) if options.mask else None
    table = LabelTable(options) if options.labels else None
    patients = _PatientRule(options.patient, table)
    _check_options(options)
    corrections = check_corrections(correct)
    prefixes = _prefixes(paths)
    out = Path(out)
    names = Pseudonyms(out / "pseudonym.key")
    warned: list[Warned] = []
    with Pile(out, prefixes) as found:
        _find(found, prefixes, out, template, warned, corrections, jobs, scheduler)
        if not accept_burned_in_risk:
            _quarantine(found.series)
        stream: Iterator[Found] = iter(found)
        if table:
            stream = _join(found, table, prefixes, warned)
        stream = patients.apply(stream, prefixes, warned)
        if options.report:
            stream = counted(stream, warned)
        if options.classes_from_folders:
            stream = map(_with_class, stream)
        if template:
            stream = run_parallel(_with_mask_checked, stream, jobs, "masks", batch=BATCH, scheduler=scheduler)
        manifest = _write(stream, prefixes, names, options.modality, out)
    if audit:
        write_audit(_audited(out), out, jobs)
    _tell(warned)
    manifest.attrs["warnings"] = [item.text for item in warned]
    refuse_nothing(manifest)
    return manifest


def _quarantine(series: list[Found]) -> None:
    for item in series:
        if item.header and item.header.burned_in_risk:
            item.reject(f"quarantined: {item.header.burned_in_risk}; {LOOK_FIRST}")


def _audited(out: Path) -> Iterator[tuple[Path, str]]:
    """Every file whose header was looked at, masks too."""
    for row in read_table(out / "sources.parquet").itertuples():
        for file in row.files if row.format == "dicom" else row.files[:1]:
            yield Path(file), row.format
        if row.mask:
            yield Path(row.mask), kind(Path(row.mask)) or ""


def _resolved(sources: Sequence[Path | str], requested: IndexOptions) -> tuple[list[Path], IndexOptions]:
    """The paths to walk and the options, those of a dataset where the sources name one."""
    datasets = [dataset for source in sources if (dataset := named_dataset(source))]
    if datasets and len(sources) > 1:
        raise MedsslError(f"a dataset stands among {len(sources)} sources: expected it alone; index each by itself")
    paths = datasets[0].files() if datasets else sources
    options = datasets[0].options().merged(requested) if datasets else requested
    return [Path(os.path.normpath(path)) for path in paths], options


def _check_options(options: IndexOptions) -> None:
    if options.modality is not None:
        check_code(options.modality)
    if (options.label or options.report) is not None and options.labels is None:
        raise MedsslError(
            "label and report name columns, but no labels file is given: expected --labels FILE.csv with it"
        )


def _find(
    found: Pile, prefixes, out: Path, template: MaskTemplate | None, warned, correct, jobs: int, scheduler
) -> None:
    """Every scan and every file that should have been one."""
    others: Counter[str] = Counter()
    files: Iterable[tuple[Path, Path, str]] = _known(walk(list(prefixes), leave_out=out), others)
    pairs: dict[Path, Path] = {}
    masks: set[Path] = set()
    if template:
        files = list(files)
        pairs, masks = _pair(files, template, warned)
    scans = (entry for entry in files if entry[1] not in masks)
    slices: list[tuple[Path, Slice]] = []
    count = 0
    used = set()
    for part in run_parallel(_look, scans, jobs, "headers", batch=BATCH, scheduler=scheduler):
        for item in part:
            count += 1
            if isinstance(item, Found):
                item.mask = _mask_of(item, pairs)
                used.add(item.mask)
                found.add(item)
            else:
                slices.append(item)
    found.series = _series(slices, correct)
    for item in found.series:
        item.mask = _mask_of(item, pairs)
        used.add(item.mask)
    found.series += _lonely(files, masks - used)
    _check_any(list(prefixes), count + len(masks), others, warned)


def _known(files: Iterable[tuple[Path, Path]], others: Counter[str]) -> Iterator[tuple[Path, Path, str]]:
    """The files of a format that is read; the others are counted by their suffix."""
    for source, path in files:
        format = kind(path)
        if format is None and not _is_voxels_of_mhd(path):
            others[suffix(path) or "no suffix"] += 1
        elif format is not None:
            yield source, path, format


def _check_any(sources: list[Path], count: int, others: Counter[str], warned: list[Warned]) -> None:
    skipped = others.total()
    if skipped:
        warned.insert(0, Warned(f"{skipped} files of other kinds were skipped", tuple(sorted(others))))
    if not count:
        raise MedsslError(
            f"no scan in {', '.join(map(str, sources))}: expected DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF or "
            f"MedMNIST .npz files, found {skipped} of other kinds"
        )


def _is_voxels_of_mhd(path: Path) -> bool:
    return suffix(path) in (".raw", ".zraw") and path.with_suffix(".mhd").exists()


def _pair(files, template: MaskTemplate | None, warned: list[Warned]) -> tuple[dict[Path, Path], set[Path]]:
    if template is None:
        return {}, set()
    folders = {path.parent for _, path, format in files if format == "dicom"}
    pairs, masks = template.split([path for _, path, _ in files], folders)
    if not pairs:
        tried = tuple(str(template.path(path)) for _, path, _ in files[:1])
        text = "the mask pattern leads from no image to a file that exists, every scan is without mask; the first tried"
        warned.append(Warned(text, tried))
    return pairs, masks


def _look(entry: tuple[Path, Path, str]) -> list:
    """The scans of one file as `Found`, or (source, slice) for each slice of a DICOM file."""
    source, path, format = entry
    try:
        if format == "dicom":
            return [(source, item) for item in read_slices(str(path))]
        return [
            Found(source, path, [str(file) for file in files_of(path, format)], format, member, header)
            for member, header in read_headers(path, format)
        ]
    except ScanError as error:
        return [Found(source, path, [str(path)], format, reason=str(error))]


def _series(slices: list[tuple[Path, Slice]], correct: tuple[str, ...]) -> list[Found]:
    source_of = {item.file: source for source, item in slices}
    return [_series_found(part, source_of[part.files[0]], correct) for part in group(item for _, item in slices)]


def _series_found(series: Series, source: Path, correct: tuple[str, ...]) -> Found:
    first = Path(series.files[0])
    found = Found(source, first, series.files, "dicom", member=series.member)
    if len(series.files) > 1:
        found.path = first.parent
    try:
        found.header = series.header(correct)
    except ScanError as error:
        found.reject(str(error))
    return found


def _mask_of(item: Found, pairs: dict[Path, Path]) -> Path | None:
    if not pairs:
        return None
    folder = item.path if item.path.is_dir() else item.path.parent
    return pairs.get(item.path) or (pairs.get(folder) if item.format == "dicom" else None)


def _lonely(files: Iterable[tuple[Path, Path, str]], masks: set[Path]) -> list[Found]:
    """A reject for each mask that no scan has."""
    reason = "a mask without an image: left out"
    return (
        [Found(source, path, [str(path)], format, reason=reason) for source, path, format in files if path in masks]
        if masks
        else []
    )


def _prefixes(sources: list[Path]) -> dict[Path, str]:
    """A short name for each source folder, in the order of the names; its whole path where two have the same name."""
    names = [source.resolve().name for source in sources]
    prefixes = {
        source: name if names.count(name) == 1 else str(source.resolve()) for source, name in zip(sources, names)
    }
    return dict(sorted(prefixes.items(), key=lambda item: item[1]))


def _text(item: Found, prefixes: dict[Path, str]) -> str:
    """What a scan's pseudonym is made of: its place below its source, as stable as that place."""
    place = f"{prefixes[item.source]}/{relative(item, Path(item.files[0])).as_posix()}"
    return place if item.member is None else f"{place}#{item.member}"


def _parts(item: Found, prefixes: dict[Path, str]) -> list[Parts]:
    """The paths a label row may name this scan by: its own, and for DICOM its folder's."""
    paths = {item.path}
    if item.format == "dicom" and Path(item.files[0]).parent != item.source:
        paths.add(Path(item.files[0]).parent)
    return [(prefixes[item.source], *relative(item, path).parts) for path in sorted(paths)]


def _join(found: Pile, table: LabelTable, prefixes, warned: list[Warned]) -> Iterator[Found]:
    """The scans with their labels, and their patients where a column of the labels says."""
    usable = [item.reason is None for item in found]
    rows, said = table.match((_parts(item, prefixes) for item in found), usable)
    warned += said
    return map(functools.partial(_labelled, table), found, rows)


def _labelled(table: LabelTable, item: Found, row: int | str | None) -> Found:
    if isinstance(row, int):
        item.labels = item.labels | table.values(row)
        item.patient = table.patient_of(row) if table.patient else None
        text, others = table.report_of(row)
        if text is not None:
            header = [item.header.patient, item.header.site] if item.header else []
            item.report = scrub(text, [*others, *header, item.path.name])
    if table.patient and row == "twice":
        item.reject("its rows in labels disagree: patient unknown; keep one row")
    elif table.patient and item.patient is None:
        item.reject(NO_ROW if row is None else "its row in labels has no patient: fill it in")
    return item


def _with_class(item: Found) -> Found:
    item.labels = item.labels | {"class": item.path.parent.name}
    return item


class _PatientRule:
    """Where patients come from: a column, a pattern on the path, or the header."""

    def __init__(self, patient: str | None, table: LabelTable | None) -> None:
        self.from_labels = table is not None and table.patient is not None
        self.pattern = None if patient is None or self.from_labels else _pattern(patient, table)

    def apply(self, found: Iterable[Found], prefixes: dict[Path, str], warned: list[Warned]) -> Iterator[Found]:
        alone = 0
        for item in found:
            if self.pattern:
                match = self.pattern.search(relative(item, item.path).as_posix())
                item.patient = match[1] if match else None
                if not item.patient:
                    item.reject("the patient pattern does not match its path: patient unknown")
            elif not self.from_labels and item.header:
                item.patient = item.header.patient
                if item.patient is None:
                    item.patient = f"scan {_text(item, prefixes)}"
                    alone += item.reason is None
            yield item
        if alone:
            warned.append(Warned(f"{alone} scans name no patient, each counts as its own (say who with --patient)"))


def _pattern(patient: str, table: LabelTable | None) -> re.Pattern:
    columns = list(table.frame.columns) if table else []
    try:
        pattern = re.compile(patient)
    except re.error:
        pattern = re.compile("")
    if pattern.groups != 1:
        guess = nearest(patient, columns) if columns else ""
        raise MedsslError(
            f"patient is {patient!r}: neither a column of the labels nor a pattern with one (group) on the path{guess}"
        )
    return pattern


def _with_mask_checked(item: Found) -> Found:
    """Rejected when its mask lies on another grid."""
    if item.mask and item.header and item.reason is None:
        reason = _mask_reason((item.mask, item.header))
        if reason:
            item.reject(reason)
    return item


def _mask_reason(check: tuple[Path, Header]) -> str | None:
    path, image = check
    try:
        check_mask(path, image.affine, image.shape)
    except ScanError as error:
        return f"mask: {error}"
    return None


def _write(found: Iterable[Found], prefixes, names: Pseudonyms, modality: str | None, out: Path) -> pd.DataFrame:
    """The tables on disk; of each scan only its row stays in memory, and equal cells share one object."""
    columns = Columns()
    with RowGroups(out / "sources.parquet", SOURCES, mode=0o600) as sources:
        for item in found:
            scan = names.of("scan", _text(item, prefixes))
            columns.add(_row(item, scan, names, modality))
            sources.add(
                {
                    "scan": scan,
                    "files": [os.path.realpath(file) for file in item.files],
                    "format": item.format,
                    "member": item.member,
                    "mask": os.path.realpath(item.mask) if item.mask else None,
                    "correct": ",".join(item.header.corrected) if item.header else None,
                }
            )
    manifest = manifest_frame(columns)
    rejects = manifest.loc[manifest.status == "rejected", ["scan", "reason"]].reset_index(drop=True)
    write_atomically(out / "rejects.parquet", to_parquet(rejects))
    write_atomically(out / "manifest.parquet", to_parquet(manifest))
    return manifest


def _row(item: Found, scan: str, names: Pseudonyms, modality: str | None) -> dict[str, object]:
    header = item.header
    row: dict[str, object] = {
        "scan": scan,
        "patient": names.of("patient", item.patient) if item.patient else None,
        "format": suffix(Path(item.files[0])).lstrip(".") if item.format == "image" else item.format,
        "has_mask": item.mask is not None,
        "status": "rejected" if item.reason else "ok",
        "reason": item.reason,
    }
    if header:
        row |= {
            "modality": modality if modality and item.format != "dicom" else header.modality,
            "dims": len(header.shape),
            "shape": list(header.shape),
            "channels": header.channels,
            "frames": header.frames,
            "spacing_mm": [round(step, 6) for step in header.spacing_mm],
            "orientation": geometry.orientation(header.affine) if len(header.shape) == 3 else None,
            "slice_axis": header.slice_axis,
            "corrected": ",".join(header.corrected) or None,
            "manufacturer": header.manufacturer,
            "site": names.of("site", header.site) if header.site else None,
            "affine_rule": header.affine_rule if len(header.shape) == 3 else None,
            "qform_apart_mm": None if header.qform_apart_mm is None else round(header.qform_apart_mm, 3),
            "flags": joined(None, header_flags(header)),
            "notes": "; ".join(header.notes) or None,
        }
    if item.report is not None:
        row["report"] = item.report
    labels = {**(header.labels if header else {}), **item.labels}
    return row | {f"label.{name}": value for name, value in labels.items()}


def _tell(warned: list[Warned]) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    for item in warned:
        console.print(f"warning: {item}", markup=False, highlight=False, soft_wrap=True)
