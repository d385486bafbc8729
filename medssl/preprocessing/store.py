"""One scan -> its file in a cache: read, resampled, scaled and packed; or the reason why not. Runs in the workers of `prepare`.

results = cache_scan(Job(rows, source, settings, out))        # one dict per row: status, digest, shape, ...

The layout of a file is made for random crops. A crop unpacks only the blocks that it touches; small blocks waste little
at its border, and they are long along the last axis, along which crops are copied. LZ4 without a shuffle filter reads crops
2.5 times as fast as with one, nearly as fast as a memory map; a CT then takes half as much disk again, an MR (float16, which
hardly compresses) no more. The layout is not part of a cache's format: blosc2 files describe themselves, and the voxels are
the same.
"""

from __future__ import annotations

import functools
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
from medssl.preprocessing.fingerprint import intensity_statistics
from medssl.preprocessing.grid import resample_to_grid
from medssl.preprocessing.normalize import check_voxels, intensity_scale, to_stored_type
from medssl.scans import geometry
from medssl.scans.paths import file_format
from medssl.scans.read import files_of, read_scan
from medssl.scans.scan import Scan

CHUNK = {2: (512, 512), 3: (64, 64, 64)}
BLOCK = {2: (128, 128), 3: (16, 16, 64)}


@dataclass(frozen=True)
class Job:
    """One scan to store.

    Attributes:
        rows: Its rows of the manifest; several where each frame is a scan of its own.
        source: Its files, from `sources.parquet`.
        settings: How it is prepared, see `cache_settings`.
        out: The folder of the cache.
    """

    rows: list[dict[str, Any]]
    source: dict[str, Any]
    settings: dict[str, Any]
    out: Path

    def path(self, kind: str, row: dict[str, Any]) -> Path:
        return self.out / kind / f"{row['scan']}.b2nd"


def cache_scan(job: Job) -> list[dict[str, Any]]:
    """Store the scan of each row unless it is there already: its digests and shape, or the reason it is rejected."""
    before, reason = _value_or_reason(_already_stored, job)
    state, stored = before or (None, [])
    if before and all(about is not None and state in (about["state"], None) for about in stored):
        return [_result(row, about, None) for row, about in zip(job.rows, stored)]
    scan, reason = (None, reason) if reason else _value_or_reason(_read, job)
    results = []
    for number, row in enumerate(job.rows):
        prepared, packed, about = None, None, None
        if scan is not None:
            prepared, reason = _value_or_reason(_prepared, job, row, _frame(scan, number, job), state)
        if number == len(job.rows) - 1:
            scan = None  # so that at most two copies of the voxels are in memory: as read and prepared, prepared and packed
        if prepared is not None:
            packed, reason = _value_or_reason(_packed, *prepared)
        prepared = None
        if packed is not None:
            about, reason = _value_or_reason(_write, job, row, *packed)
        if reason:
            job.path("volumes", row).unlink(missing_ok=True)
        results.append(_result(row, about, reason))
    return results


def resample_and_scale(
    scan: Scan, spacing_mm: Sequence[float] | None = None, size: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """A scan as a network gets it: in RAS+, on the cohort's grid, with intensities on one scale.

    Args:
        scan: The scan as read.
        spacing_mm: Spacing of a volume; None keeps its own.
        size: (H, W) of an image; None keeps its own.

    Returns:
        (C, *S) int16 HU or float16, its (*S) uint8 mask or None, and the affine of both.

    Raises:
        ScanError: The voxels are not finite, constant or air alone, so that nothing can be learnt from them.
    """
    check_voxels(scan)
    to_stored = functools.partial(to_stored_type, modality=scan.modality)
    dtype = np.int16 if scan.modality == "CT" else np.float16
    scale = intensity_scale(scan)
    return resample_to_grid(scan.array, scan.mask, scan.affine, spacing_mm, size, scale, to_stored, dtype)


def measure_scan(row: dict[str, Any], source: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The intensities of one scan on its own grid, on the cache's scale; None for a scan that would be rejected."""
    scan, _ = _value_or_reason(_read, Job([row], source, settings, Path()))
    prepared, _ = (None, None) if scan is None else _value_or_reason(resample_and_scale, scan)
    return None if prepared is None else intensity_statistics(prepared[0], row["modality"])


def digest(array: np.ndarray) -> str:
    """SHA-256 of decoded voxels (C, *S), their type and shape; the last axis varies slowest, as in most files."""
    whole = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for channel in array.transpose(0, *range(array.ndim - 1, 0, -1)):
        for plane in channel:
            whole.update(np.ascontiguousarray(plane).data)
    return whole.hexdigest()


def pack(array: np.ndarray, about: dict | None = None) -> bytes:
    """(C, *S) as a blosc2 array in bytes, the same bytes each time, with `about` as its description."""
    return packed_array(array, about).to_cframe()


def packed_array(array: np.ndarray, about: dict | None = None) -> Any:
    """(C, *S) as a blosc2 array, with `about` as its description."""
    dims = array.ndim - 1
    chunks = (array.shape[0], *map(min, array.shape[1:], CHUNK[dims]))
    blocks = (array.shape[0], *map(min, array.shape[1:], BLOCK[dims]))
    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 1, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1}
    packed = blosc2.empty(array.shape, array.dtype, chunks=chunks, blocks=blocks, cparams=cparams)
    for place in itertools.product(*(_intervals(n, step) for n, step in zip(array.shape, chunks))):
        packed[place] = _contiguous(array[place])
    if about:
        packed.schunk.vlmeta["medssl"] = about
    return packed


def _intervals(count: int, step: int) -> list[slice]:
    return [slice(first, min(count, first + step)) for first in range(0, count, step)]


def _contiguous(part: np.ndarray) -> np.ndarray:
    """A piece of a scan in C order; copied slice by slice, three times as fast as numpy copies a transposed array."""
    if part.flags.c_contiguous:
        return part
    out = np.empty(part.shape, part.dtype)
    for number in range(part.shape[-1]):
        out[..., number] = part[..., number]
    return out


def _value_or_reason(function: Callable, *arguments: Any) -> tuple[Any, str | None]:
    """(its result, None), or (None, why this scan cannot be used): one bad scan must not stop the rest."""
    try:
        return function(*arguments), None
    except ScanError as error:
        return None, str(error)
    except MedsslError:
        raise
    except Exception as error:  # its text may quote a header or a path
        return None, f"the scan cannot be read ({type(error).__name__}): check its files, or leave it out"


def _result(row: dict[str, Any], about: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    if about is None:
        return {"scan": row["scan"], "status": "rejected", "reason": reason}
    return {"scan": row["scan"], "status": "ok", "reason": None, **about, "affine": None, "state": None}


def _already_stored(job: Job) -> tuple[str | None, list[dict | None]]:
    """The state of the scan's files now, and the description of each volume that is in the cache already."""
    stored = [_description(job.path("volumes", row)) for row in job.rows]
    return _state(job, may_be_gone=None not in stored), stored


def _read(job: Job) -> Scan:
    row, source = job.rows[0], job.source
    options = row["modality"], source["member"], source["mask"], source.get("correct")
    scan = read_scan(list(source["files"]), source["format"], row["scan"], row["patient"], *options)
    if len(job.rows) > 1 and scan.array.shape[0] != len(job.rows):
        raise ScanError(f"{scan.array.shape[0]} frames were read: expected {len(job.rows)} by the header; index again")
    return scan


def _frame(scan: Scan, number: int, job: Job) -> Scan:
    """One frame of several as a scan of its own; a scan that fills one row as it is."""
    return replace(scan, array=scan.array[number : number + 1], frames=1) if len(job.rows) > 1 else scan


def _prepared(job: Job, row: dict[str, Any], scan: Scan, state: str | None) -> tuple[dict[str, Any], Any, Any]:
    """The description of the scan, its voxels and its mask or None, as a cache holds them."""
    spacing_mm, size = job.settings["spacing_mm"], job.settings["size"]
    array, mask, affine = resample_and_scale(scan, spacing_mm, size)
    about = {
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
        "intensity": intensity_statistics(array, scan.modality),
    }
    return about, array, mask


def _packed(about: dict[str, Any], array: np.ndarray, mask: np.ndarray | None) -> tuple[dict[str, Any], Any, Any]:
    return about, packed_array(array, about), None if mask is None else packed_array(mask[None])


def _write(job: Job, row: dict[str, Any], about: dict[str, Any], voxels: Any, mask: Any) -> dict[str, Any]:
    if mask is None:
        job.path("masks", row).unlink(missing_ok=True)
    else:
        write_atomically(job.path("masks", row), mask.to_cframe())
    write_atomically(job.path("volumes", row), voxels.to_cframe())
    return about


def _notes(from_index: str | None, from_reading: Sequence[str]) -> str | None:
    """The notes of index and those of the full read, each once."""
    return "; ".join(dict.fromkeys([*(from_index or "").split("; "), *from_reading])).strip("; ") or None


def _state(job: Job, may_be_gone: bool) -> str | None:
    """A hash that changes when a file of the scan or its preparation changes; None for files that are no longer there."""
    source = job.source
    files = [*source["files"], *([source["mask"]] if source["mask"] else [])]
    if may_be_gone and not all(Path(file).exists() for file in files):
        return None
    if source["mask"]:
        files += files_of(Path(source["mask"]), file_format(Path(source["mask"])) or "")[1:]
    versions = [(os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    parts = [versions, job.settings, job.rows[0]["modality"], source["member"], source.get("correct")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _description(path: Path) -> dict[str, Any] | None:
    """The description inside a stored volume; None where there is no volume."""
    if not path.is_file():
        return None
    stored = blosc2.open(str(path), mode="r", mmap_mode="r")  # its metadata vanish with it: hold it until they are read
    return stored.schunk.vlmeta["medssl"]
