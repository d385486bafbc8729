"""Jigsaw: the tiles of a scan are shuffled by one of a few permutations; the encoder learns to tell which.

Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, ECCV 2016 (arXiv
1603.09246); in 3D Taleb et al., NeurIPS 2020 (arXiv 2006.03829).

    medssl pretrain --data CACHE --method Jigsaw --crop 48 48 48 --method.permutations 100

The crop is the whole puzzle. Each tile is cut from a random place of its cell, at most 64/75 of it, as in the paper. The
permutations are chosen far from each other (the paper's algorithm 1), and are always the same. Deviation: 100 of them by
default, which the paper tries too; its 1000 need more scans and epochs than a hospital's cohort has.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared import salts
from medssl.methods.shared.relation import Relational, RelationHead, check_tiles, grid_cells, largest_tile
from medssl.views.random import derive_keys, uniform

TILE = 64 / 75  # of a cell, at most
POOL = 20_000  # random permutations to choose from where there are more than 8! of them


class Jigsaw(Relational):
    """The cross-entropy of the permutation; experimental: it was not shown to learn features.

    On the phantom a probe of its encoder fell from 0.892 to 0.884 (AUROC, mean of three seeds), the worst of them by 0.044,
    though it solves the puzzle; see the documents, "Does every method learn?".

    Args:
        permutations: How many permutations there are to tell apart, 2 to 1000.
        grid: Tiles along each axis (3 in both papers).

    Raises:
        MedsslError: There are not so many permutations, or `check` finds the crop too small for the tiles.
    """

    experimental = True

    def __init__(self, encoder: Encoder, permutations: int = 100, grid: int = 3):
        super().__init__(encoder)
        if grid < 2 or not 2 <= permutations <= min(1000, math.factorial(grid**encoder.dims)):
            raise MedsslError(
                f"permutations is {permutations}, grid is {grid}: expected 2 to 1000 permutations, of at least 2 tiles per axis"
            )
        self.permutations, self.grid = permutations, grid
        self.cells = grid_cells((grid,) * encoder.dims)
        self.orders = torch.tensor(far_permutations(len(self.cells), permutations))
        self.head = RelationHead(encoder.out_dim, len(self.cells), permutations)

    def ask(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        keys, size = batch["key"], batch["views"][0].shape[2:]
        tile, cell = self.layout(size)
        right = (uniform(derive_keys(keys, salts.PERMUTATION), 1)[:, 0] * self.permutations).long()
        corners = self.cells.to(keys.device) * torch.tensor(cell, device=keys.device)
        room = torch.tensor([c - t + 1 for c, t in zip(cell, tile)], device=keys.device)
        moved = uniform(derive_keys(keys, salts.TILE_JITTER), corners.numel()).reshape(len(keys), *corners.shape) * room
        parts = self.tiles(batch, corners + moved.long(), tile)
        order = self.orders.to(keys.device)[right]
        return parts[torch.arange(len(parts), device=keys.device)[:, None], order], right

    def layout(self, size: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
        """Voxels per axis of a tile and of a cell."""
        cell = [n // self.grid for n in size]
        return largest_tile([TILE * c for c in cell], self.encoder.strides[-1]), cell

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        strides = self.encoder.strides[-1]
        min_crop = [math.ceil(self.grid * math.ceil(s / TILE) / s) * s for s in strides]
        reason = f"it must hold {self.grid} tiles along each axis, and the encoder's coarsest stride {strides} must divide a tile"
        check_tiles(self.encoder, self.layout(crop)[0], crop, min_crop, reason)


@functools.lru_cache
def far_permutations(tiles: int, count: int) -> np.ndarray:
    """(count, tiles) int64: permutations far from each other in Hamming distance, by the paper's greedy algorithm 1.

    The first is the first of the pool; each next one has the largest sum of distances to those chosen, ties going to the
    earliest. The pool is all permutations of up to 8 tiles, else POOL random ones of a fixed seed: of 9
    tiles the paper has all 362,880, which takes seconds and gains nothing in distance that counts.
    """
    if tiles <= 8:
        pool = np.array(list(itertools.permutations(range(tiles))), np.int8)
    else:
        pool = np.random.default_rng(0).permuted(np.tile(np.arange(tiles, dtype=np.int8), (POOL, 1)), axis=1)
    chosen, distance = [0], np.zeros(len(pool), np.int64)
    while len(chosen) < count:
        distance += (pool != pool[chosen[-1]]).sum(1)
        distance[chosen[-1]] = -len(pool) * tiles  # never again
        chosen.append(int(distance.argmax()))
    return pool[chosen].astype(np.int64)
