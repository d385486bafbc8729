"""Writes that are whole or not there at all.

write_atomically(Path("runs/a/run.json"), content)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from medssl.core.errors import DiskFull, MedsslError

DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = ("is closed to this user", "give another folder, or change its permissions")
NO_FOLDER = ("has a file where a folder is expected", "give another folder")
PROBLEMS = {  # what is wrong, and what to do
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: ("lies on a disk that can only be read", "give another --out"),
    errno.ENOENT: ("does not exist", "check its name; if it was there, start the command again"),
    errno.ENOTDIR: NO_FOLDER,
    errno.EEXIST: NO_FOLDER,
    errno.EISDIR: ("is a folder where a file is expected", "give the name of a file"),
    errno.ENAMETOOLONG: ("has a name that is too long for this disk", "give a shorter one"),
    errno.EMFILE: ("could not be opened beside so many others", "raise the limit with ulimit -n, or give fewer --jobs"),
    errno.ENOLCK: ("lies on a disk without locks", "give an --out on another disk"),
    errno.EPIPE: ("takes no more output", "let the program that reads it run to the end"),
}
LARGEST_NPZ_BYTES = 4 << 30  # a zip file of zeros is a thousandth of what it unpacks to
PRIVATE = 0o600  # readable by its owner only: labels, pseudonyms and pictures of patients are in these files


def write_atomically(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file so that a reader, or a restart after a kill, sees the old content or the new one and never a part.

    Args:
        path: The file; folders that are missing are made.
        content: All of the new content.
        mode: Permissions of the file; its owner's alone by default.

    Raises:
        DiskFull: There is no room; the old file stays.
        MedsslError: The folder cannot be written to; the old file stays.
    """
    with atomic_file(path, mode) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """An open file that replaces `path` when the block ends; if the block raises, `path` stays as it was.

    Args:
        path: The file; folders that are missing are made.
        mode: Permissions of the file; its owner's alone by default.

    Raises:
        DiskFull: There is no room; the old file stays.
        MedsslError: The folder cannot be written to; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise readable_error(error) from None


@contextlib.contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Only one process writes to this folder while the block runs; the system releases the lock of one that died.

    Temporary files that a killed process left in the folder are removed first.

    Args:
        folder: The folder; made if it is missing.
        wait: Whether to wait for another process, with a warning, in place of an error.

    Raises:
        MedsslError: Another process writes to it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder, wait)
        remove_leftovers(folder)
    except (OSError, NotImplementedError) as error:
        raise readable_error(error) from None
    try:
        yield
    finally:
        lock.release()


def _locked(folder: Path, wait: bool) -> FileLock:
    lock = FileLock(folder / ".lock", mode=PRIVATE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise MedsslError(
                f"another process is writing to {folder.name}: expected this one alone; wait until it has ended, or give "
                "another --out"
            ) from None
        warnings.warn(f"another process writes to {folder.name}: waiting until it is done", stacklevel=5)
        lock.acquire()
    return lock


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of a compressed .npz file with these arrays, for `write_atomically`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(path: Path, largest: int = LARGEST_NPZ_BYTES, only: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that medssl wrote, none of which holds objects.

    Args:
        path: The file.
        largest: Bytes that it may unpack to.
        only: Name of the one array to unpack; None unpacks all.

    Raises:
        ValueError: It unpacks to more, or holds objects.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > largest:
            raise ValueError(f"the archive unpacks to more than {largest} bytes")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files if only in (None, name)}


def readable_error(error: BaseException, typed: Sequence[str] = ()) -> MedsslError:
    """The error to raise in place of one of the file system, whose text would show a path.

    Args:
        error: The error of the file system.
        typed: The words of the command line; the one that the file lies below is named in the message.
    """
    number = getattr(error, "errno", None) or 0
    if number in DISK_FULL_CODES:
        return DiskFull(
            "the disk is full: expected room for the next file; finished results are kept: free some space and run the "
            "same command again"
        )
    place = _typed_place(getattr(error, "filename", None), typed)
    code = errno.errorcode.get(number, type(error).__name__)
    problem, advice = PROBLEMS.get(
        number, ("could not be read or written", "check the folders of this command and the disk")
    )
    return MedsslError(f"{place} {problem} ({code}): {advice}")


def _typed_place(file: object, typed: Sequence[str]) -> str:
    """The word that the user typed for this file or a folder above it, or words that fit any."""
    if isinstance(file, bytes | str | os.PathLike):
        path = os.path.abspath(os.fsdecode(file))
        above = [word for word in typed if word and _lies_in(path, os.path.abspath(word))]
        if above:
            word = max(above, key=len)
            return word if os.path.abspath(word) == path else f"a file below {word}"
    return "a file or folder"


def _lies_in(path: str, folder: str) -> bool:
    return folder != os.sep and (path == folder or path.startswith(folder + os.sep))


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in a folder; what cannot be deleted harms nothing and stays."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
