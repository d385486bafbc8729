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

from medssl.core.errors import DiskFull, MedsslError

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write beside the target, sync, replace: a reader or a kill sees the old file or the new one, never half.

    Raises DiskFull, or MedsslError when the folder cannot be written to; what was there before stays.
    """
    with atomic_file(path, mode) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write to piece by piece that takes its place, synced, when the block ends well; else nothing changes.

    Raises MedsslError as `write_atomically` does.
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


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a compressed .npz, to be written atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def readable_error(error: OSError) -> MedsslError:
    """An error of the file system as a message that holds no path."""
    if error.errno in FULL:
        return DiskFull(
            "the disk is full: expected room for the next file; what was finished is kept: free some space and run the "
            "same command again"
        )
    code = errno.errorcode.get(error.errno or 0, "unknown error")
    return MedsslError(f"a file could not be written ({code}): expected a folder this user may write to")


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files a killed run left in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
