"""Models Genesis: intensities are transformed, voxels shuffled, boxes painted over; a U-Net restores the scan.

Zhou et al., Models Genesis, Medical Image Analysis 67, 2021 (arXiv 2004.07882).

    medssl pretrain --data CACHE --method ModelsGenesis --crop 64 64 32

The chances are those of the authors' code. Deviations: body alone is counted, see `Restoring`; no sigmoid follows, so that
values outside a scan's usual range can be restored too; and the scan is divided into blocks of one random size, each
shuffled, where the authors' code shuffles 10,000 windows one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared import salts
from medssl.methods.shared.restoring import Restoring
from medssl.views.base import per_sample
from medssl.views.curves import BezierCurve
from medssl.views.masking import random_box, shuffle_blocks
from medssl.views.random import derive_keys, uniform

PAINTED, UNPAINTED = (1 / 6, 1 / 3), (3 / 7, 4 / 7)  # edges of a box that is painted, and of one that is left out
MAX_BOXES, NEXT = 5, 0.95  # how many boxes at most, and the chance of each


class ModelsGenesis(Restoring):
    """The mean squared error over body of the scan that a U-Net restores from a corrupted one.

    Args:
        nonlinear: Chance that a random curve transforms a scan's intensities.
        shuffle: Chance that its voxels are shuffled within small blocks.
        paint: Chance that boxes, or all but boxes, are replaced by noise.
        inward: Share of the painted scans whose boxes are replaced (in-painting); of the others, all but boxes is
            (out-painting).

    Raises:
        MedsslError: A chance is not from 0 to 1, or nothing would be corrupted.
    """

    def __init__(
        self, encoder: Encoder, nonlinear: float = 0.9, shuffle: float = 0.5, paint: float = 0.9, inward: float = 0.2
    ):
        super().__init__(encoder)
        given = {"nonlinear": nonlinear, "shuffle": shuffle, "paint": paint, "inward": inward}
        for name, chance in given.items():
            if not 0 <= chance <= 1:
                raise MedsslError(f"{name} is {chance}: expected a chance from 0 to 1")
        if not nonlinear + shuffle + paint:
            raise MedsslError("nonlinear, shuffle and paint are all 0: expected something to restore")
        self.nonlinear, self.shuffle, self.paint, self.inward = nonlinear, shuffle, paint, inward
        self.bend = BezierCurve(probability=nonlinear)

    def corrupt(self, x: Tensor, keys: Tensor) -> Tensor:
        chances = uniform(derive_keys(keys, salts.DAMAGE), 3)
        shuffled = torch.where(
            per_sample(chances[:, 0] < self.shuffle, x), shuffle_blocks(x, derive_keys(keys, salts.SHUFFLING)), x
        )
        bent = self.bend(shuffled, self.bend.draw(derive_keys(keys, salts.CURVE)))
        covered = self.covered(derive_keys(keys, salts.PAINTING), x.shape[2:], chances[:, 2] < self.inward)
        covered = covered & per_sample(chances[:, 1] < self.paint, x)
        noise = uniform(derive_keys(keys, salts.PAINTED_NOISE), x[0, 0].numel()).reshape(covered.shape).to(x.dtype)
        return torch.where(covered, noise, bent)

    def covered(self, keys: Tensor, size: Sequence[int], inward: Tensor) -> Tensor:
        """(B, 1, *size) bool: the boxes of samples painted inwards, all but the boxes of the others.

        Args:
            keys: (B,) int64, which decide on the boxes.
            size: Voxels of the crop along each axis.
            inward: (B,) bool, which samples are painted inwards.
        """
        inside = outside = torch.zeros(len(keys), *size, dtype=torch.bool, device=keys.device)
        on = torch.ones_like(inward)
        for n in range(MAX_BOXES):
            one = derive_keys(keys, n)
            # the code keeps at least one box of a scan painted outwards; one painted inwards may stay as it is
            drawn = uniform(derive_keys(one, 0), 1)[:, 0] < NEXT
            on = on & drawn if n else drawn | ~inward
            inside = inside | (random_box(derive_keys(one, 1), size, PAINTED) & per_sample(on, inside))
            outside = outside | (random_box(derive_keys(one, 2), size, UNPAINTED) & per_sample(on, outside))
        return torch.where(per_sample(inward, inside), inside, ~outside)[:, None]
