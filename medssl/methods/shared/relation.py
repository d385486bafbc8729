"""Shared by relational methods: tiles cut out of a crop, each with its own intensity change, and the question about them.

    class Mine(Relational):
        def ask(self, batch):
            return batch["views"][0][:, None], answers     # (B, parts, C, *S), (B,)

A network uses shortcuts: an edge that continues from one tile into the next, a brightness that two tiles share, padding
beside the scan. So tiles are separated by a gap and a jitter, each is made brighter or darker, and the scan is mirrored where
it ends. Noroozi and Favaro bring each tile to mean 0 and
standard deviation 1 instead; here the encoder should still work on scans in their own units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.intensity import BrightnessContrast
from medssl.views.random import derive_keys


class Relational(Method):
    """A method that asks how parts of a scan lie to each other, or how it was turned: cross-entropy over the answers.

    Attributes:
        head: (B, parts, out_dim) -> (B, answers).
        accuracy: Share of right answers at the last step.
    """

    hides_padding = True
    head: nn.Module

    def __init__(self, encoder: Encoder):
        super().__init__(encoder)
        self.accuracy = torch.tensor(0.0)
        self.own_intensity = BrightnessContrast(0.1, 0.2, probability=1.0)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.relational(data_spec, size, reflect=True),)  # never mirrored: left would be right

    @abstractmethod
    def ask(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The parts that go through the encoder, (B, parts, C, *tile), and the right answers, (B,) int64."""

    def answer(self, parts: Tensor) -> Tensor:
        """(B, parts, C, *tile) -> (B, answers) logits."""
        features = self.encoder(parts.flatten(0, 1))
        return self.head(features.reshape(len(parts), -1, features.shape[1]))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        parts, right = self.ask(batch)
        logits = self.answer(parts)
        self.accuracy = (logits.argmax(1) == right).float().mean()
        return F.cross_entropy(logits, right)

    def monitored_values(self) -> dict[str, float]:
        return {"accuracy": float(self.accuracy)}

    def tiles(self, batch: dict[str, Any], starts: Tensor, tile: Sequence[int]) -> Tensor:
        """Tiles of the view (B, n, C, *tile), each with its own intensity change.

        Args:
            batch: A batch with its views and keys.
            starts: (B, n, dims) int64, the first voxel of each tile.
            tile: Voxels of a tile along each axis.
        """
        return own_intensities(cut_tiles(batch["views"][0], starts, tile), batch["key"], self.own_intensity)


class RelationHead(nn.Module):
    """Each part through one shared layer, then all of them together through two (late fusion, as in both papers).

    Args:
        out_dim: Length of the encoder's vector.
        parts: Parts of a sample.
        answers: Answers to choose from.
        width: Width of the shared layer.
    """

    def __init__(self, out_dim: int, parts: int, answers: int, width: int = 64):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(out_dim, width), nn.ReLU(inplace=True))
        self.together = nn.Sequential(
            nn.Linear(parts * width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, answers)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, parts, out_dim) -> (B, answers)."""
        return self.together(self.each(features).flatten(1))


def own_intensities(tiles: Tensor, keys: Tensor, view: View) -> Tensor:
    """Each tile changed with a key of its own, (B, n, C, *tile).

    Args:
        tiles: (B, n, C, *tile).
        keys: (B,) int64.
        view: The change of intensity.
    """
    each = derive_keys(
        derive_keys(keys, salts.TILE_INTENSITY)[:, None], torch.arange(tiles.shape[1], device=keys.device)
    ).flatten()
    return view(tiles.flatten(0, 1), view.draw(each)).reshape(tiles.shape)


def cut_tiles(x: Tensor, starts: Tensor, tile: Sequence[int]) -> Tensor:
    """The tiles (B, n, C, *tile) of a batch.

    Args:
        x: (B, C, *S).
        starts: (B, n, dims) int64, the first voxel of each tile.
        tile: Voxels of a tile along each axis.
    """
    dims = len(tile)
    index = [torch.arange(len(x), device=x.device).reshape(-1, *[1] * (1 + dims))]
    for axis, edge in enumerate(tile):
        steps = torch.arange(edge, device=x.device).reshape([edge if i == axis else 1 for i in range(dims)])
        index.append(starts[:, :, axis].reshape(*starts.shape[:2], *[1] * dims) + steps)
    return x.permute(0, *range(2, x.ndim), 1)[tuple(index)].movedim(-1, 2)


def grid_cells(grid: Sequence[int]) -> Tensor:
    """(n, dims) int64: the cells of a grid, row after row."""
    return torch.stack(torch.meshgrid(*[torch.arange(n) for n in grid], indexing="ij")).flatten(1).T


def largest_tile(max_size: Sequence[float], strides: Sequence[int]) -> tuple[int, ...]:
    """The largest tile that the encoder's strides divide; 0 along an axis where there is none.

    Args:
        max_size: Voxels that the tile may have along each axis.
        strides: Of the encoder's coarsest level.
    """
    return tuple(int(limit // stride * stride) for limit, stride in zip(max_size, strides))


def check_tiles(encoder: Encoder, tile: Sequence[int], crop: Sequence[int], min_crop: Sequence[int], why: str) -> None:
    """Raise MedsslError where a tile has no voxels, or too few for the encoder's instance norms.

    Args:
        encoder: What the tiles go through.
        tile: Voxels of a tile along each axis.
        crop: The crop that the tiles are cut from.
        min_crop: The smallest crop whose tiles hold one of the encoder's coarsest strides.
        why: What the crop must hold, for the message.
    """
    instance_norm = any(isinstance(module, _InstanceNorm) for module in encoder.modules())
    if min(tile) >= 1 and not (instance_norm and tuple(tile) == encoder.strides[-1]):
        return
    factor = 2 if instance_norm else 1
    wanted = " ".join(str(max(n, factor * m)) for n, m in zip(crop, min_crop))
    twice = "; its instance norm needs more than one value, so twice that" if instance_norm else ""
    raise MedsslError(
        f"the crop {tuple(crop)} is too small: {why}{twice}; the nearest that works is --crop {wanted}, or an encoder "
        f"of smaller strides"
    )
