"""Files: what lies in a folder and what kind each file is.

for source, path in walk([Path("archive")]):
    kind(path)            # "dicom", "nifti", "nrrd", "metaimage", "image", "npz" or None
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from medssl.errors import MedsslError, ScanError

SUFFIXES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".tif": "image",
    ".tiff": "image",
    ".npz": "npz",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
}
INFLATE_LIMIT = 1032  # deflate cannot do better than 1032 to 1: a header that claims more is lying
CHUNK = 1 << 20


def walk(sources: Iterable[Path], leave_out: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """(source, file) for every file under the sources, each once; hidden files and the folder `leave_out`
    skipped.

    Raises MedsslError for a source that does not exist.
    """
    seen: set[Path] = set()
    hidden_out = leave_out.resolve() if leave_out else None
    for source in sources:
        if not source.exists():
            raise MedsslError(f"{source} does not exist: expected a folder or a file with scans")
        for path in _files(source, hidden_out):
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                yield source, path


def kind(path: Path) -> str | None:
    """How to read a file: by its suffix, else by DICOM's magic word at byte 128; None for everything else."""
    name = path.name.lower()
    found = SUFFIXES.get(suffix(path))
    if found is None and name != "dicomdir" and _has_dicom_magic(path):
        return "dicom"
    return found


def suffix(path: Path) -> str:
    """The suffix in small letters, `.nii.gz` in one piece."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """The file's name without its suffix, `.nii.gz` cut off whole; a suffix we do not know belongs to the
    name."""
    end = suffix(path)
    return path.name[: -len(end)] if end in SUFFIXES else path.name


def gunzip(data: bytes, expected: int | None = None) -> bytes:
    """Unpack gzip members to the end, CRC and length checked; never grows past `expected` bytes plus one
    chunk.

    Raises ScanError for damage, truncation, or more bytes than the header claimed.
    """
    limit = len(data) * INFLATE_LIMIT if expected is None else expected + CHUNK
    out = bytearray()
    rest = data
    while rest.strip(b"\0"):
        rest = _gunzip_member(rest, out, limit)
    return bytes(out)


def _gunzip_member(data: bytes, out: bytearray, limit: int) -> bytes:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    feed = data
    try:
        while not unpacker.eof:
            piece = unpacker.decompress(feed, CHUNK)
            feed = unpacker.unconsumed_tail
            out += piece
            if len(out) > limit:
                raise ScanError(
                    f"the file unpacks to more than {limit} bytes, its header claims less: it is damaged; "
                    "fetch it again"
                )
            if not piece and not feed and not unpacker.eof:
                raise ScanError(
                    f"the gzip stream ends after {len(out)} bytes without its checksum: the file is "
                    "truncated; "
                    "fetch it again"
                )
    except zlib.error:
        raise ScanError(
            f"the gzip stream is damaged or not gzip ({len(out)} bytes could be unpacked): fetch the file again"
        ) from None
    return unpacker.unused_data


@contextlib.contextmanager
def in_words(what: str) -> Iterator[None]:
    """Whatever a parser trips over becomes a ScanError with its class alone, its warnings and logs are kept
    quiet: their text may quote a header or a path."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "tifffile", "nibabel.global")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MedsslError, MemoryError):
        raise
    except Exception as error:
        raise ScanError(
            f"{what} cannot be read ({type(error).__name__}): damaged or cut short; fetch it again"
        ) from None
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled


def _files(source: Path, leave_out: Path | None) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, files in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() != leave_out
        )
        paths = (here / name for name in sorted(files) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())  # a pipe would be waited on for ever


def _has_dicom_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def run_parallel(work: Callable[[Any], Any], items: list[Any], jobs: int, title: str) -> Iterator[Any]:
    """`work(item)` for each item, in order, on `jobs` processes, with a progress bar on stderr."""
    from joblib import Parallel, delayed
    from rich.console import Console
    from rich.progress import track

    results = (
        (work(item) for item in items)
        if jobs == 1
        else Parallel(n_jobs=jobs, return_as="generator")(delayed(work)(item) for item in items)
    )
    console = Console(stderr=True)
    return iter(track(results, title, len(items), console=console, transient=True, disable=not console.is_terminal))
