"""Folders -> candidates: every scan below the sources by its header, DICOM slices grouped to series, masks set apart.

with CandidateStore(out) as candidates:
    collect(candidates, named_sources([Path("archive")]), leave_out=out, notices=[])
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.core.errors import MedsslError, ScanError
from medssl.core.parallel import run_parallel
from medssl.datasets.candidates import BATCH, Candidate, CandidateStore, Source
from medssl.datasets.masks import MaskTemplate
from medssl.datasets.notices import Notice
from medssl.scans.dicom.series import Series, group_slices
from medssl.scans.dicom.slices import Slice, read_slices
from medssl.scans.dicom.volume import series_header
from medssl.scans.paths import file_format, suffix, walk
from medssl.scans.read import check_mask, files_of, read_headers

File = tuple[Source, Path, str]  # a file, what it lies in, and its format


def collect(
    candidates: CandidateStore,
    sources: Sequence[Source],
    leave_out: Path,
    notices: list[Notice],
    template: MaskTemplate | None = None,
    correct: tuple[str, ...] = (),
    jobs: int = 1,
    scheduler: str | None = None,
) -> None:
    """Put every scan, and every file that should have been one, into the store.

    Args:
        candidates: The store.
        sources: Where to look.
        leave_out: A folder that is not looked into: the manifest's own.
        notices: What is reported later is appended to this list.
        template: Which file is the mask of which scan.
        correct: What may be corrected in a DICOM series.
        jobs: Processes, -1 for one per core.
        scheduler: The address of a dask.distributed cluster, in place of jobs.

    Raises:
        MedsslError: A source does not exist, or there is no scan at all.
    """
    skipped: Counter[str] = Counter()
    unreachable: list[tuple[str, str]] = []
    files: Iterable[File] = _readable_files(sources, leave_out, skipped, unreachable)
    masks = _Masks()
    if template:
        files = list(files)
        masks = _pair(files, template, notices)
    scan_files = (file for file in files if file[1] not in masks.files)
    slices: list[tuple[Source, Slice]] = []
    count = len(masks.files)
    for contents in run_parallel(_read_file, scan_files, jobs, "headers", batch=BATCH, scheduler=scheduler):
        for item in contents:
            count += 1
            if isinstance(item, Candidate):
                masks.assign(item)
                candidates.add(item)
            else:
                slices.append(item)
    candidates.series = _series(slices, correct)
    for candidate in candidates.series:
        masks.assign(candidate)
    if template:
        candidates.series += masks.without_scan(files)
    notices += _unreachable_notices(unreachable)
    _check_any_scan(sources, count, skipped, notices)


def with_mask_checked(candidate: Candidate) -> Candidate:
    """The candidate, rejected where its mask lies on another grid."""
    if candidate.mask and candidate.header and candidate.reason is None:
        try:
            check_mask(candidate.mask, candidate.header.affine, candidate.header.shape)
        except ScanError as error:
            candidate.reject(f"mask: {error}")
    return candidate


@dataclass
class _Masks:
    """pairs: an image, or a folder of DICOM, and its mask. files: everything that is a mask and so no scan."""

    pairs: dict[Path, Path] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)
    used: set[Path] = field(default_factory=set)

    def assign(self, candidate: Candidate) -> None:
        """Give a candidate its mask."""
        mask = self.pairs.get(candidate.path)
        if mask is None and candidate.format == "dicom":
            folder = candidate.path if candidate.path.is_dir() else candidate.path.parent
            mask = self.pairs.get(folder)
        if mask:
            candidate.mask = mask
            self.used.add(mask)

    def without_scan(self, files: Iterable[File]) -> list[Candidate]:
        """A rejected candidate for each mask that no scan has."""
        reason = "a mask without an image: left out"
        return [
            Candidate(source, path, [str(path)], format, reason=reason)
            for source, path, format in files
            if path in self.files - self.used
        ]


def _pair(files: Sequence[File], template: MaskTemplate, notices: list[Notice]) -> _Masks:
    folders = {path.parent for _, path, format in files if format == "dicom"}
    pairs, masks = template.split([path for _, path, _ in files], folders)
    if not pairs:
        tried = tuple(str(template.path(path)) for _, path, _ in files[:1])
        text = "the mask pattern leads from no image to a file that exists, every scan is without mask; the first tried"
        notices.append(Notice(text, tried))
    return _Masks(pairs, masks)


def _unreachable_notices(unreachable: Sequence[tuple[str, str]]) -> list[Notice]:
    """One notice a reason, with the paths, for the terminal."""
    paths: dict[str, list[str]] = {}
    for path, reason in unreachable:
        paths.setdefault(reason, []).append(path)
    return [
        Notice(f"{len(names)} entries of the folders were left out: {reason}", tuple(names))
        for reason, names in paths.items()
    ]


def _readable_files(
    sources: Sequence[Source], leave_out: Path, skipped: Counter[str], unreachable: list[tuple[str, str]]
) -> Iterator[File]:
    """The files of a format that is read; the others are counted by their suffix."""
    source_of = {source.path: source for source in sources}
    for root, path in walk(list(source_of), leave_out, unreachable):
        format = file_format(path)
        if format is not None:
            yield source_of[root], path, format
        elif not _holds_voxels_of_header(path):
            skipped[suffix(path) or "no suffix"] += 1


def _holds_voxels_of_header(path: Path) -> bool:
    headers = {".raw": (".mhd",), ".zraw": (".mhd",), ".img": (".hdr", ".hdr.gz"), ".img.gz": (".hdr", ".hdr.gz")}
    without_suffix = path.name[: -len(suffix(path))] if suffix(path) in headers else ""
    beside = (path.with_name(without_suffix + end) for end in headers.get(suffix(path), ()))
    return any(os.path.exists(file) for file in beside)  # unlike Path's, false for a name that no disk can hold


def _check_any_scan(sources: Sequence[Source], count: int, skipped: Counter[str], notices: list[Notice]) -> None:
    if skipped:
        notices.insert(0, Notice(f"{skipped.total()} files of other kinds were skipped", tuple(sorted(skipped))))
    if not count:
        raise MedsslError(
            f"no scan in {', '.join(str(source.path) for source in sources)}: expected DICOM, NIfTI, NRRD, MetaImage, "
            f"PNG, JPEG, TIFF or MedMNIST .npz files, found {skipped.total()} of other kinds"
        )


def _read_file(file: File) -> list[Candidate | tuple[Source, Slice]]:
    """The scans of one file, or each slice of a DICOM file with its source."""
    source, path, format = file
    try:
        if format == "dicom":
            return [(source, item) for item in read_slices(str(path))]
        return [
            Candidate(source, path, [str(part) for part in files_of(path, format)], format, member, header)
            for member, header in read_headers(path, format)
        ]
    except ScanError as error:
        return [Candidate(source, path, [str(path)], format, reason=str(error))]
    except OSError as error:
        reason = f"the file cannot be opened ({errno.errorcode.get(error.errno or 0, 'error')}): expected one that is readable"
        return [Candidate(source, path, [str(path)], format, reason=reason)]


def _series(slices: list[tuple[Source, Slice]], correct: tuple[str, ...]) -> list[Candidate]:
    source_of = {item.file: source for source, item in slices}
    grouped = group_slices(item for _, item in slices)
    return [_series_candidate(series, source_of[series.files[0]], correct) for series in grouped]


def _series_candidate(series: Series, source: Source, correct: tuple[str, ...]) -> Candidate:
    first = Path(series.files[0])
    path = first.parent if len(series.files) > 1 else first
    candidate = Candidate(source, path, series.files, "dicom", member=series.member)
    try:
        candidate.header = series_header(series, correct)
    except ScanError as error:
        candidate.reject(str(error))
    return candidate
