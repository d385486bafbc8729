"""Rotation: a scan is turned by right angles, and a linear head learns to tell by which turn.

2D: the 4 turns of Gidaris et al., ICLR 2018 (arXiv 1803.07728). 3D: the 24 orientations of a cube, where Taleb et al.,
NeurIPS 2020 (arXiv 2006.03829) use 10 of them. Turns are index moves: no voxel is interpolated, so there is no
resampling artefact to learn from. Mirrored copies are not turns and are left out.

    medssl pretrain --data CACHE --method Rotation --crop 32 32 32
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.relation import Relational
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.orientation import RightAngle, orientations


class Rotation(Relational):
    """The cross-entropy of the turn: 4 classes in 2D, 24 in 3D.

    Raises:
        MedsslError: `check` finds a crop that is not a square or cube.
    """

    def __init__(self, encoder: Encoder):
        super().__init__(encoder)
        self.turn = RightAngle(encoder.dims)
        answers = len(orientations(encoder.dims))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(encoder.out_dim, answers))  # linear, as in the papers

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size, reflect=True),)  # upright: a slight turn would blur the right angles

    def ask(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        params = self.turn.draw(batch["key"])
        return self.turn(batch["views"][0], params)[:, None], params["turn"]

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if len(set(crop)) > 1:
            raise MedsslError(
                f"the crop {tuple(crop)} has unequal edges: Rotation turns it by right angles and needs equal ones; "
                f"pass --crop {' '.join([str(min(crop))] * len(crop))}"
            )
