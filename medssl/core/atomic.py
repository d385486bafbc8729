"""Writes that are whole or not there at all.

write_atomically(Path("runs/a/run.json"), content)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from medssl.core.errors import DiskFull, MedsslError

DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
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
def exclusive(folder: Path) -> Iterator[None]:
    """Only one process writes to this folder while the block runs; the system releases the lock of one that died.

    Args:
        folder: The folder; made if it is missing.

    Raises:
        MedsslError: Another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise MedsslError(
            f"another process is writing to {folder.name}: expected this one alone; wait until it has ended, or give another "
            "--out"
        ) from None
    except OSError as error:
        raise readable_error(error) from None
    try:
        yield
    finally:
        lock.release()


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of a compressed .npz file with these arrays, for `write_atomically`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def readable_error(error: OSError) -> MedsslError:
    """The error to raise in place of one of the file system, whose text would show a path."""
    if error.errno in DISK_FULL_CODES:
        return DiskFull(
            "the disk is full: expected room for the next file; finished results are kept: free some space and run the "
            "same command again"
        )
    code = errno.errorcode.get(error.errno or 0, "unknown error")
    return MedsslError(
        f"a file could not be written ({code}): expected a folder that this user may write to; pass another --out, or "
        f"change the folder's permissions"
    )


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
