"""Files: what lies in a folder and which format each file has.

for source, path in walk([Path("archive")]):
    file_format(path)     # "dicom", "nifti", "nrrd", "metaimage", "image", "npz" or None
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from medssl.core.errors import MedsslError, ScanError

SUFFIXES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".hdr.gz": "nifti",
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
SYSTEM_FOLDERS = ("/proc", "/sys")
PACKED = (".nii.gz", ".hdr.gz", ".img.gz")  # suffixes in two parts
INFLATE_LIMIT = 1032  # deflate packs at most 1032 to 1: a header that claims more is wrong
CHUNK = 1 << 20  # bytes
NOT_ZERO = re.compile(rb"[^\0]")
BYTES_A_VOXEL = 8  # of memory that `prepare` takes: at most four times the two bytes of most scans


def walk(
    sources: Sequence[Path], leave_out: Path | None = None, unreachable: list[tuple[str, str]] | None = None
) -> Iterator[tuple[Path, Path]]:
    """(source, file) for every file under the sources, each once, folder by folder in the order of the names.

    Hidden files are skipped, and so are links to files and folders that lie under the sources themselves; other links
    are followed, each target once. No entry stops the walk.

    Args:
        sources: Folders and files.
        leave_out: A folder to skip.
        unreachable: A list to which (path as text that can be printed, why) of every entry that cannot be read is added.

    Raises:
        MedsslError: A source does not exist.
    """
    for source in sources:
        if not source.exists():
            raise MedsslError(f"{source} does not exist: expected a folder or a file with scans")
    roots = [source.resolve() for source in sources]
    linked: set[Path] = set()
    for number, (source, root) in enumerate(zip(sources, roots)):
        earlier = set(roots[:number])
        if not earlier.isdisjoint([root, *root.parents]):
            continue
        pruned = earlier | ({leave_out.resolve()} if leave_out else set())
        if source.is_file():
            yield source, source
            continue
        yield from ((source, path) for path in _Walk(roots, pruned, linked, unreachable).files(source))


def _system_folder(link: Path) -> str:
    """The folder of made-up files, without an end, into which a link leads; empty where there is none."""
    real = Path(os.path.realpath(link))
    return next((name for name in SYSTEM_FOLDERS if Path(name) in (real, *real.parents)), "")


def _first_met(link: Path, roots: list[Path], linked: set[Path]) -> bool:
    """False for a link to what is met under a source itself (no hidden one), or under the target of another link."""
    real = Path(os.path.realpath(link))
    below = [real.relative_to(above).parts for above in (real, *real.parents) if above in linked or above in roots]
    if any(not any(part.startswith(".") for part in parts) for parts in below):
        return False
    linked.add(real)
    return True


def file_format(path: Path) -> str | None:
    """The format by the suffix, else by DICOM's magic word at byte 128; None for everything else."""
    format = SUFFIXES.get(suffix(path))
    if suffix(path) == ".hdr" and not _has_header_of_pair(path):
        format = None
    if format is None and path.name.lower() != "dicomdir" and _has_dicom_magic(path):
        return "dicom"
    return format


def suffix(path: Path) -> str:
    """The suffix in small letters, `.nii.gz` in one piece."""
    name = path.name.lower()
    return next((end for end in PACKED if name.endswith(end)), path.suffix.lower())


def stem(path: Path) -> str:
    """The file's name without its suffix, `.nii.gz` cut off whole; an unknown suffix belongs to the name."""
    end = suffix(path)
    return path.name[: -len(end)] if end in SUFFIXES else path.name


def check_fits_memory(voxels: int, limit: int | None = None) -> None:
    """Raise ScanError for a volume that takes more memory to prepare than this machine or container has.

    Args:
        voxels: How many its header claims.
        limit: Bytes to hold it against; those of the machine or container by default.
    """
    limit = limit or memory_limit()
    if voxels * BYTES_A_VOXEL > limit:
        raise ScanError(
            f"the header claims {voxels} voxels, which take about {voxels * BYTES_A_VOXEL >> 20} MiB of memory to prepare: expected "
            f"at most the {limit >> 20} MiB of this machine; crop or downsample the scan, or use a larger machine"
        )


def memory_limit() -> int:
    """Bytes of memory of this machine, or of the container that the process runs in."""
    limits = [psutil.virtual_memory().total]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text()))
    return min(limits)


def gunzip(data: bytes | bytearray, expected: int | None = None) -> bytearray:
    """Unpack all gzip members; their CRC and length are checked. Nothing of either side is copied on the way.

    Args:
        data: The packed bytes.
        expected: How many bytes the file's header claims; at most one chunk more is unpacked.

    Raises:
        ScanError: The data are damaged or truncated, or unpack to more bytes than expected.
    """
    limit = len(data) * INFLATE_LIMIT if expected is None else expected + CHUNK
    out, at = bytearray(), 0
    while NOT_ZERO.search(data, at):
        at = _gunzip_member(data, at, out, limit)
    return out


def _gunzip_member(data: bytes | bytearray, at: int, out: bytearray, limit: int) -> int:
    """Unpack the member that begins at a byte of the data, to the end of `out`; where the next one begins."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    feed: bytes | bytearray = b""
    try:
        while not unpacker.eof:
            if not feed:
                feed = data[at : at + CHUNK]
                at += len(feed)
            piece = unpacker.decompress(feed, CHUNK)
            feed = unpacker.unconsumed_tail
            out += piece
            if len(out) > limit:
                raise ScanError(
                    f"the file unpacks to more than {limit} bytes, its header claims less: it is damaged; "
                    "fetch it again"
                )
            if not piece and not feed and at == len(data) and not unpacker.eof:
                raise ScanError(
                    f"the gzip stream ends after {len(out)} bytes without its checksum: the file is truncated; fetch "
                    "it again"
                )
    except zlib.error:
        raise ScanError(
            f"the gzip stream is damaged or not gzip ({len(out)} bytes could be unpacked): fetch the file again"
        ) from None
    return at - len(unpacker.unused_data)


@contextlib.contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turn any exception of a parser into a ScanError that names its class alone, and silence warnings and logs.

    Their text may quote a header or a path.

    Args:
        what: What is being read, to begin the message with.
    """
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
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt and the like; but a panic of a decoder written in Rust is an error of its file
        raise ScanError(
            f"{what} cannot be read ({type(error).__name__}): damaged or cut short; fetch it again"
        ) from None
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled


@dataclass
class _Walk:
    """One source's walk: the resolved sources, the folders to skip, the targets of links met, and what cannot be read."""

    roots: list[Path]
    pruned: set[Path]
    linked: set[Path]
    unreachable: list[tuple[str, str]] | None

    def files(self, folder: Path, behind_link: bool = False) -> Iterator[Path]:
        """Every file below a folder, in the order of its path's parts; one behind a link may hold what is met elsewhere."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            self._report(folder, f"the folder cannot be opened ({errno.errorcode.get(error.errno or 0, 'error')})")
            return
        for entry in listed:
            try:
                yield from self._entry(folder / entry.name, entry, behind_link)
            except OSError as error:
                self._report(
                    folder / entry.name, f"cannot be followed ({errno.errorcode.get(error.errno or 0, 'error')})"
                )

    def _entry(self, path: Path, entry: os.DirEntry, behind_link: bool) -> Iterator[Path]:
        if not is_utf8(entry.name):
            self._report(path, "the name is not UTF-8, so no table can hold it: rename it")
        elif path.name in {skipped.name for skipped in self.pruned} and path.resolve() in self.pruned:
            return
        elif entry.is_file():  # a pipe would be waited on for ever
            if not entry.is_symlink() or _first_met(path, self.roots, self.linked):
                yield path
        elif entry.is_dir() and entry.is_symlink():
            if system := _system_folder(path):
                self._report(
                    path, f"a link into {system}, which the operating system makes up as it is read: not followed"
                )
            elif _first_met(path, self.roots, self.linked):
                yield from self.files(path, behind_link=True)
        elif entry.is_dir():
            if not (behind_link and Path(os.path.realpath(path)) in {*self.roots, *self.linked}):
                yield from self.files(path, behind_link)
        elif entry.is_symlink():
            self._report(path, "a link that leads nowhere")
        else:
            self._report(path, "a pipe, a socket or a device, not a file")

    def _report(self, path: Path, reason: str) -> None:
        if self.unreachable is not None:
            self.unreachable.append((os.fsencode(path).decode("utf-8", "backslashreplace"), reason))


def is_utf8(name: str) -> bool:
    """Whether a file's name is text: Python holds other bytes as surrogates, which cannot be written anywhere."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _has_header_of_pair(path: Path) -> bool:
    """Whether a .hdr is one of NIfTI or Analyze, not that of another program."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
    except OSError:
        return True  # the reader says why it cannot be opened
    return any(int.from_bytes(first, order) in (348, 540) for order in ("little", "big"))


def _has_dicom_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
