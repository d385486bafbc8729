"""Folders of scans -> a manifest, by their headers alone; with labels, patients and masks joined on.

Four files in the folder `out`:
    manifest.parquet    one row a scan, no path and no name: may be shared as the data themselves may be
    rejects.parquet     the scans that cannot be used, and why
    sources.parquet     which files each scan is (mode 0600)
    pseudonym.key       what the pseudonyms are made with (mode 0600)

    manifest = index([Path("hippocampus")], Path("manifest"), labels=Path("volumes.csv"), patient="subject",
                     mask="../labels/{name}", modality="MR")
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medssl.disk import write_atomically
from medssl.errors import MedsslError, ScanError, nearest
from medssl.scans import geometry
from medssl.scans.base import Header
from medssl.scans.dicom import Series, group
from medssl.scans.dicom_correct import check_corrections
from medssl.scans.dicom_slices import Slice, read_slices
from medssl.scans.files import kind, run_parallel, suffix, walk
from medssl.scans.labels import LabelTable, Parts, Warned
from medssl.scans.masks import MaskTemplate
from medssl.scans.privacy import MODALITIES, Pseudonyms
from medssl.scans.read import check_mask, read_headers
from medssl.scans.tables import manifest_frame, refuse_nothing, to_parquet

NO_ROW = "no row in labels: patient unknown"


@dataclass
class Found:
    """One scan on its way into the manifest."""

    source: Path
    path: Path  # the file, or the folder of a DICOM series
    files: list[str]
    format: str
    member: str | None = None
    header: Header | None = None
    reason: str | None = None
    mask: Path | None = None
    patient: str | None = None
    labels: dict[str, object] = field(default_factory=dict)

    def reject(self, reason: str) -> None:
        self.reason = self.reason or reason


def index(
    sources: Sequence[Path],
    out: Path,
    labels: Path | None = None,
    key: str = "file",
    patient: str | None = None,
    label: Sequence[str] | None = None,
    mask: str | None = None,
    classes_from_folders: bool = False,
    modality: str | None = None,
    correct: Sequence[str] | None = None,
    jobs: int = 1,
) -> pd.DataFrame:
    """Read the headers of every scan under the sources and write the manifest; returns it.

    labels: a CSV; `key` names its column of paths, `label` the columns to keep (default: all with few
    values). patient: a column of the CSV, else a pattern with one group on the path; else DICOM's PatientID;
    else each scan is its own patient, with a warning. mask: where an image's mask lies, from the image's folder
    (a DICOM series: from the one above it), as ../labels/{name} or {stem}_mask.nii.gz, {name}_seg.dcm. classes_from_folders: the folder's
    name as label `class`. modality: for formats that do
    not say it. correct: what may be corrected in a DICOM series instead of refused, tilt (gantry tilt, sheared straight)
    and spacing (uneven steps or a missing slice, resampled); the manifest says where it was done. Warnings go to the terminal; `manifest.attrs["warnings"]` has them without names.
    Raises MedsslError for folders with nothing usable and for options that do not fit.

    >>> manifest = index([Path("scans")], Path("manifest"), patient=r"(sub-\\d+)")        # doctest: +SKIP
    """
    template = MaskTemplate(mask) if mask else None
    table = LabelTable(labels, key, patient, label) if labels else None
    patients = _PatientRule(patient, table)
    _check_options(modality, label, labels)
    corrections = check_corrections(correct)
    sources, out = [Path(os.path.normpath(source)) for source in sources], Path(out)
    warned: list[Warned] = []
    found = _find(sources, out, template, warned, corrections, jobs)
    prefixes = _prefixes(sources)
    found.sort(key=lambda item: (prefixes[item.source], _relative(item, Path(item.files[0])).parts))
    if table:
        warned += _join(found, table, prefixes)
    patients.apply(found, prefixes, warned)
    if classes_from_folders:
        for item in found:
            item.labels["class"] = item.path.parent.name
    _check_masks(found, jobs)
    names = Pseudonyms(out / "pseudonym.key")
    manifest = _write(found, prefixes, names, modality, out)
    _tell(warned)
    manifest.attrs["warnings"] = [item.text for item in warned]
    refuse_nothing(manifest)
    return manifest


def _check_options(modality: str | None, label, labels) -> None:
    if modality is not None and modality not in MODALITIES:
        raise MedsslError(f"modality {modality!r} is no DICOM modality code{nearest(modality, MODALITIES)}")
    if label is not None and labels is None:
        raise MedsslError("label names columns, but no labels file is given: expected --labels FILE.csv with it")


def _find(
    sources, out: Path, template: MaskTemplate | None, warned: list[Warned], correct: tuple[str, ...], jobs: int
) -> list[Found]:
    """Every scan and every file that should have been one."""
    files = [(source, path, kind(path)) for source, path in walk(sources, leave_out=out)]
    others = sorted({suffix(path) or "no suffix" for _, path, format in files if format is None})
    skipped = sum(format is None for _, _, format in files)
    if skipped:
        warned.append(Warned(f"{skipped} files of other kinds were skipped", tuple(others)))
    files = [entry for entry in files if entry[2] is not None]
    if not files:
        raise MedsslError(
            f"no scan in {', '.join(map(str, sources))}: expected DICOM, NIfTI, NRRD, PNG, JPEG, TIFF or "
            "MedMNIST .npz "
            f"files, found {skipped} of other kinds"
        )
    pairs, masks = _pair(files, template, warned)
    scans = [entry for entry in files if entry[1] not in masks]
    found = [item for part in run_parallel(_look, scans, jobs, "headers") for item in part]
    found = _series([item for item in found if isinstance(item, tuple)], correct) + [
        item for item in found if isinstance(item, Found)
    ]
    _give_masks(found, pairs, files, masks)
    return found


def _pair(files, template: MaskTemplate | None, warned: list[Warned]) -> tuple[dict[Path, Path], set[Path]]:
    if template is None:
        return {}, set()
    folders = {path.parent for _, path, format in files if format == "dicom"}
    pairs, masks = template.split([path for _, path, _ in files], folders)
    if not pairs:
        warned.append(Warned("the mask pattern leads from no image to a file that exists: every scan is without mask"))
    return pairs, masks


def _look(entry: tuple[Path, Path, str]) -> list:
    """The scans of one file as `Found`, or (source, slice) for each slice of a DICOM file."""
    source, path, format = entry
    try:
        if format == "dicom":
            return [(source, item) for item in read_slices(str(path))]
        return [
            Found(source, path, [str(path)], format, member, header) for member, header in read_headers(path, format)
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


def _give_masks(found: list[Found], pairs: dict[Path, Path], files, masks: set[Path]) -> None:
    """Each scan its mask, and a reject for each mask that no scan has."""
    used = set()
    for item in found:
        folder = item.path if item.path.is_dir() else item.path.parent
        item.mask = pairs.get(item.path) or (pairs.get(folder) if item.format == "dicom" else None)
        used.add(item.mask)
    for source, path, format in files:
        if path in masks and path not in used:
            found.append(Found(source, path, [str(path)], format, reason="a mask without an image: left out"))


def _prefixes(sources: list[Path]) -> dict[Path, str]:
    """A short name for each source folder; its whole path where two have the same name."""
    names = [source.resolve().name for source in sources]
    return {source: name if names.count(name) == 1 else str(source.resolve()) for source, name in zip(sources, names)}


def _relative(item: Found, path: Path) -> Path:
    base = item.source if item.source.is_dir() else item.source.parent
    return path.relative_to(base)


def _text(item: Found, prefixes: dict[Path, str]) -> str:
    """What a scan's pseudonym is made of: its place below its source, as stable as that place."""
    place = f"{prefixes[item.source]}/{_relative(item, Path(item.files[0])).as_posix()}"
    return place if item.member is None else f"{place}#{item.member}"


def _parts(item: Found, prefixes: dict[Path, str]) -> list[Parts]:
    """The paths a label row may name this scan by: its own, and for DICOM its folder's."""
    paths = {item.path}
    if item.format == "dicom" and Path(item.files[0]).parent != item.source:
        paths.add(Path(item.files[0]).parent)
    return [(prefixes[item.source], *_relative(item, path).parts) for path in sorted(paths)]


def _join(found: list[Found], table: LabelTable, prefixes) -> list[Warned]:
    rows, warned = table.match([_parts(item, prefixes) for item in found], [item.reason is None for item in found])
    for item, row in zip(found, rows):
        if isinstance(row, int):
            item.labels.update(table.values(row))
            item.patient = table.patient_of(row) if table.patient else None
        if table.patient and row == "twice":
            item.reject("its rows in labels disagree: patient unknown; keep one row")
        elif table.patient and item.patient is None:
            item.reject(NO_ROW if row is None else "its row in labels has no patient: fill it in")
    return warned


class _PatientRule:
    """Where patients come from: a column, a pattern on the path, or the header."""

    def __init__(self, patient: str | None, table: LabelTable | None) -> None:
        self.from_labels = table is not None and table.patient is not None
        self.pattern = None if patient is None or self.from_labels else _pattern(patient, table)

    def apply(self, found: list[Found], prefixes: dict[Path, str], warned: list[Warned]) -> None:
        alone = 0
        for item in found:
            if self.pattern:
                match = self.pattern.search(_relative(item, item.path).as_posix())
                item.patient = match[1] if match else None
                if not item.patient:
                    item.reject("the patient pattern does not match its path: patient unknown")
            elif not self.from_labels and item.header:
                item.patient = item.header.patient
                if item.patient is None:
                    item.patient = f"scan {_text(item, prefixes)}"
                    alone += item.reason is None
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


def _check_masks(found: list[Found], jobs: int) -> None:
    """Reject the scans whose mask lies on another grid."""
    pairs = [item for item in found if item.mask and item.header and item.reason is None]
    checks = [(item.mask, item.header) for item in pairs]
    for item, reason in zip(pairs, run_parallel(_mask_reason, checks, jobs, "masks")):
        if reason:
            item.reject(reason)


def _mask_reason(check: tuple[Path, Header]) -> str | None:
    path, image = check
    try:
        check_mask(path, image.affine, image.shape)
    except ScanError as error:
        return f"mask: {error}"
    return None


def _write(found: list[Found], prefixes, names: Pseudonyms, modality: str | None, out: Path) -> pd.DataFrame:
    scans = [names.of("scan", _text(item, prefixes)) for item in found]
    rows = [_row(item, scan, names, modality) for item, scan in zip(found, scans)]
    manifest = manifest_frame(rows)
    sources = pd.DataFrame(
        {
            "scan": scans,
            "files": [[str(Path(file).resolve()) for file in item.files] for item in found],
            "format": [item.format for item in found],
            "member": [item.member for item in found],
            "mask": [str(item.mask.resolve()) if item.mask else None for item in found],
            "correct": [",".join(item.header.corrected) if item.header else None for item in found],
        }
    )
    rejects = manifest.loc[manifest.status == "rejected", ["scan", "reason"]].reset_index(drop=True)
    write_atomically(out / "sources.parquet", to_parquet(sources), mode=0o600)
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
            "notes": "; ".join(header.notes) or None,
        }
    labels = {**(header.labels if header else {}), **item.labels}
    return row | {f"label.{name}": value for name, value in labels.items()}


def _tell(warned: list[Warned]) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    for item in warned:
        console.print(f"warning: {item}", markup=False, highlight=False, soft_wrap=True)
