"""Clean scans on disk, ready for random crops: blosc2, one file per scan.

A cache is a folder: `cache.json` (what it is), `fingerprint.json` (of the cohort, and what was decided from it),
`manifest.parquet` (with digests, shapes and reasons), `volumes/SCAN.b2nd` and `masks/SCAN.b2nd`. Every file is either whole
or absent, and a `prepare` that was killed goes on where it stopped when it is run again.

    cache = prepare(Path("manifest"), Path("cache"), spacing_mm=(1.0, 1.0, 1.0))
    cache.read(scan, start=(-4, 0, 0), size=(32, 32, 32))          # (C, 32, 32, 32), padded with cache.air
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
import pandas as pd

from medssl.core.atomic import exclusive, remove_leftovers, write_atomically
from medssl.core.errors import MedsslError, nearest
from medssl.core.parallel import run_parallel
from medssl.datasets.manifest import check_any_usable, pseudonym_key, read_index, read_table, scan_of_frame, to_parquet
from medssl.datasets.quality import check_flags, flag_duplicates, join_flags, reject_flagged
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.fingerprint import fingerprint
from medssl.preprocessing.normalize import body_mask
from medssl.preprocessing.plan import cache_settings, check_format, choose_scans, one_row_per_frame
from medssl.preprocessing.store import Job, cache_scan
from medssl.preprocessing.structures import warn_of_codings

OPEN_FILES = 256
ABOUT = frozenset({"settings", "dims", "channels", "modality", "spacing_mm", "structures", "digest"})
MEASURED = ("digest", "mask_digest", "shape", "spacing_mm", "channels")


class Cache:
    """A prepared cohort, read lazily: `read(scan, start, size)`; safe to pickle, fork and spawn.

    Args:
        path: The folder that `prepare` wrote.

    Attributes:
        manifest: The usable scans.
        data_spec: What all scans have in common; dims, channels, modality, spacing_mm and size are short for its fields.
        structures: The mask values above 0.
        digest: Of all voxels and masks; the key of the pseudonyms does not change it.
        pseudonym_key: Fingerprint of that key; patients of two caches can be compared only where both have the same.

    Raises:
        MedsslError: The folder is not a cache, is not finished, or has the format of another version of medssl.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        about = _about(self.path)
        if about is not None:
            check_format(self.path, about)
        if about is None or not about.get("complete"):
            state = "is not finished" if about else "is not a cache (cache.json is missing)"
            raise MedsslError(f"{self.path} {state}: run medssl prepare with this folder as --out")
        if missing := ABOUT - about.keys():
            raise _broken(self.path, f"no {min(missing)}")
        manifest = read_table(self.path / "manifest.parquet")
        self.manifest = manifest[manifest.status == "ok"].reset_index(drop=True)
        self.data_spec = DataSpec(
            about["dims"], about["channels"], about["modality"], tuple(about["spacing_mm"]), about["settings"]["size"]
        )
        self.structures: tuple[int, ...] = tuple(about["structures"])
        self.digest: str = about["digest"]
        self.pseudonym_key = pseudonym_key(self.manifest)
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
        """What fills a crop beyond the edge: -1000 HU in CT, else 0."""
        return self.data_spec.family.air

    def shape(self, scan: str) -> tuple[int, ...]:
        """The shape (*S) of one scan. Raises MedsslError for a scan that is not in the cache."""
        if scan not in self._shapes:
            raise MedsslError(f"scan {scan!r} is not in this cache{nearest(scan, self._shapes)}")
        return self._shapes[scan]

    def affine(self, scan: str) -> np.ndarray:
        """(4, 4): the cached voxels of one scan to mm in RAS+."""
        return np.array(self._handle("volumes", scan).schunk.vlmeta["medssl"]["affine"])

    def read(self, scan: str, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Read a crop of a scan, or all of it.

        Args:
            scan: Its pseudonym.
            start: First voxel; it may lie beyond the edge, and what does is filled with `air`.
            size: Voxels along each axis.

        Returns:
            (C, *size) in the stored type: int16 HU for CT, float16 for the others.
        """
        return self._crop("volumes", scan, start, size, self.air)

    def read_mask(self, scan: str, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Read a crop of a scan's mask, or all of it: (*size) uint8 structures, 0 beyond the edge.

        Args:
            scan: Its pseudonym.
            start: First voxel, as in `read`.
            size: Voxels along each axis.

        Raises:
            MedsslError: The scan has no mask.
        """
        return self._crop("masks", scan, start, size, 0)[0]

    def valid(self, array: np.ndarray) -> np.ndarray:
        """True where an array out of this cache shows body, not air."""
        return body_mask(array, self.data_spec.family)

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
        inside = [slice(max(0, first), min(n, first + count)) for n, first, count in zip(shape, start, size)]
        lead = (slice(None),) * (stored.ndim - len(shape))
        if all(part.stop - part.start == count for part, count in zip(inside, size)):
            return stored[(*lead, *inside)]
        out = np.full((*stored.shape[: len(lead)], *size), fill, stored.dtype)
        if all(part.stop > part.start for part in inside):
            place = tuple(slice(part.start - first, part.stop - first) for part, first in zip(inside, start))
            out[(*lead, *place)] = stored[(*lead, *inside)]
        return out

    def _handle(self, kind: str, scan: str):
        """The open file, from the list of those used last; a forked process starts a list of its own."""
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        key = (kind, scan)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        self.shape(scan)
        path = self.path / kind / f"{scan}.b2nd"
        if not path.is_file():
            missing = "mask" if kind == "masks" else "volume"
            raise MedsslError(f"scan {scan} has no {missing} in this cache: index again with --mask, then prepare")
        try:
            self._open[key] = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except RuntimeError as error:  # blosc2's for a file that it may not read, or that is damaged
            raise MedsslError(
                f"the {kind.removesuffix('s')} of scan {scan} cannot be read: expected a file that medssl prepare wrote; check "
                "its permissions, or prepare the manifest into a new folder"
            ) from error
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
    """Read every usable scan of a manifest in full, bring it to the cohort's grid and scale, and store it for random crops.

    Scans that turn out bad are rejected in the cache's manifest with the reason, and the others go on. A second run adds what
    is missing and removes the scans that left the manifest; while another process prepares the same cache, it waits.

    Args:
        manifest: The folder that `medssl index` wrote.
        out: The folder of the cache.
        spacing_mm: Spacing in mm that volumes are resampled to, along R, A, S; by default the cohort decides, and
            `medssl fingerprint` shows how (mostly the median).
        size: Height and width that images are resampled to; by default each keeps its own.
        dims: Take only the images (2) or only the volumes (3) of a manifest that holds both.
        modality: Take only the scans of this modality (DICOM's code), where a manifest holds several.
        leave_out: Reject the scans with these quality flags, such as "few slices" "mostly air" "duplicate of"; the
            column `flags` of the manifest shows them.
        frames: Keep a 4D scan as one scan with its frames as channels (sequence), or make each frame a scan of its
            own (each).
        jobs: Processes, -1 for one per core.
        scheduler: The address of a dask.distributed cluster that sees the same files, in place of jobs.

    Returns:
        The finished cache.

    Raises:
        MedsslError: The manifest mixes dimensions or modalities, the cache was begun with other settings or by another
            version of medssl, the disk is full, or no scan is left.
    """
    check_flags(leave_out)
    out = Path(out)
    indexed, sources = read_index(Path(manifest))
    scans = choose_scans(indexed, dims, modality)
    with exclusive(out, wait=True):
        previous = _about(out)
        if previous is not None:
            check_format(out, previous)
        settings = cache_settings(scans, spacing_mm, size, (previous or {}).get("settings"), frames)
        scans = one_row_per_frame(scans) if frames == "each" else scans
        for folder in ("volumes", "masks"):
            (out / folder).mkdir(exist_ok=True)
            remove_leftovers(out / folder)
        _write_about(out, {"complete": False, "settings": settings})
        ok = scans[scans.status == "ok"]
        files, count = _jobs(ok, sources, settings, out.resolve()), len(set(map(scan_of_frame, ok.scan)))
        parts = run_parallel(cache_scan, files, jobs, "prepare", count, scheduler=scheduler)
        return _finish(scans, {result["scan"]: result for part in parts for result in part}, settings, out, leave_out)


def _jobs(scans: pd.DataFrame, sources: pd.DataFrame, settings: dict, out: Path) -> Iterator[Job]:
    """One job for each file or series, whatever the number of its frames."""
    records = (dict(zip(scans.columns, values)) for values in scans.itertuples(index=False, name=None))
    for scan, group in itertools.groupby(records, key=lambda row: scan_of_frame(row["scan"])):
        yield Job(list(group), sources.loc[scan].to_dict(), settings, out)


def _finish(
    scans: pd.DataFrame, results: dict[str, dict], settings: dict, out: Path, leave_out: Sequence[str]
) -> Cache:
    """Write the cache's manifest, its fingerprint and its description, which makes it complete."""
    scans = scans.copy()
    scans["mask_digest"] = None
    records = scans.to_dict("records")
    channels = _main_channels(results)
    for record in records:
        result = results.get(record["scan"])
        if result:
            record.update(_row_of(result, channels, record["flags"]))
    manifest = pd.DataFrame(records, columns=scans.columns).astype({"channels": "Int64"})
    manifest = reject_flagged(flag_duplicates(manifest), leave_out)
    write_atomically(out / "manifest.parquet", to_parquet(manifest))
    ok = manifest[manifest.status == "ok"]
    check_any_usable(manifest)
    spacing_mm = settings["spacing_mm"] or np.median(np.array([list(row) for row in ok.spacing_mm]), axis=0).tolist()
    indexed = scans.set_index("scan").loc[ok.scan]
    intensities = (results[scan].get("intensity") for scan in ok.scan)
    _write_json(out / "fingerprint.json", fingerprint(indexed, settings, intensities))
    structures = sorted({value for scan in ok.scan for value in results[scan]["structures"]})
    warn_of_codings(results[scan]["structures"] for scan in ok.scan)
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
    """Remove the volumes and masks of scans that are no longer in the manifest, or no longer usable."""
    others = [path for kind in ("volumes", "masks") for path in (out / kind).glob("*.b2nd") if path.stem not in scans]
    for path in others:
        path.unlink()
    count = len({path.stem for path in others})
    if count:
        warnings.warn(
            f"{count} scans left the manifest, or cannot be used any more: removed from the cache", stacklevel=4
        )


def _main_channels(results: dict[str, dict]) -> int:
    counts = pd.Series([result["channels"] for result in results.values() if result["status"] == "ok"], dtype=int)
    return int(counts.value_counts().idxmax()) if len(counts) else 1


def _row_of(result: dict[str, Any], channels: int, flags: str | None) -> dict[str, Any]:
    """What preparing changes in a scan's row of the manifest."""
    if result["status"] == "rejected":
        return {"status": "rejected", "reason": result["reason"]}
    row = {name: result[name] for name in MEASURED} | {"notes": result["notes"]}
    row["flags"] = join_flags(flags, result["flags"])
    if len(result["shape"]) == 3:
        row["orientation"] = "RAS"
    if result["channels"] != channels:
        reason = (
            f"{result['channels']} channels, most of the cohort has {channels}: expected the same number in all scans of a "
            "cache"
        )
        row |= {"status": "rejected", "reason": reason}
    return row


def _digest_of(ok: pd.DataFrame, settings: dict) -> str:
    """A digest of all voxels and masks and how they were prepared; neither order nor pseudonyms change it."""
    scans = sorted(f"{row.digest} {row.mask_digest or ''}" for row in ok.itertuples())
    return hashlib.sha256(json.dumps([settings, scans], sort_keys=True).encode()).hexdigest()


def _about(path: Path) -> dict[str, Any] | None:
    file = path / "cache.json"
    if not file.is_file():
        return None
    try:
        about = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, type(error).__name__) from None
    if not isinstance(about, dict) or not isinstance(about.get("settings", {}), dict):
        raise _broken(path, "no settings")
    return about


def _broken(path: Path, what: str) -> MedsslError:
    return MedsslError(
        f"the cache.json in {path.name} is broken ({what}): expected what medssl prepare wrote; prepare the manifest into a new "
        "folder"
    )


def _write_about(out: Path, about: dict[str, Any]) -> None:
    _write_json(out / "cache.json", about | {"medssl": version("medssl")})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
