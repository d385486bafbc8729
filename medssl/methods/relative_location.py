"""Relative location: of two tiles of a scan, the encoder learns on which side of the first the second lies.

Doersch et al., Unsupervised Visual Representation Learning by Context Prediction, ICCV 2015 (arXiv 1505.05192); in 3D
Taleb et al., 3D Self-Supervised Methods for Medical Imaging, NeurIPS 2020 (arXiv 2006.03829).

    medssl pretrain --data CACHE --method RelativeLocation --crop 32 32 32

Both tiles are cut from the crop: a middle one, and one of the 8 (2D) or 26 (3D) around it. As in the paper a tile is a
quarter of the crop, neighbours lie half a tile apart, and each is moved by up to 7/96 of its edge, so that no line
continues from one into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared import salts
from medssl.methods.shared.relation import Relational, RelationHead, check_tiles, grid_cells, largest_tile
from medssl.views.random import derive_keys, uniform


class RelativeLocation(Relational):
    """The cross-entropy of the side.

    Args:
        jitter: How far a tile is moved at most, as a share of its edge (7/96 in the paper), rounded to at least a voxel;
            0 moves none.

    Raises:
        MedsslError: `jitter` is not a share from 0 to 0.125, or `check` finds the crop too small for the tiles.
    """

    def __init__(self, encoder: Encoder, jitter: float = 7 / 96):
        super().__init__(encoder)
        if not 0 <= jitter <= 1 / 8:
            raise MedsslError(f"jitter is {jitter}: expected a share of the tile from 0 to 0.125, or tiles would meet")
        self.jitter = jitter
        around = grid_cells((3,) * encoder.dims)
        self.around = around[(around != 1).any(1)]  # all but the middle: the answers in order
        self.head = RelationHead(encoder.out_dim, 2, len(self.around))

    def ask(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        keys, size = batch["key"], batch["views"][0].shape[2:]
        tile, pitch, reach = self.layout(size)
        right = (uniform(derive_keys(keys, salts.SIDE), 1)[:, 0] * len(self.around)).long()
        chosen = torch.stack([torch.ones_like(self.around[right.cpu()]), self.around[right.cpu()]], 1).to(keys.device)
        middle = torch.tensor([(n - t) // 2 for n, t in zip(size, tile)], device=keys.device)
        starts = middle + (chosen - 1) * torch.tensor(pitch, device=keys.device)
        span = torch.tensor(reach, device=keys.device)
        moved = uniform(derive_keys(keys, salts.SIDE_JITTER), starts[0].numel()).reshape(starts.shape) * (2 * span + 1)
        return self.tiles(batch, starts + moved.long() - span, tile), right

    def layout(self, size: Sequence[int]) -> tuple[tuple[int, ...], list[int], list[int]]:
        """Voxels per axis: of a tile's edge, from one tile to the next, and by how many each is moved at most."""
        tile = largest_tile([n / 4 for n in size], self.encoder.strides[-1])
        reach = [max(1, round(t * self.jitter)) if self.jitter else 0 for t in tile]
        return tile, [((n - t) // 2) - r for n, t, r in zip(size, tile, reach)], reach

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        strides = self.encoder.strides[-1]
        reason = f"a tile is a quarter of it, and the encoder's coarsest stride {strides} must divide a tile"
        check_tiles(self.encoder, self.layout(crop)[0], crop, [4 * s for s in strides], reason)
