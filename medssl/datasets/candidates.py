"""Scans on their way into the manifest, held on disk: an archive may be larger than the memory.

with Pile(out, prefixes) as found:
    found.add(Found(source, path, [str(path)], "nifti", header=header))
    for item in found: ...                      # in the order of their paths, as often as wanted
"""

from __future__ import annotations

import copy
import functools
import heapq
import os
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medssl.scans.scan import Header

BATCH = 64  # scans that go to a process, or to the disk, at once


@dataclass(slots=True)
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
    report: str | None = None  # scrubbed

    def reject(self, reason: str) -> None:
        self.reason = self.reason or reason


class Pile:
    """The scans found so far, in the order of their paths, again and again: those of one file in a file without a name
    that dies with the process, for an archive may be larger than the memory; DICOM series in a list."""

    def __init__(self, folder: Path, prefixes: dict[Path, str]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._key = functools.partial(place, prefixes)
        self._new: list[Found] = []
        self.series: list[Found] = []

    def add(self, item: Found) -> None:
        """One more scan, which comes after all that were added before."""
        self._new.append(item)
        if len(self._new) >= BATCH:
            self._flush()

    def __iter__(self) -> Iterator[Found]:
        self._flush()
        self.series.sort(key=self._key)
        return heapq.merge(self._stored(), map(copy.copy, self.series), key=self._key)

    def _flush(self) -> None:
        self._file.seek(0, os.SEEK_END)
        pickle.dump(self._new, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._new = []

    def _stored(self) -> Iterator[Found]:
        place = 0
        while True:
            self._file.seek(place)
            try:
                items = pickle.load(self._file)
            except EOFError:
                return
            place = self._file.tell()
            yield from items

    def __enter__(self) -> Pile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def relative(item: Found, path: Path) -> Path:
    base = item.source if path != item.source or path.is_dir() else item.source.parent
    return path.relative_to(base)


def place(prefixes: dict[Path, str], item: Found) -> tuple[str, tuple[str, ...]]:
    """Where a scan comes in the manifest, whatever the pseudonyms' key and the number of processes."""
    return prefixes[item.source], relative(item, Path(item.files[0])).parts
