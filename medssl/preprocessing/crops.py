"""Random crops of a cache, in an order that depends on the seed and the step alone.

    crops = Crops(cache, scans, size=(48, 48, 48), seed=0)
    crops[17]["source"]                                    # (C, 48, 48, 48), always the same

The sample that step k sees is a function of the seed and k, never of the number of workers or of a restart: resuming is
nothing but starting `StepSampler` at the step of the checkpoint. Light to import, since every loader process does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache

LEAST_BODY = 0.1  # a crop with a smaller share of body is drawn again, up to TRIES times
TRIES = 4


class FieldReader(Protocol):
    """Adds one field to a sample; see `sample_fields.py`."""

    def read(self, crops: Crops, scan: str, start: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
        """The entries to add to the sample of `scan` whose source starts at voxel `start`."""


class Crops(Dataset):
    """Sample n of an endless, seeded stream of random crops: `n` says which scan, where, and under which key.

    size: of the crop (*source). masks: also give `mask (1, *source)`; every second crop then holds a labelled structure.
    targets: a number for each scan, given as `target`. place: "random" or "middle".
    fields: what else each sample holds; `sample_fields.py` makes them.
    """

    def __init__(
        self, cache: Cache, scans: Sequence[str], size: Sequence[int], seed: int, masks: bool = False,
        targets: dict[str, int] | None = None, place: str = "random", fields: Sequence[FieldReader] = (),
    ):  # fmt: skip
        if not scans:
            raise MedsslError("no scan to train on: expected at least one; look at the manifest's status column")
        self.cache, self.scans, self.size, self.seed = cache, list(scans), tuple(size), seed
        self.masks, self.targets, self.place, self.fields = masks, targets, place, tuple(fields)
        patients = cache.manifest.set_index("scan")["patient"]
        codes = {p: i for i, p in enumerate(sorted(set(patients)))}
        self.patient = [codes[patients[s]] for s in self.scans]
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._places: dict[str, list[np.ndarray]] = {}

    def __getitem__(self, n: int) -> dict[str, Any]:
        epoch, position = divmod(n, len(self.scans))
        row = int(self._permutation(epoch)[position])
        scan = self.scans[row]
        generator = np.random.default_rng([self.seed, 3, n])
        key = int(generator.integers(0, 2**63 - 1))
        start, source = self._draw(scan, generator)
        sample = {
            "source": torch.from_numpy(source), "valid": torch.from_numpy(self.valid(scan, start, source)), "scan": row,
            "patient": self.patient[row], "spacing_mm": torch.tensor(self.cache.spacing_mm), "key": key,
            "start": torch.tensor(start), "extent": torch.tensor(self.cache.shape(scan)),
        }  # fmt: skip
        if self.masks:
            sample["mask"] = torch.from_numpy(self.cache.read_mask(scan, start, self.size))[None]
        if self.targets is not None:
            sample["target"] = self.targets[scan]
        for field in self.fields:
            sample |= field.read(self, scan, start, generator)
        return sample

    def __len__(self) -> int:
        return len(self.scans)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 4, epoch]).permutation(len(self.scans)))
        return self._order[1]

    def _draw(self, scan: str, generator: np.random.Generator) -> tuple[list[int], np.ndarray]:
        shape = self.cache.shape(scan)
        if self.place == "middle":
            start = [(n - size) // 2 for n, size in zip(shape, self.size)]
            return start, self.cache.read(scan, start, self.size)
        if self.masks and generator.random() < 0.5 and (places := self._structures(scan)):
            voxels = places[generator.integers(len(places))]
            centre = voxels[generator.integers(len(voxels))]
            start = [start_inside(int(c) - size // 2, n, size) for c, n, size in zip(centre, shape, self.size)]
            return start, self.cache.read(scan, start, self.size)
        for attempt in range(TRIES):
            start = [
                int(generator.integers(0, n - size + 1)) if n > size else (n - size) // 2
                for n, size in zip(shape, self.size)
            ]
            source = self.cache.read(scan, start, self.size)
            if attempt == TRIES - 1 or self.cache.valid(source).mean() > LEAST_BODY:
                break
        return start, source

    def _structures(self, scan: str) -> list[np.ndarray]:
        """For each structure of the scan up to 500 of its voxels; read once, then kept."""
        if scan not in self._places:
            mask = self.cache.read_mask(scan)
            found = [np.argwhere(mask == value) for value in self.cache.structures]
            self._places[scan] = [voxels[:: max(1, len(voxels) // 500)] for voxels in found if len(voxels)]
        return self._places[scan]

    def valid(self, scan: str, start: Sequence[int], source: np.ndarray) -> np.ndarray:
        """(1, *source): body, neither the scan's air nor the padding around it."""
        inside = np.zeros(self.size, bool)
        shape = self.cache.shape(scan)
        inside[tuple(slice(max(0, -s), max(0, min(size, n - s))) for s, size, n in zip(start, self.size, shape))] = True
        return inside[None] & self.cache.valid(source).any(axis=0, keepdims=True)


class StepSampler(Sampler):
    """The sample numbers of every batch from `start` to `total`, this rank's share of each."""

    def __init__(self, batch_size: int, total: int, start: int = 0, rank: int = 0, world: int = 1):
        self.batch_size, self.total, self.start, self.rank, self.world = batch_size, total, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.total):
            first = (step * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.total


def source_within(cache: Cache, scans: Sequence[str], wanted: Sequence[int], crop: Sequence[int]) -> tuple[int, ...]:
    """The source to cut crops from: as large as wanted, but no larger than the median scan, so that views are not drawn
    from padding; at least the crop."""
    median = np.median([cache.shape(scan) for scan in scans], axis=0)
    return tuple(max(c, min(w, int(m))) for w, m, c in zip(wanted, median, crop))


def crop_by_spacing(
    spacing_mm: Sequence[float], median: Sequence[int], most: int, strides: Sequence[int]
) -> tuple[int, ...]:
    """A crop about as long in mm along every axis: for thick slices wide in plane and of few slices. It has at most
    most ** axes voxels, no axis is longer than the median scan, and the strides divide it."""
    longest = max(n * step for n, step in zip(median, spacing_mm))
    found = tuple(strides)
    for extent_mm in np.arange(min(spacing_mm), longest + min(spacing_mm), min(spacing_mm)):
        wanted = [min(n, int(extent_mm / step)) for n, step in zip(median, spacing_mm)]
        size = tuple(int(max(s, n // s * s)) for n, s in zip(wanted, strides))
        if np.prod(size) <= most ** len(size):
            found = size
    return found


def start_inside(start: int, length: int, size: int) -> int:
    """The start moved so that the crop stays inside of the scan, or is centred where the scan is the smaller one."""
    return min(max(start, 0), length - size) if length > size else (length - size) // 2
