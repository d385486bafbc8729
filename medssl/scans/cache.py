"""Clean scans on disk, ready for random crops: blosc2, one file a scan.

A cache is a folder: `cache.json` (what it is), `manifest.parquet` (with digests, shapes and reasons),
`volumes/SCAN.b2nd` and `masks/SCAN.b2nd`. Every file is whole or not there; `prepare` goes on where it was
killed.

    cache = prepare(Path("manifest"), Path("cache"), spacing_mm=(1.0, 1.0, 1.0))
    cache.read(scan, start=(-4, 0, 0), size=(32, 32, 32))          # (C, 32, 32, 32), padded with cache.air
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pandas as pd

from medssl.disk import remove_leftovers, write_atomically
from medssl.errors import MedsslError, ScanError, nearest
from medssl.scans import geometry
from medssl.scans.cohort import VERSION, choose_scans, grid_settings
from medssl.scans.conform import AIR_HU, conform, valid
from medssl.scans.files import run_parallel
from medssl.scans.quality import check_flags, flag_duplicates, joined, left_out, voxel_flags
from medssl.scans.read import read_scan
from medssl.scans.tables import read_table, refuse_nothing, to_parquet

OPEN_FILES = 256
CHUNK, BLOCK = {2: 512, 3: 64}, {2: 128, 3: 32}
CACHED = ("digest", "mask_digest", "shape", "spacing_mm", "channels")


class Cache:
    """A prepared cohort, read lazily: `read(scan, start, size)`; safe to pickle, fork and spawn.

    manifest: its usable scans. dims, channels, spacing_mm, modality: of all of them (spacing of images: the
    median). structures: the mask values above 0. digest: of all voxels, whatever the pseudonyms' key.
    Raises MedsslError for a folder that is no cache, or one that is not finished.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        about = _about(self.path)
        if about is None or not about["complete"]:
            state = "is not finished" if about else "is no cache (cache.json is missing)"
            raise MedsslError(f"{self.path} {state}: run medssl prepare with this folder as --out")
        if about.get("settings", {}).get("version") != VERSION:
            raise MedsslError(
                f"{self.path.name} was made by another version of medssl: expected cache version {VERSION}; run medssl prepare "
                "into a new folder"
            )
        manifest = read_table(self.path / "manifest.parquet")
        self.manifest = manifest[manifest.status == "ok"].reset_index(drop=True)
        self.dims: int = about["dims"]
        self.channels: int = about["channels"]
        self.spacing_mm: tuple[float, ...] = tuple(about["spacing_mm"])
        self.modality: str = about["modality"]
        self.structures: tuple[int, ...] = tuple(about["structures"])
        self.digest: str = about["digest"]
        self.size: tuple[int, ...] | None = tuple(about["settings"]["size"]) if about["settings"]["size"] else None
        self._shapes = {row.scan: tuple(int(n) for n in row.shape) for row in self.manifest.itertuples()}
        self._open: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._process = os.getpid()

    @property
    def air(self) -> float:
        """What fills a crop beyond the edge: -1024 HU in CT, else 0."""
        return AIR_HU if self.modality == "CT" else 0

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
        return valid(array, self.modality)

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
    jobs: int = 1,
) -> Cache:
    """Read every usable scan of a manifest in full, conform it (see `conform`), and store it for random
    crops.

    spacing_mm: of volumes; default the cohort's median, rounded to 0.01. size: (H, W) of images; default
    their own. dims, modality: which scans, where the manifest holds several kinds. leave_out: flags of scans to reject,
    as "few slices" "mostly air" "duplicate of" (all of them: medssl/scans/quality.py).
    Scans that turn out bad are rejected in the cache's manifest, with the reason, and the others go on.
    Raises MedsslError for a mixed cohort, other settings than the cache was begun with, a full disk, nothing
    left.
    """
    folder, out = Path(manifest), Path(out)
    folder = folder.parent if folder.is_file() else folder
    check_flags(leave_out)
    rows, sources = _read_index(folder)
    rows = choose_scans(rows, dims, modality)
    settings = grid_settings(rows, spacing_mm, size, (_about(out) or {}).get("settings", {}))
    for kind in ("", "volumes", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
        remove_leftovers(out / kind)
    _write_about(out, {"complete": False, "settings": settings})
    jobs_of = [
        (row, sources.loc[row["scan"]].to_dict(), settings, out)
        for row in rows.to_dict("records")
        if row["status"] == "ok"
    ]
    results = list(run_parallel(_cache_one, jobs_of, jobs, "prepare"))
    return _finish(rows, {result["scan"]: result for result in results}, settings, out, leave_out)


def _read_index(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    for name in ("manifest.parquet", "sources.parquet"):
        if not (folder / name).is_file():
            raise MedsslError(f"{folder} holds no {name}: expected the folder that medssl index wrote (--out)")
    manifest, sources = (read_table(folder / name) for name in ("manifest.parquet", "sources.parquet"))
    return manifest, sources.set_index("scan")


def _cache_one(job: tuple[dict, dict, dict, Path]) -> dict[str, Any]:
    """Store one scan unless it lies there already; its digests and shape, or the reason it is rejected."""
    row, source, settings, out = job
    scan = row["scan"]
    path = out / "volumes" / f"{scan}.b2nd"
    try:
        done = _peek(path)
        state = _state(source, settings, row["modality"], gone_is_fine=done is not None)
        if done is None or state not in (done["state"], None):
            done = _store(row, source, settings, out, state)
        return {"scan": scan, "status": "ok", "reason": None, **done}
    except ScanError as error:
        reason = str(error)
        path.unlink(missing_ok=True)
    except MedsslError:
        raise
    except Exception as error:  # one bad scan must not stop the rest; its text may quote a header or a path
        reason = f"the scan cannot be read ({type(error).__name__}): look at its files, or leave it out"
    return {"scan": scan, "status": "rejected", "reason": reason}


def _store(row: dict, source: dict, settings: dict, out: Path, state: str | None) -> dict[str, Any]:
    scan = read_scan(
        list(source["files"]),
        source["format"],
        row["scan"],
        row["patient"],
        row["modality"],
        source["member"],
        source["mask"],
        source.get("correct"),
    )
    spacing_mm = tuple(settings["spacing_mm"]) if settings["spacing_mm"] else None
    array, mask, affine = conform(scan, spacing_mm, tuple(settings["size"]) if settings["size"] else None)
    done = {
        "state": state,
        "digest": digest(scan.array),
        "mask_digest": None if scan.mask is None else digest(scan.mask),
        "shape": list(array.shape[1:]),
        "spacing_mm": [round(step, 6) for step in geometry.spacing(affine)[: scan.dims]],
        "affine": affine.tolist(),
        "channels": array.shape[0],
        "flags": voxel_flags(scan),
        "structures": [] if mask is None else [int(value) for value in np.unique(mask) if value],
        "notes": "; ".join(dict.fromkeys([*(row["notes"] or "").split("; "), *scan.notes])).strip("; ") or None,
    }
    mask_path = out / "masks" / f"{scan.id}.b2nd"
    if mask is None:
        mask_path.unlink(missing_ok=True)
    else:
        write_atomically(mask_path, _pack(mask[None]))
    write_atomically(out / "volumes" / f"{scan.id}.b2nd", _pack(array, done))
    return done


def _notes(row: dict, notes: tuple[str, ...]) -> str | None:
    """What index and the full read noted, each once."""
    both = [*(row["notes"].split("; ") if row["notes"] else []), *notes]
    return "; ".join(dict.fromkeys(both)) or None


def digest(array: np.ndarray) -> str:
    """SHA-256 of decoded voxels, their type and shape."""
    array = np.ascontiguousarray(array)
    whole = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    whole.update(array.data)
    return whole.hexdigest()


def _state(source: dict, settings: dict, modality: str, gone_is_fine: bool) -> str | None:
    """Changes when a file of the scan or how it is prepared does; None for files that are no longer there."""
    files = [*source["files"], *([source["mask"]] if source["mask"] else [])]
    if gone_is_fine and not all(Path(file).exists() for file in files):
        return None
    seen = [(os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    return hashlib.sha256(
        json.dumps([seen, settings, modality, source["member"], source.get("correct")]).encode()
    ).hexdigest()


def _pack(array: np.ndarray, about: dict | None = None) -> bytes:
    """A blosc2 array as bytes, the same bytes each time; blocks fit random crops."""
    dims = array.ndim - 1
    chunks = (array.shape[0], *(min(n, CHUNK[dims]) for n in array.shape[1:]))
    blocks = (array.shape[0], *(min(n, BLOCK[dims]) for n in array.shape[1:]))
    cparams = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    packed = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=cparams)
    if about:
        packed.schunk.vlmeta["medssl"] = about
    return packed.to_cframe()


def _peek(path: Path) -> dict[str, Any] | None:
    """What a stored volume says of itself, None where there is none."""
    if not path.is_file():
        return None
    stored = blosc2.open(str(path), mode="r", mmap_mode="r")  # its metadata die with it: keep it till they are read
    return stored.schunk.vlmeta["medssl"]


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
    manifest = left_out(flag_duplicates(manifest), unwanted)
    write_atomically(out / "manifest.parquet", to_parquet(manifest))
    ok = manifest[manifest.status == "ok"]
    refuse_nothing(manifest)
    spacing_mm = settings["spacing_mm"] or np.median(np.array([list(row) for row in ok.spacing_mm]), axis=0).tolist()
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
    return Cache(out)


def _main_channels(results: dict[str, dict]) -> int:
    counts = pd.Series([result["channels"] for result in results.values() if result["status"] == "ok"], dtype=int)
    return int(counts.value_counts().idxmax()) if len(counts) else 1


def _row_of(result: dict[str, Any], channels: int, flags: str | None) -> dict[str, Any]:
    """What preparing changes in a scan's row."""
    if result["status"] == "rejected":
        return {"status": "rejected", "reason": result["reason"]}
    row = {name: result[name] for name in CACHED} | {"notes": result["notes"]}
    row["flags"] = joined(flags, result["flags"])
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
    write_atomically(out / "cache.json", (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
