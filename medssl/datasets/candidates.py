"""Scans on their way into the manifest, held on disk: an archive may be larger than the memory.

with CandidateStore(out) as candidates:
    candidates.add(Candidate(source, path, [str(path)], "nifti", header=header))
    for candidate in candidates: ...            # in the order of their paths, as often as needed
"""

from __future__ import annotations

import copy
import heapq
import operator
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.scans.scan import Header

BATCH = 64  # scans that go to a process, or to the disk, at once
Parts = tuple[str, ...]  # of a path


@dataclass(frozen=True)
class Source:
    """A folder or file that the user named, and a short name for it that no other source has."""

    path: Path
    name: str

    def relative(self, path: Path) -> Path:
        """A path below this source; a source that is one file lies below its folder."""
        base = self.path if path != self.path or path.is_dir() else self.path.parent
        return path.relative_to(base)


@dataclass(slots=True)
class Candidate:
    """One scan on its way into the manifest."""

    source: Source
    path: Path  # the file, or the folder of a DICOM series
    files: list[str]
    format: str
    member: str | None = None
    header: Header | None = None
    reason: str | None = None
    mask: Path | None = None
    patient: str | None = None
    pseudonym: str | None = None  # of the patient, where the labels give that
    labels: dict[str, object] = field(default_factory=dict)
    report: str | None = None  # scrubbed
    modality: str | None = None  # of the labels

    def reject(self, reason: str) -> None:
        """Leave the scan out; the first reason stays."""
        self.reason = self.reason or reason

    @property
    def order(self) -> tuple[str, tuple[str, ...]]:
        """Sorts the manifest, whatever the pseudonyms' key and the number of processes."""
        return self.source.name, self.source.relative(Path(self.files[0])).parts

    @property
    def identity(self) -> str:
        """What the scan's pseudonym is made of: its place below its source."""
        place = f"{self.source.name}/{self.source.relative(Path(self.files[0])).as_posix()}"
        return place if self.member is None else f"{place}#{self.member}"

    @property
    def label_paths(self) -> list[Parts]:
        """The paths by which a row of labels may name this scan: its own, and for DICOM its folder's."""
        paths = {self.path}
        if self.format == "dicom" and Path(self.files[0]).parent != self.source.path:
            paths.add(Path(self.files[0]).parent)
        return [(self.source.name, *self.source.relative(path).parts) for path in sorted(paths)]


def named_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources in the order of their names: the folder's own name, or its whole path where two have the same."""
    names = [path.resolve().name for path in paths]
    named = {path: name if names.count(name) == 1 else str(path.resolve()) for path, name in zip(paths, names)}
    return sorted((Source(path, name) for path, name in named.items()), key=operator.attrgetter("name"))


class CandidateStore:
    """All candidates in the order of their paths, to be read again and again.

    Those that are files lie in an unnamed file on disk that vanishes with the process; DICOM series are in a list.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._unsaved: list[Candidate] = []
        self.series: list[Candidate] = []

    def add(self, candidate: Candidate) -> None:
        """Add one scan, which comes after all that were added before."""
        self._unsaved.append(candidate)
        if len(self._unsaved) >= BATCH:
            self._flush()

    def __iter__(self) -> Iterator[Candidate]:
        self._flush()
        by_path = operator.attrgetter("order")
        self.series.sort(key=by_path)
        return heapq.merge(self._stored(), map(copy.copy, self.series), key=by_path)

    def _flush(self) -> None:
        self._file.seek(0, os.SEEK_END)
        pickle.dump(self._unsaved, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._unsaved = []

    def _stored(self) -> Iterator[Candidate]:
        offset = 0
        while True:
            self._file.seek(offset)
            try:
                candidates = pickle.load(self._file)
            except EOFError:
                return
            offset = self._file.tell()
            yield from candidates

    def __enter__(self) -> CandidateStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
