"""Rotation: which way up is this scan? Exact right-angle turns, told apart by a linear head.

2D: the 4 turns of Gidaris et al., ICLR 2018 (arXiv 1803.07728). 3D: the 24 orientations of a cube, where Taleb et al.,
NeurIPS 2020 (arXiv 2006.03829) use 10 of them. Turns are index moves: no voxel is interpolated, so there is no
resampling artefact to learn from. Mirrored copies are not turns and are left out.

    medssl pretrain --data CACHE --method Rotation --crop 32 32 32
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import MedsslError
from medssl.methods.base import Method
from medssl.views import recipes
from medssl.views.base import View, uniform


class Rotation(Method):
    """4 classes in 2D, 24 in 3D; the crop must be a square or a cube."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder)
        self.turns = orientations(encoder.dims)
        self.head = nn.Linear(encoder.out_dim, len(self.turns))

    def views(self, size: Sequence[int], modality: str, spacing_mm: Sequence[float]) -> tuple[View, ...]:
        return (recipes.masked(modality, size, spacing_mm),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        answers = (uniform(batch["key"], 1)[:, 0] * len(self.turns)).long()
        turned = torch.stack([turn(x, self.turns[i]) for x, i in zip(batch["views"][0], answers.tolist())])
        logits = self.head(self.encoder(turned))
        self.accuracy = (logits.argmax(1) == answers).float().mean()
        return F.cross_entropy(logits, answers)

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if len(set(crop)) > 1:
            raise MedsslError(
                f"the crop {tuple(crop)} has unequal edges: Rotation turns it by right angles and needs equal ones; "
                f"pass --crop {' '.join([str(min(crop))] * len(crop))}"
            )


Turn = tuple[tuple[int, ...], tuple[int, ...]]  # the order of the axes, the axes reversed after that


def orientations(dims: int) -> list[Turn]:
    """All right-angle turns of a square (4) or a cube (24), the unturned one first."""
    turns = []
    for order in itertools.permutations(range(dims)):
        parity = sum(a > b for a, b in itertools.combinations(order, 2))
        for flips in itertools.product((0, 1), repeat=dims):
            if (parity + sum(flips)) % 2 == 0:  # determinant +1: a turn, no mirror image
                turns.append((order, tuple(i for i in range(dims) if flips[i])))
    return turns


def turn(x: Tensor, how: Turn) -> Tensor:
    """(C, *S) -> (C, *S), axes permuted and reversed."""
    order, reversed_axes = how
    return x.permute(0, *[1 + a for a in order]).flip([1 + a for a in reversed_axes])
