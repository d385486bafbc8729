"""Folders of scans -> a manifest, by their headers alone; with labels, patients and masks joined to it.

The files in the folder `out`:
    manifest.parquet    one row per scan, no path and no name: may be shared as the data themselves may be
    rejects.parquet     the scans that cannot be used, and why
    sources.parquet     which files each scan is (mode 0600)
    pseudonym.key       what the pseudonyms are made with (mode 0600), unless a key of the user's own is given
    audit.csv           with audit=True: what header text was left behind, by tag and count, never a value

    manifest = index([Path("hippocampus")], Path("manifest"), labels=Path("volumes.csv"), patient="subject",
                     mask="../labels/{name}", modality="MR")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.parallel import run_parallel
from medssl.datasets.audit import write_audit
from medssl.datasets.base import IndexOptions, named_dataset
from medssl.datasets.candidates import BATCH, Candidate, CandidateStore, named_sources
from medssl.datasets.collect import collect, with_mask_checked
from medssl.datasets.hounsfield import hounsfield_notices
from medssl.datasets.labels import LabelTable, check_classes
from medssl.datasets.manifest import (
    PSEUDONYM_KEY,
    SOURCES,
    Columns,
    RowGroups,
    check_any_usable,
    manifest_frame,
    pseudonym_key,
    read_table,
    to_parquet,
)
from medssl.datasets.masks import MaskTemplate
from medssl.datasets.notices import Notice, print_notices, print_reports
from medssl.datasets.patients import PatientRule
from medssl.datasets.quality import header_flags, join_flags
from medssl.datasets.reports import count_reports, reports_to_review
from medssl.scans import geometry
from medssl.scans.dicom.corrections import check_corrections
from medssl.scans.modality import check_code
from medssl.scans.paths import file_format, suffix
from medssl.scans.privacy import Pseudonyms

LOOK_FIRST = "look at it, then --accept-burned-in-risk keeps it, or set BurnedInAnnotation (0028,0301) to NO"


def index(
    sources: Sequence[Path | str],
    out: Path,
    labels: Path | None = None,
    key: str = "file",
    patient: str | None = None,
    label: Sequence[str] | None = None,
    report: str | None = None,
    preview: int = 0,
    mask: str | None = None,
    classes_from_folders: bool = False,
    modality: str | None = None,
    key_file: Path | None = None,
    accept_burned_in_risk: bool = False,
    audit: bool = False,
    correct: Sequence[str] | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Read the headers of every scan under the sources and write the manifest.

    Args:
        sources: Folders and files of scans; or one NAME:FOLDER, a dataset that knows its own labels, patients and masks
            (decathlon, medmnist, phantom), whose options give way to those given here.
        out: The folder for the manifest.
        labels: A CSV with one row per scan.
        key: The column of the CSV that holds the paths of the scans, or their pseudonyms in this manifest (labels from the
            dashboard have these in a column `scan`, and the patients' in a column `patient`).
        patient: A column of the CSV that says whose scan it is, or else a pattern with one group on the path; without
            it DICOM's PatientID counts, and a scan that has none is its own patient, with a warning.
        label: The columns of the CSV to keep, as they are; no other is kept, and a list of the others is printed. A column
            of dates, identifiers or free text is refused.
        report: A column of report text, kept for methods that read it. Dates, long numbers, addresses, names after words such as
            Dr. or signed by, and what the header, the path and the other columns say are taken out. Whatever follows no such
            pattern stays, such as a name in the middle of a sentence: review it with --preview 20 before you hand it on.
        preview: Show this many reports as they are kept, on the terminal alone, those with the most words that may be names
            first.
        mask: Where an image's mask lies, from the image's folder (for a DICOM series from the one above it), such as
            ../labels/{name}, {stem}_mask.nii.gz or {name}_seg.dcm.
        classes_from_folders: Take the folder's name as the label `class`.
        modality: DICOM's code for scans in formats that do not say it; without it, a column `modality` of the labels is
            taken, and where values look like Hounsfield units a warning asks for one.
        key_file: A key of your own for the pseudonyms, made here if the file does not exist yet. Keep one for each site and give it
            each time: only then has a patient the same pseudonym in two manifests, and a study can tell whether a test
            patient was pretrained on. Whoever has the key can check whether somebody is among the patients.
        accept_burned_in_risk: Keep, flagged, the scans that are otherwise quarantined because their pixels may show a
            name: ultrasound, fluoroscopy, secondary captures and screen saves whose header does not say
            BurnedInAnnotation NO. Look at them first.
        audit: Write audit.csv too.
        correct: What may be corrected in a DICOM series instead of rejecting it, tilt (gantry tilt, sheared straight)
            and spacing (uneven steps or a missing slice, resampled); the manifest says where it was done.
        jobs: Processes, -1 for one per core.
        scheduler: The address of a dask.distributed cluster that sees the same files, in place of jobs.

    Returns:
        The manifest; `manifest.attrs["warnings"]` holds the warnings, without names.

    Raises:
        MedsslError: Nothing usable lies in the folders, or options do not fit.

    >>> manifest = index([Path("scans")], Path("manifest"), patient=r"(sub-\\d+)")        # doctest: +SKIP
    """
    requested = IndexOptions(labels, key, patient, label, report, mask, classes_from_folders, modality)
    paths, options = _resolve(sources, requested)
    _check_options(options, preview)
    template = MaskTemplate(options.mask) if options.mask else None
    table = LabelTable(options) if options.labels else None
    patients = PatientRule(options.patient, list(table.frame.columns) if table else [])
    corrections = check_corrections(correct)
    out = Path(out)
    notices: list[Notice] = []
    with exclusive(out), CandidateStore(out) as candidates:
        pseudonyms = _pseudonyms(out, key_file)
        collect(candidates, named_sources(paths), out, notices, template, corrections, jobs, scheduler)
        if not accept_burned_in_risk:
            _quarantine(candidates.series)
        stream: Iterator[Candidate] = iter(candidates)
        if table:
            stream = table.join(candidates, notices, lambda candidate: pseudonyms.of("scan", candidate.identity))
        stream = patients.apply(stream, notices)
        if options.report:
            stream = count_reports(stream, notices)
        if options.classes_from_folders:
            stream = map(_with_class, stream)
        if template:
            stream = run_parallel(with_mask_checked, stream, jobs, "masks", batch=BATCH, scheduler=scheduler)
        manifest = _write(stream, pseudonyms, options.modality, out)
        if options.modality is None:
            notices += hounsfield_notices(manifest, read_table(out / "sources.parquet"))
        if audit:
            write_audit(_audited_files(out), out, jobs)
    print_notices(notices)
    if preview:
        print_reports(reports_to_review(manifest["report"], preview))
    manifest.attrs["warnings"] = [notice.text for notice in notices]
    check_any_usable(manifest)
    return manifest


def _pseudonyms(out: Path, key_file: Path | None) -> Pseudonyms:
    """Those of the user's key, or of the manifest's own. Raises MedsslError where the manifest was made with another."""
    own = out / "pseudonym.key"
    if key_file is not None and own.exists():
        raise MedsslError(
            f"{out} was made with a key of its own (pseudonym.key): expected no --key-file; give another --out"
        )
    table = out / "manifest.parquet"
    present = pseudonym_key(read_table(table)) if table.exists() else None
    if present is not None and not (key_file or own).exists():
        raise MedsslError(
            f"{out} was made with the key {present}, which is not there: expected it with --key-file, or a new --out; every patient "
            "would get another pseudonym"
        )
    pseudonyms = Pseudonyms(Path(key_file or own))
    if present not in (None, pseudonyms.fingerprint):
        raise MedsslError(
            f"{out} was made with the key {present}, this one is {pseudonyms.fingerprint}: expected the same, or every patient "
            "would get another pseudonym; give that key with --key-file, or a new --out"
        )
    return pseudonyms


def _resolve(sources: Sequence[Path | str], requested: IndexOptions) -> tuple[list[Path], IndexOptions]:
    """The paths to walk and the options: those of a dataset where the sources name one."""
    datasets = [dataset for source in sources if (dataset := named_dataset(source))]
    if datasets and len(sources) > 1:
        raise MedsslError(f"a dataset stands among {len(sources)} sources: expected it alone; index each by itself")
    paths = datasets[0].files() if datasets else sources
    options = datasets[0].options().merged(requested) if datasets else requested
    return [Path(os.path.normpath(path)) for path in paths], options


def _check_options(options: IndexOptions, preview: int) -> None:
    if options.modality is not None:
        check_code(options.modality)
    if (options.label or options.report) is not None and options.labels is None:
        raise MedsslError(
            "label and report name columns, but no labels file is given: expected --labels FILE.csv with it"
        )
    if preview and options.report is None:
        raise MedsslError("preview shows reports, but none are kept: expected --report COLUMN with it")


def _quarantine(series: Iterable[Candidate]) -> None:
    for candidate in series:
        if candidate.header and candidate.header.burned_in_risk:
            candidate.reject(f"quarantined: {candidate.header.burned_in_risk}; {LOOK_FIRST}")


def _with_class(candidate: Candidate) -> Candidate:
    candidate.labels = candidate.labels | {"class": candidate.path.parent.name}
    return candidate


def _write(candidates: Iterable[Candidate], pseudonyms: Pseudonyms, modality: str | None, out: Path) -> pd.DataFrame:
    """The tables on disk; of each scan only its row stays in memory, and equal cells share one object."""
    columns = Columns()
    with RowGroups(out / "sources.parquet", SOURCES) as sources:
        for candidate in candidates:
            scan = pseudonyms.of("scan", candidate.identity)
            columns.add(_row(candidate, scan, pseudonyms, modality or candidate.modality))
            sources.add(_source_row(candidate, scan))
    manifest = manifest_frame(columns)
    for name in manifest:
        if name.startswith("label."):
            check_classes(name.removeprefix("label."), manifest[name])
    rejects = manifest.loc[manifest.status == "rejected", ["scan", "reason"]].reset_index(drop=True)
    write_atomically(out / "rejects.parquet", to_parquet(rejects))
    write_atomically(out / "manifest.parquet", to_parquet(manifest))
    return manifest


def _source_row(candidate: Candidate, scan: str) -> dict[str, object]:
    return {
        "scan": scan,
        "files": [os.path.realpath(file) for file in candidate.files],
        "format": candidate.format,
        "member": candidate.member,
        "mask": os.path.realpath(candidate.mask) if candidate.mask else None,
        "correct": ",".join(candidate.header.corrected) if candidate.header else None,
    }


def _row(candidate: Candidate, scan: str, pseudonyms: Pseudonyms, modality: str | None) -> dict[str, object]:
    header, format = candidate.header, candidate.format
    row: dict[str, object] = {
        "scan": scan,
        "patient": candidate.pseudonym or (pseudonyms.of("patient", candidate.patient) if candidate.patient else None),
        PSEUDONYM_KEY: pseudonyms.fingerprint,
        "format": suffix(Path(candidate.files[0])).lstrip(".") if format == "image" else format,
        "has_mask": candidate.mask is not None,
        "status": "rejected" if candidate.reason else "ok",
        "reason": candidate.reason,
    }
    if header:
        volume = len(header.shape) == 3
        row |= {
            "modality": modality if modality and format != "dicom" else header.modality,
            "dims": len(header.shape),
            "shape": list(header.shape),
            "channels": header.channels,
            "frames": header.frames,
            "spacing_mm": [round(step, 6) for step in header.spacing_mm],
            "orientation": geometry.orientation(header.affine) if volume else None,
            "slice_axis": header.slice_axis,
            "corrected": ",".join(header.corrected) or None,
            "manufacturer": header.manufacturer,
            "site": pseudonyms.of("site", header.site) if header.site else None,
            "affine_rule": header.affine_rule if volume else None,
            "qform_apart_mm": None if header.qform_apart_mm is None else round(header.qform_apart_mm, 3),
            "flags": join_flags(None, header_flags(header)),
            "notes": "; ".join(header.notes) or None,
        }
    if candidate.report is not None:
        row["report"] = candidate.report
    labels = {**(header.labels if header else {}), **candidate.labels}
    return row | {f"label.{name}": value for name, value in labels.items()}


def _audited_files(out: Path) -> Iterator[tuple[Path, str]]:
    """Every file whose header was read, masks too, with its format."""
    for row in read_table(out / "sources.parquet").itertuples():
        for file in row.files if row.format == "dicom" else row.files[:1]:
            yield Path(file), row.format
        if row.mask:
            yield Path(row.mask), file_format(Path(row.mask)) or ""
