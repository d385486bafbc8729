"""Random crops of a cache, in an order that depends on the seed and the step alone.

    crops = Crops(cache, scans, size=(48, 48, 48), seed=0)
    crops[17]["source"]                                    # (C, 48, 48, 48), always the same

The sample of step k depends on the seed and k, not on the number of workers or on restarts: a run resumes by starting
`StepSampler` at the step of its checkpoint. The module imports little, since every loader process imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache

MIN_BODY_SHARE = 0.1  # a crop that shows less body is drawn again, MAX_DRAWS times in all
MAX_DRAWS = 4
STRUCTURE_SHARE = 0.5  # of the crops, with masks, that are centred in a structure
VOXELS_PER_STRUCTURE = 500  # remembered as possible centres
REMEMBERED_BYTES = 2**28  # of middle crops that stay in memory


class FieldReader(Protocol):
    """Adds one field to a sample; see `sample_fields.py`."""

    def read(self, crops: Crops, scan: str, start: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
        """The entries to add to a sample.

        Args:
            crops: The stream that the sample belongs to.
            scan: Pseudonym of the scan.
            start: First voxel of the source in the scan.
            generator: Random numbers of this sample alone.
        """


class Crops(Dataset):
    """Sample n of an endless, seeded stream of random crops: `n` decides which scan, where, and the key of its views.

    Args:
        cache: The prepared scans.
        scans: The scans to crop; each comes once in an epoch.
        size: Voxels of a crop along each axis (*source).
        seed: Seed of the stream.
        masks: Add `mask` (1, *source); every second crop is then centred in a structure of the mask.
        targets: A number for each scan, added as `target`.
        place: "random", or "center" for the middle of each scan.
        fields: What else each sample holds; `sample_fields.py` makes them.

    Raises:
        MedsslError: There is no scan.
    """

    def __init__(
        self,
        cache: Cache,
        scans: Sequence[str],
        size: Sequence[int],
        seed: int,
        masks: bool = False,
        targets: dict[str, int] | None = None,
        place: Literal["random", "center"] = "random",
        fields: Sequence[FieldReader] = (),
    ):
        if not scans:
            raise MedsslError(
                "no scan to train on: expected at least one; see the columns status and reason of the manifest"
            )
        self.cache, self.scans, self.size, self.seed = cache, list(scans), tuple(size), seed
        self.masks, self.targets, self.place, self.fields = masks, targets, place, tuple(fields)
        patients = cache.manifest.set_index("scan")["patient"]
        numbers = {patient: number for number, patient in enumerate(sorted(set(patients)))}
        self.patient = [numbers[patients[scan]] for scan in self.scans]
        self._middles: dict[str, tuple[list[int], np.ndarray]] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))  # the epoch, and its order of the scans
        self._structures: dict[str, list[np.ndarray]] = {}

    def __getitem__(self, n: int) -> dict[str, Any]:
        epoch, position = divmod(n, len(self.scans))
        row = int(self._permutation(epoch)[position])
        scan = self.scans[row]
        generator = np.random.default_rng([self.seed, 3, n])
        key = int(generator.integers(0, 2**63 - 1))
        start, source = self._draw(scan, generator)
        sample = {
            "source": torch.from_numpy(source),
            "valid": torch.from_numpy(self.valid(scan, start, source)),
            "scan": row,
            "patient": self.patient[row],
            "spacing_mm": torch.tensor(self.cache.spacing_mm),
            "key": key,
            "start": torch.tensor(start),
            "extent": torch.tensor(self.cache.shape(scan)),
        }
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
        """The first voxel of a crop, and the crop."""
        if self.place == "center":
            return self._middle(scan)
        if self.masks and generator.random() < STRUCTURE_SHARE and self._structure_voxels(scan):
            start = self._start_in_structure(scan, generator)
        else:
            return self._draw_body(scan, generator)
        return start, self.cache.read(scan, start, self.size)

    def _middle(self, scan: str) -> tuple[list[int], np.ndarray]:
        """The middle crop of a scan; those of a small set are read once and stay in memory."""
        if scan in self._middles:
            return self._middles[scan]
        start = [(n - size) // 2 for n, size in zip(self.cache.shape(scan), self.size)]
        source = self.cache.read(scan, start, self.size)
        if source.nbytes * len(set(self.scans)) <= REMEMBERED_BYTES:
            self._middles[scan] = (start, source)
        return start, source

    def _draw_body(self, scan: str, generator: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """A crop anywhere in the scan, drawn again while it shows little but air."""
        for _ in range(MAX_DRAWS):
            start = [
                int(generator.integers(0, n - size + 1)) if n > size else (n - size) // 2
                for n, size in zip(self.cache.shape(scan), self.size)
            ]
            source = self.cache.read(scan, start, self.size)
            if self.cache.valid(source).mean() > MIN_BODY_SHARE:
                break
        return start, source

    def _start_in_structure(self, scan: str, generator: np.random.Generator) -> list[int]:
        """The first voxel of a crop centred in a structure; each structure is equally likely, whatever its size."""
        structures = self._structure_voxels(scan)
        voxels = structures[generator.integers(len(structures))]
        center = voxels[generator.integers(len(voxels))]
        shape = self.cache.shape(scan)
        return [start_inside(int(c) - size // 2, n, size) for c, n, size in zip(center, shape, self.size)]

    def _structure_voxels(self, scan: str) -> list[np.ndarray]:
        """(N, dims) voxels of each structure of the scan, about 500 of each at most; the mask is read once."""
        if scan not in self._structures:
            mask, limit = self.cache.read_mask(scan), VOXELS_PER_STRUCTURE
            everywhere = [np.argwhere(mask == value) for value in self.cache.structures]
            self._structures[scan] = [v[:: max(1, len(v) // limit)] for v in everywhere if len(v)]
        return self._structures[scan]

    def valid(self, scan: str, start: Sequence[int], source: np.ndarray) -> np.ndarray:
        """(1, *source): body, neither the scan's air nor the padding around it.

        Args:
            scan: Pseudonym of the scan.
            start: First voxel of the source in the scan.
            source: (C, *source), what was read there.
        """
        inside = np.zeros(self.size, bool)
        shape = self.cache.shape(scan)
        inside[tuple(slice(max(0, -s), max(0, min(size, n - s))) for s, size, n in zip(start, self.size, shape))] = True
        return inside[None] & self.cache.valid(source).any(axis=0, keepdims=True)


class StepSampler(Sampler):
    """The numbers of the samples in each batch, this rank's share of them.

    Args:
        batch_size: Samples in a batch of one rank.
        total: Number of batches.
        start: The first batch, for a run that is resumed.
        rank: Which of the training processes this is.
        world: Number of training processes.
    """

    def __init__(self, batch_size: int, total: int, start: int = 0, rank: int = 0, world: int = 1):
        self.batch_size, self.total, self.start, self.rank, self.world = batch_size, total, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.total):
            first = (step * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.total


def source_within(cache: Cache, scans: Sequence[str], wanted: Sequence[int], crop: Sequence[int]) -> tuple[int, ...]:
    """The size of the source that views are cut from.

    Args:
        cache: The prepared scans.
        scans: Those that are cropped.
        wanted: The size that the views ask for.
        crop: The smallest size.

    Returns:
        The wanted size, but no axis longer than the median scan, so that views are not drawn from padding.
    """
    median = np.median([cache.shape(scan) for scan in scans], axis=0)
    return tuple(max(c, min(w, int(m))) for w, m, c in zip(wanted, median, crop))


def crop_by_spacing(
    spacing_mm: Sequence[float], median: Sequence[int], max_edge: int, strides: Sequence[int]
) -> tuple[int, ...]:
    """The largest crop about as long in mm along every axis: for thick slices wide in plane and of few slices.

    Args:
        spacing_mm: Spacing of the voxels.
        median: Voxels of the median scan along each axis; no axis of the crop is longer.
        max_edge: Edge in voxels of the cube (square in 2D) that has as many voxels as the crop may have.
        strides: What the crop has to be a multiple of, along each axis.
    """
    longest = max(n * step for n, step in zip(median, spacing_mm))
    largest = tuple(strides)
    for extent_mm in np.arange(min(spacing_mm), longest + min(spacing_mm), min(spacing_mm)):
        wanted = [min(n, int(extent_mm / step)) for n, step in zip(median, spacing_mm)]
        size = tuple(int(max(s, n // s * s)) for n, s in zip(wanted, strides))
        if np.prod(size) <= max_edge ** len(size):
            largest = size
    return largest


def start_inside(start: int, length: int, size: int) -> int:
    """The start of a crop along one axis, moved to lie inside the scan; centred where the scan is smaller.

    Args:
        start: First voxel of the crop, which may lie outside.
        length: Voxels of the scan.
        size: Voxels of the crop.
    """
    return min(max(start, 0), length - size) if length > size else (length - size) // 2
