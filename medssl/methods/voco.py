"""VoCo: where a random crop lies among the base crops of its scan, by the similarity of their features.

Wu et al., VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D Medical Image Analysis, CVPR 2024
(arXiv 2402.17300).

    medssl pretrain --data CACHE --method VoCo --crop 64 64 64

Base crops tile the crop without overlap. The similarity of a random crop to each of them (cosine, 0 where it is negative)
should equal the share of it that lies in that base crop, and base crops should differ from each other. The gradient of the
first term does not reach the base crops, as in the paper's equations; the authors' code also averages in a slow teacher and
weights the shares, which are left out. Deviations: there are several base crops along the slices too where the crop is as
deep as wide (the paper has 4 x 4 x 1 of them, in crops of 384 x 384 x 96), and the head is SimCLR's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.relation import check_tiles, cut_tiles, grid_cells, own_intensities
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.intensity import BrightnessContrast
from medssl.views.random import derive_keys, uniform


class VoCo(Method):
    """The error of the similarities, and the similarity of different base crops.

    Args:
        grid: Base crops along the first two axes (4 in the paper).
        queries: Random crops of a scan (the authors' sw_batch_size, 4).
        apart_weight: Weight of the similarity of different base crops (lambda, 1 in the paper).
        projection: Width of the head's output.

    Raises:
        MedsslError: `grid` is below 2, `queries` below 1 or `apart_weight` below 0, or `check` finds that the crop does not
            divide into base crops that the encoder takes.
    """

    hides_padding = True

    def __init__(
        self, encoder: Encoder, grid: int = 4, queries: int = 4, apart_weight: float = 1.0, projection: int = 128
    ):
        super().__init__(encoder)
        if grid < 2 or queries < 1 or apart_weight < 0:
            raise MedsslError(
                f"grid is {grid}, queries is {queries}, apart_weight is {apart_weight}: expected at least 2, at least 1, 0 or more"
            )
        self.grid, self.queries, self.apart_weight, self.projection = grid, queries, apart_weight, projection
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, projection)
        self.own_intensity = BrightnessContrast(
            0.1, 0.2, probability=1.0
        )  # so that brightness does not give the place away

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.relational(data_spec, size, reflect=True),)  # no mirroring: it would exchange left and right

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        bases, queries, tile = self.starts(batch)
        tiles = own_intensities(cut_tiles(x, torch.cat([bases, queries], 1), tile), batch["key"], self.own_intensity)
        features = F.normalize(self.head(self.encoder(tiles.flatten(0, 1))), dim=1).unflatten(0, tiles.shape[:2])
        base, query = features.split([bases.shape[1], self.queries], dim=1)
        similarity = (query @ base.detach().transpose(1, 2)).clamp(min=0)  # (B, queries, bases)
        shares = overlaps(queries, bases, tile)
        placed = -torch.log1p(-(shares - similarity).abs().clamp(max=1 - 1e-6)).mean()
        return placed + self.apart_weight * mean_cosine(base)

    def starts(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, list[int]]:
        """First voxels of the base crops and of the random ones, (B, n, dims) int64, and the edges of both."""
        keys, size = batch["key"], batch["views"][0].shape[2:]
        grid = self.grid_of(size)
        tile = [n // g for n, g in zip(size, grid)]
        bases = (grid_cells(grid) * torch.tensor(tile)).to(keys.device).expand(len(keys), -1, -1)
        room = torch.tensor([n - t + 1 for n, t in zip(size, tile)], device=keys.device)
        drawn = uniform(derive_keys(keys, salts.RANDOM_CROPS), self.queries * len(tile)).reshape(
            len(keys), self.queries, len(tile)
        )
        return bases, (drawn * room).long(), tile

    def grid_of(self, size: Sequence[int]) -> list[int]:
        """The number of base crops along each axis: `grid` in plane; along the slices, what makes a crop roughly a cube."""
        return [self.grid, self.grid, *[max(1, round(self.grid * n / size[0])) for n in size[2:]]]

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        steps = [g * s for g, s in zip(self.grid_of(crop), self.encoder.strides[-1])]
        if any(n % step for n, step in zip(crop, steps)):
            fits = " ".join(str(max(1, round(n / step)) * step) for n, step in zip(crop, steps))
            raise MedsslError(
                f"the crop {tuple(crop)} does not divide into {self.grid_of(crop)} base crops that the encoder's coarsest stride "
                f"{self.encoder.strides[-1]} divides: the nearest that does is --crop {fits}, or choose another --method.grid"
            )
        tile = [n // g for n, g in zip(crop, self.grid_of(crop))]
        reason = f"it is divided into {self.grid_of(crop)} base crops, which hold one stride"
        check_tiles(self.encoder, tile, crop, steps, reason)


def overlaps(queries: Tensor, bases: Tensor, tile: Sequence[int]) -> Tensor:
    """The share of each random crop that lies in each base crop, (B, q, n); over the base crops they add to 1.

    Args:
        queries: First voxels of the random crops (B, q, dims).
        bases: First voxels of the base crops (B, n, dims).
        tile: Voxels of either along each axis.
    """
    edges = torch.tensor(tile, device=queries.device)
    offset = (queries[:, :, None] - bases[:, None]).abs()
    return ((edges - offset).clamp(min=0) / edges).prod(dim=3)


def mean_cosine(base: Tensor) -> Tensor:
    """(B, n, D) unit vectors: the mean size of the cosines between the base crops of a scan."""
    cosines = (base @ base.transpose(1, 2)).abs()
    n = base.shape[1]
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)).mean() / (n * (n - 1))
