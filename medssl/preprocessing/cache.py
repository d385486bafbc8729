"""Clean scans on disk, ready for random crops: blosc2, one file a scan.

A cache is a folder: `cache.json` (what it is), `fingerprint.json` (of the cohort, and what was decided by it),
`manifest.parquet` (with digests, shapes and reasons), `volumes/SCAN.b2nd` and `masks/SCAN.b2nd`. Every file is whole or not there; `prepare` goes on where it was
killed.

    cache = prepare(Path("manifest"), Path("cache"), spacing_mm=(1.0, 1.0, 1.0))
    cache.read(scan, start=(-4, 0, 0), size=(32, 32, 32))          # (C, 32, 32, 32), padded with cache.air
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from medssl.core.atomic import remove_leftovers, write_atomically
from medssl.core.errors import MedsslError, nearest
from medssl.core.parallel import run_parallel
from medssl.datasets.manifest import check_any_usable, read_table, scan_of_frame, to_parquet
from medssl.datasets.quality import check_flags, flag_duplicates, join_flags, reject_flagged
from medssl.preprocessing.cohort import VERSION, choose_scans, grid_settings, one_a_frame
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.fingerprint import fingerprint
from medssl.preprocessing.grid import valid
from medssl.preprocessing.store import Job, cache_scan

OPEN_FILES = 256
CACHED = ("digest", "mask_digest", "shape", "spacing_mm", "channels")


class Cache:
    """A prepared cohort, read lazily: `read(scan, start, size)`; safe to pickle, fork and spawn.

    manifest: its usable scans. data_spec: what all of them have in common; dims, channels, modality, spacing_mm and size
    read it. structures: the mask values above 0. digest: of all voxels, whatever the pseudonyms' key.
    Raises MedsslError for a folder that is no cache, or one that is not finished.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        about = _about(self.path)
        if about is None or not about["complete"]:
            state = "is not finished" if about else "is no cache (cache.json is missing)"
            raise MedsslError(f"{self.path} {state}: run medssl prepare with this folder as --out")
        version = about.get("settings", {}).get("version", "unknown")
        if version != VERSION:
            raise MedsslError(
                f"{self.path.name} is a cache of format {version}, made by another version of medssl: expected format "
                f"{VERSION}; run medssl prepare into a new folder"
            )
        manifest = read_table(self.path / "manifest.parquet")
        self.manifest = manifest[manifest.status == "ok"].reset_index(drop=True)
        self.data_spec = DataSpec(
            about["dims"], about["channels"], about["modality"], tuple(about["spacing_mm"]), about["settings"]["size"]
        )
        self.structures: tuple[int, ...] = tuple(about["structures"])
        self.digest: str = about["digest"]
        self._shapes = {
            scan: tuple(map(int, shape)) for scan, shape in zip(self.manifest["scan"], self.manifest["shape"])
        }
        self._open: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._process = os.getpid()

    @property
    def dims(self) -> int:
        return self.data_spec.dims

    @property
    def channels(self) -> int:
        return self.data_spec.channels

    @property
    def modality(self) -> str:
        return self.data_spec.modality

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return self.data_spec.spacing_mm

    @property
    def size(self) -> tuple[int, ...] | None:
        return self.data_spec.size

    @property
    def air(self) -> float:
        """What fills a crop beyond the edge: -1024 HU in CT, else 0."""
        return self.data_spec.family.padding

    def shape(self, scan: str) -> tuple[int, ...]:
        """S of one scan. Raises MedsslError for a scan that is not here."""
        if scan not in self._shapes:
            raise MedsslError(f"scan {scan!r} is not in this cache{nearest(scan, self._shapes)}")
        return self._shapes[scan]

    def affine(self, scan: str) -> np.ndarray:
        """(4, 4): the cached voxels of one scan to mm in RAS+."""
        return np.array(self._handle("volumes", scan).schunk.vlmeta["medssl"]["affine"])

    def read(self, scan: str, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """(C, *size) from `start` (may lie beyond the edge: padded with `air`), or all of it; the stored
        type."""
        return self._crop("volumes", scan, start, size, self.air)

    def read_mask(self, scan: str, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """(*size) uint8 structures, as `read`, 0 beyond the edge. Raises MedsslError for a scan without a
        mask."""
        return self._crop("masks", scan, start, size, 0)[0]

    def valid(self, array: np.ndarray) -> np.ndarray:
        """True where an array out of this cache shows body, not air."""
        return valid(array, self.data_spec.family)

    def _crop(self, kind: str, scan: str, start, size, fill: float) -> np.ndarray:
        stored = self._handle(kind, scan)
        if start is None and size is None:
            return stored[()]
        shape = self._shapes[scan]
        start = [0] * len(shape) if start is None else [int(n) for n in start]
        size = [n - first for n, first in zip(shape, start)] if size is None else [int(n) for n in size]
        if len(start) != len(shape) or len(size) != len(shape) or min(size) < 1:
            raise MedsslError(
                f"a crop from {tuple(start)} of {tuple(size)}: expected {len(shape)} whole numbers each, sizes above 0"
            )
        inside = [slice(max(0, first), min(n, first + many)) for n, first, many in zip(shape, start, size)]
        lead = (slice(None),) * (stored.ndim - len(shape))
        if all(part.stop - part.start == many for part, many in zip(inside, size)):
            return stored[(*lead, *inside)]
        out = np.full((*stored.shape[: len(lead)], *size), fill, stored.dtype)
        if all(part.stop > part.start for part in inside):
            place = tuple(slice(part.start - first, part.stop - first) for part, first in zip(inside, start))
            out[(*lead, *place)] = stored[(*lead, *inside)]
        return out

    def _handle(self, kind: str, scan: str):
        """The open file, from a short list of those used last; a forked worker starts its own list."""
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        key = (kind, scan)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        self.shape(scan)
        path = self.path / kind / f"{scan}.b2nd"
        if not path.is_file():
            what = "mask" if kind == "masks" else "volume"
            raise MedsslError(f"scan {scan} has no {what} in this cache: index again with --mask, then prepare")
        self._open[key] = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def prepare(
    manifest: Path,
    out: Path,
    spacing_mm: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
    dims: int | None = None,
    modality: str | None = None,
    leave_out: Sequence[str] = (),
    frames: Literal["sequence", "each"] = "sequence",
    jobs: int = 1,
    scheduler: str | None = None,
) -> Cache:
    """Read every usable scan of a manifest in full, conform it (see `conform`), and store it for random
    crops.

    spacing_mm: of volumes; default by the cohort's fingerprint (see `medssl plan`): mostly the median. size: (H, W) of
    images; default their own. dims, modality: which scans, where the manifest holds several kinds. frames: a 4D scan as one
    scan with its frames as channels (sequence), or each frame as a scan of its own. leave_out: flags of scans to reject, as
    "few slices" "mostly air" "duplicate of" (all of them: medssl/datasets/quality.py). jobs: processes, -1 for one a core.
    scheduler: the address of a dask.distributed cluster that sees the same files, in place of jobs.
    Scans that turn out bad are rejected in the cache's manifest, with the reason, and the others go on; what left the
    manifest leaves the cache. A second process on the same cache waits for the first, and says so.
    Raises MedsslError for a mixed cohort, other settings than the cache was begun with, a full disk, nothing
    left.
    """
    check_flags(leave_out)
    out = Path(out)
    rows, sources = read_index(Path(manifest))
    rows = choose_scans(rows, dims, modality)
    for kind in ("", "volumes", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    with _alone(out):
        settings = grid_settings(rows, spacing_mm, size, (_about(out) or {}).get("settings", {}), frames)
        rows = one_a_frame(rows) if frames == "each" else rows
        for kind in ("", "volumes", "masks"):
            remove_leftovers(out / kind)
        _write_about(out, {"complete": False, "settings": settings})
        ok = rows[rows.status == "ok"]
        scans = len(set(map(scan_of_frame, ok.scan)))
        parts = run_parallel(
            cache_scan, _jobs(ok, sources, settings, out.resolve()), jobs, "prepare", scans, scheduler=scheduler
        )
        return _finish(rows, {result["scan"]: result for part in parts for result in part}, settings, out, leave_out)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process at a time on a cache. The system gives the lock of a dead process free."""
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warnings.warn("another process prepares this cache: waiting until it is done", stacklevel=4)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_index(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the sources, by scan, that index wrote. Raises MedsslError for a folder without them."""
    folder = folder.parent if folder.is_file() else folder
    for name in ("manifest.parquet", "sources.parquet"):
        if not (folder / name).is_file():
            raise MedsslError(f"{folder} holds no {name}: expected the folder that medssl index wrote (--out)")
    manifest, sources = (read_table(folder / name) for name in ("manifest.parquet", "sources.parquet"))
    return manifest, sources.set_index("scan")


def _jobs(rows: pd.DataFrame, sources: pd.DataFrame, settings: dict, out: Path) -> Iterator[Job]:
    """One for each file or series, whatever the number of its frames."""
    records = (dict(zip(rows.columns, values)) for values in rows.itertuples(index=False, name=None))
    for scan, group in itertools.groupby(records, key=lambda row: scan_of_frame(row["scan"])):
        yield Job(list(group), sources.loc[scan].to_dict(), settings, out)


def _finish(rows: pd.DataFrame, results: dict[str, dict], settings: dict, out: Path, unwanted: Sequence[str]) -> Cache:
    """The cache's manifest and its description; then it is complete."""
    rows = rows.copy()
    rows["mask_digest"] = None
    records = rows.to_dict("records")
    channels = _main_channels(results)
    for record in records:
        result = results.get(record["scan"])
        if result:
            record.update(_row_of(result, channels, record["flags"]))
    manifest = pd.DataFrame(records, columns=rows.columns).astype({"channels": "Int64"})
    manifest = reject_flagged(flag_duplicates(manifest), unwanted)
    write_atomically(out / "manifest.parquet", to_parquet(manifest))
    ok = manifest[manifest.status == "ok"]
    check_any_usable(manifest)
    spacing_mm = settings["spacing_mm"] or np.median(np.array([list(row) for row in ok.spacing_mm]), axis=0).tolist()
    kept = rows.set_index("scan").loc[ok.scan]
    seen = fingerprint(kept, settings, (results[scan].get("intensity") for scan in ok.scan))
    _write_json(out / "fingerprint.json", seen)
    structures = sorted({value for scan in ok.scan for value in results[scan]["structures"]})
    about = {
        "complete": True,
        "settings": settings,
        "dims": settings["dims"],
        "modality": settings["modality"],
        "channels": channels,
        "spacing_mm": spacing_mm,
        "structures": structures,
        "digest": _digest_of(ok, settings),
    }
    _write_about(out, about)
    _remove_others(out, {scan for scan, result in results.items() if result["status"] == "ok"})
    return Cache(out)


def _remove_others(out: Path, scans: set[str]) -> None:
    """Volumes and masks of scans that are no longer in the manifest, or no longer usable."""
    others = [path for kind in ("volumes", "masks") for path in (out / kind).glob("*.b2nd") if path.stem not in scans]
    for path in others:
        path.unlink()
    gone = len({path.stem for path in others})
    if gone:
        warnings.warn(
            f"{gone} scans left the manifest, or cannot be used any more: removed from the cache", stacklevel=4
        )


def _main_channels(results: dict[str, dict]) -> int:
    counts = pd.Series([result["channels"] for result in results.values() if result["status"] == "ok"], dtype=int)
    return int(counts.value_counts().idxmax()) if len(counts) else 1


def _row_of(result: dict[str, Any], channels: int, flags: str | None) -> dict[str, Any]:
    """What preparing changes in a scan's row."""
    if result["status"] == "rejected":
        return {"status": "rejected", "reason": result["reason"]}
    row = {name: result[name] for name in CACHED} | {"notes": result["notes"]}
    row["flags"] = join_flags(flags, result["flags"])
    if len(result["shape"]) == 3:
        row["orientation"] = "RAS"
    if result["channels"] != channels:
        reason = f"{result['channels']} channels, most of the cohort has {channels}: expected one number "
        "in a cache"
        row |= {"status": "rejected", "reason": reason}
    return row


def _digest_of(ok: pd.DataFrame, settings: dict) -> str:
    """Of all voxels and masks and how they were prepared; neither order nor pseudonyms matter."""
    scans = sorted(f"{row.digest} {row.mask_digest or ''}" for row in ok.itertuples())
    return hashlib.sha256(json.dumps([settings, scans], sort_keys=True).encode()).hexdigest()


def _about(path: Path) -> dict[str, Any] | None:
    file = path / "cache.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _write_about(out: Path, about: dict[str, Any]) -> None:
    _write_json(out / "cache.json", about)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
