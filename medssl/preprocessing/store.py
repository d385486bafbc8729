"""One scan -> its file in a cache: read, conformed, packed; or the reason why not. Runs in the workers of `prepare`.

results = cache_scan(Job(rows, source, settings, out))        # one dict a row: status, digest, shape, ...

A file's layout follows random crops: of the chunks that a crop meets only the blocks it touches are unpacked, and small
blocks waste little at its rim; blocks are long along the last axis, along which crops are copied. LZ4 without a shuffle
before it gives crops 2.5 times as fast as with one, nearly as fast as a memory map, for half as much disk again in a CT
(and none in an MR, which is float16 noise to any packer). The layout is no part of a cache's version: blosc2 files describe
themselves, and the voxels are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, ScanError
from medssl.datasets.quality import voxel_flags
from medssl.preprocessing.fingerprint import intensity
from medssl.preprocessing.grid import conform
from medssl.scans import geometry
from medssl.scans.paths import file_format
from medssl.scans.read import files_of, read_scan
from medssl.scans.scan import Scan

CHUNK = {2: (512, 512), 3: (64, 64, 64)}
BLOCK = {2: (128, 128), 3: (16, 16, 64)}


@dataclass(frozen=True)
class Job:
    """The rows of the manifest that one scan fills (several: one a frame), its files, and how and where to store it."""

    rows: list[dict[str, Any]]
    source: dict[str, Any]
    settings: dict[str, Any]
    out: Path

    def path(self, kind: str, row: dict[str, Any]) -> Path:
        return self.out / kind / f"{row['scan']}.b2nd"


def cache_scan(job: Job) -> list[dict[str, Any]]:
    """Store the scan of each row unless it lies there already: its digests and shape, or the reason it is rejected."""
    known, reason = _tried(_known, job)
    state, done = known or (None, [])
    if known and all(one is not None and state in (one["state"], None) for one in done):
        return [_result(row, one, None) for row, one in zip(job.rows, done)]
    scan, reason = (None, reason) if reason else _tried(_read, job)
    results = []
    for frame, row in enumerate(job.rows):
        one, why = (None, reason) if scan is None else _tried(_store, job, row, _frame(scan, frame, job), state)
        if why:
            job.path("volumes", row).unlink(missing_ok=True)
        results.append(_result(row, one, why))
    return results


def look(row: dict[str, Any], source: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The intensities of one scan as it would be stored; None for one that would be rejected."""
    scan, _ = _tried(_read, Job([row], source, settings, Path()))
    conformed, _ = (None, None) if scan is None else _tried(conform, scan)
    return None if conformed is None else intensity(conformed[0], row["modality"])


def digest(array: np.ndarray) -> str:
    """SHA-256 of decoded voxels (C, *S), their type and shape; read slice by slice, as scans mostly lie in memory."""
    whole = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    whole.update(np.ascontiguousarray(array.transpose(0, *range(array.ndim - 1, 0, -1))).data)
    return whole.hexdigest()


def pack(array: np.ndarray, about: dict | None = None) -> bytes:
    """(C, *S) as a blosc2 array in bytes, the same bytes each time; blocks fit random crops."""
    dims = array.ndim - 1
    chunks = (array.shape[0], *map(min, array.shape[1:], CHUNK[dims]))
    blocks = (array.shape[0], *map(min, array.shape[1:], BLOCK[dims]))
    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 1, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1}
    packed = blosc2.empty(array.shape, array.dtype, chunks=chunks, blocks=blocks, cparams=cparams)
    for place in itertools.product(*(_steps(n, step) for n, step in zip(array.shape, chunks))):
        packed[place] = _contiguous(array[place])
    if about:
        packed.schunk.vlmeta["medssl"] = about
    return packed.to_cframe()


def _steps(count: int, step: int) -> list[slice]:
    return [slice(first, min(count, first + step)) for first in range(0, count, step)]


def _contiguous(part: np.ndarray) -> np.ndarray:
    """A piece of a scan in C order; slice by slice, which is three times as fast as numpy's copy of a turned array."""
    if part.flags.c_contiguous:
        return part
    out = np.empty(part.shape, part.dtype)
    for number in range(part.shape[-1]):
        out[..., number] = part[..., number]
    return out


def _tried(work: Callable, *given: Any) -> tuple[Any, str | None]:
    """(what `work` gives, None), or (None, why this scan cannot be used): one bad scan must not stop the rest."""
    try:
        return work(*given), None
    except ScanError as error:
        return None, str(error)
    except MedsslError:
        raise
    except Exception as error:  # its text may quote a header or a path
        return None, f"the scan cannot be read ({type(error).__name__}): look at its files, or leave it out"


def _result(row: dict[str, Any], done: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    if done is None:
        return {"scan": row["scan"], "status": "rejected", "reason": reason}
    return {"scan": row["scan"], "status": "ok", "reason": None, **done, "affine": None, "state": None}


def _known(job: Job) -> tuple[str | None, list[dict | None]]:
    """The state of the scan's files now, and what lies in the cache already."""
    done = [_peek(job.path("volumes", row)) for row in job.rows]
    return _state(job, gone_is_fine=None not in done), done


def _read(job: Job) -> Scan:
    row, source = job.rows[0], job.source
    asked = row["modality"], source["member"], source["mask"], source.get("correct")
    scan = read_scan(list(source["files"]), source["format"], row["scan"], row["patient"], *asked)
    if len(job.rows) > 1 and scan.array.shape[0] != len(job.rows):
        raise ScanError(f"{scan.array.shape[0]} frames were read: expected {len(job.rows)} by the header; index again")
    return scan


def _frame(scan: Scan, number: int, job: Job) -> Scan:
    """One frame of several as a scan of its own; a scan that fills one row as it is."""
    return replace(scan, array=scan.array[number : number + 1], frames=1) if len(job.rows) > 1 else scan


def _store(job: Job, row: dict[str, Any], scan: Scan, state: str | None) -> dict[str, Any]:
    spacing_mm, size = job.settings["spacing_mm"], job.settings["size"]
    array, mask, affine = conform(scan, tuple(spacing_mm) if spacing_mm else None, tuple(size) if size else None)
    done = {
        "state": state,
        "digest": digest(scan.array),
        "mask_digest": None if scan.mask is None else digest(scan.mask[None]),
        "shape": list(array.shape[1:]),
        "spacing_mm": [round(step, 6) for step in geometry.spacing(affine)[: scan.dims]],
        "affine": affine.tolist(),
        "channels": array.shape[0],
        "flags": voxel_flags(scan),
        "structures": [] if mask is None else [int(value) for value in np.unique(mask) if value],
        "notes": _notes(row["notes"], scan.notes),
        "intensity": intensity(array, scan.modality),
    }
    if mask is None:
        job.path("masks", row).unlink(missing_ok=True)
    else:
        write_atomically(job.path("masks", row), pack(mask[None]))
    write_atomically(job.path("volumes", row), pack(array, done))
    return done


def _notes(indexed: str | None, read: Sequence[str]) -> str | None:
    """What index and the full read noted, each once."""
    return "; ".join(dict.fromkeys([*(indexed or "").split("; "), *read])).strip("; ") or None


def _state(job: Job, gone_is_fine: bool) -> str | None:
    """Changes when a file of the scan or how it is prepared does; None for files that are no longer there."""
    source = job.source
    files = [*source["files"], *([source["mask"]] if source["mask"] else [])]
    if gone_is_fine and not all(Path(file).exists() for file in files):
        return None
    if source["mask"]:
        files += files_of(Path(source["mask"]), file_format(Path(source["mask"])) or "")[1:]
    seen = [(os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    told = [seen, job.settings, job.rows[0]["modality"], source["member"], source.get("correct")]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _peek(path: Path) -> dict[str, Any] | None:
    """What a stored volume says of itself, None where there is none."""
    if not path.is_file():
        return None
    stored = blosc2.open(str(path), mode="r", mmap_mode="r")  # its metadata die with it: keep it till they are read
    return stored.schunk.vlmeta["medssl"]
