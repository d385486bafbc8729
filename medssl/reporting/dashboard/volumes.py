"""Volumes as the viewer in the browser gets them: NIfTI made in memory, sent once over HTTP, under a digest.

    address = OFFERED.offer(scan_volume(cache, "4f1c"))      # "volumes/9b0f...": only what a page offered can be requested
    b"".join(nifti(scan_volume(cache, "4f1c")))              # int16 HU, or the cache's scale as int16 with a slope

A request names nothing but a digest that a page of this process has put into a reader's browser: no path, no scan. The voxels
are read slab by slab while they are sent, so that no whole copy of a scan is in memory. Imports no torch.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.normalize import CLIP
from medssl.studies import masks

ROUTE = "volumes"
SLAB = 64  # slices read at once: the height of a chunk in a cache
MOST_OFFERED = 4096  # descriptions, none of which holds voxels
HEADER_BYTES = 352  # of a NIfTI in one file, up to its voxels
STEP = max(map(abs, CLIP)) / np.iinfo(np.int16).max  # between two values of the cache's scale, as sent
STRONG, NONE = 1, 0  # zlib's levels: 1 packs a mask to hundredths; 0 only frames, for a browser on the same machine

Slab = Callable[[int, int], np.ndarray]  # first slice, slices -> (X, Y, slices) or (C, X, Y, slices)


@dataclass(frozen=True)
class Volume:
    """A volume that can be sent.

    Attributes:
        name: What it is, and of which data; two volumes of one name have the same voxels.
        shape: Voxels along (X, Y, Z).
        frames: Channels of the cache, as frames of a 4D NIfTI.
        affine: (4, 4), voxels to mm in RAS+.
        dtype: int16 or uint8, as sent.
        slope: What a sent value is multiplied by.
        labels: Whether the values are structures.
        slab: Reads a part of it.
    """

    name: str
    shape: tuple[int, int, int]
    frames: int
    affine: np.ndarray
    dtype: type[np.generic]
    slope: float
    labels: bool
    slab: Slab

    @property
    def size(self) -> int:
        """Bytes of the NIfTI."""
        return HEADER_BYTES + self.frames * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Offered:
    """The volumes that pages have offered, by digest; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._key, self._lock = secrets.token_bytes(32), threading.Lock()
        self._volumes: OrderedDict[str, Volume] = OrderedDict()

    def offer(self, volume: Volume) -> str:
        """Return the address of a volume, relative to the dashboard's: the same for the same voxels, and not to be guessed."""
        digest = hmac.new(self._key, volume.name.encode(), hashlib.sha256).hexdigest()
        with self._lock:
            self._volumes[digest] = volume
            self._volumes.move_to_end(digest)
            while len(self._volumes) > MOST_OFFERED:
                self._volumes.popitem(last=False)
        return f"{ROUTE}/{digest}"

    def get(self, digest: str) -> Volume | None:
        """Return what was offered under a digest; None where nothing was."""
        with self._lock:
            return self._volumes.get(digest)


OFFERED = Offered()


def scan_volume(cache: Cache, scan: str) -> Volume:
    """Return a scan of a cache: HU as int16 for CT, else the cache's scale in steps of `STEP`."""
    own, hounsfield = _own_handles(cache), cache.modality == "CT"

    def slab(first: int, count: int) -> np.ndarray:
        part = own.read(scan, *_slices(own, scan, first, count))
        return part if hounsfield else np.rint(part.astype(np.float32) / STEP).astype(np.int16)

    return _volume(cache, scan, "scan", np.int16, 1.0 if hounsfield else STEP, cache.channels, slab)


def reference_volume(cache: Cache, scan: str) -> Volume:
    """Return the reference mask of a scan."""
    own = _own_handles(cache)
    read = lambda first, count: own.read_mask(scan, *_slices(own, scan, first, count))  # noqa: E731
    return _volume(cache, scan, "reference", np.uint8, 1.0, 1, read)


def predicted_volume(cache: Cache, scan: str, cell: Path) -> Volume | None:
    """Return the mask that a cell predicted for a scan; None where it saved none.

    Raises:
        MedsslError: It cannot be read, or is not on the grid of the scan.
    """
    if masks.read(cell, scan, *_slices(cache, scan, 0, 1)) is None:
        return None

    def read(first: int, count: int) -> np.ndarray:
        part = masks.read(cell, scan, *_slices(cache, scan, first, count))
        if part is None:
            raise MedsslError(f"the mask of scan {scan} is gone since the page was drawn: load the page again")
        return part

    return _volume(cache, scan, f"prediction {cell}", np.uint8, 1.0, 1, read)


def nifti(volume: Volume) -> Iterator[bytes]:
    """Yield the bytes of a NIfTI-1 file: the header, then the voxels, x fastest."""
    yield header(volume)
    for frame in range(volume.frames):
        for first in range(0, volume.shape[2], SLAB):
            part = volume.slab(first, min(SLAB, volume.shape[2] - first))
            voxels = part[frame] if part.ndim == 4 else part
            for place in range(voxels.shape[2]):
                yield np.ascontiguousarray(voxels[:, :, place].T, dtype=volume.dtype).tobytes()


def header(volume: Volume) -> bytes:
    """Return the header: the affine as sform alone, since a qform cannot hold a sheared one."""
    made = nibabel.Nifti1Header()
    made.set_data_dtype(volume.dtype)
    made.set_data_shape((*volume.shape, volume.frames) if volume.frames > 1 else volume.shape)
    made.set_zooms((*np.linalg.norm(volume.affine[:3, :3], axis=0), *([1.0] if volume.frames > 1 else [])))
    made.set_sform(volume.affine, code="aligned")
    made.set_qform(None, code="unknown")
    made.set_xyzt_units("mm")
    made.set_slope_inter(volume.slope, 0.0)
    made["vox_offset"] = HEADER_BYTES
    made["magic"] = b"n+1"
    return bytes(made.binaryblock).ljust(HEADER_BYTES, b"\0")


def gzipped(parts: Iterable[bytes], level: int) -> Iterator[bytes]:
    """Yield the gzip of parts; level: 0 (framed alone) to 9."""
    packer = zlib.compressobj(level, wbits=31)
    for part in parts:
        if packed := packer.compress(part):
            yield packed
    yield packer.flush()


def _volume(
    cache: Cache, scan: str, kind: str, dtype: type[np.generic], slope: float, frames: int, slab: Slab
) -> Volume:
    name = "\0".join([cache.digest, scan, kind])
    x, y, z = cache.shape(scan)
    return Volume(name, (x, y, z), frames, cache.affine(scan), dtype, slope, dtype is np.uint8, slab)


def _own_handles(cache: Cache) -> Cache:
    """The same cache with open files of its own, since it is read in another thread than the page's."""
    return copy.copy(cache)


def _slices(cache: Cache, scan: str, first: int, count: int) -> tuple[list[int], list[int]]:
    x, y, _ = cache.shape(scan)
    return [0, 0, first], [x, y, count]
