"""VICReg: two views agree (invariance), each feature varies (variance), and no two are correlated (covariance).

Bardes, Ponce and LeCun, VICReg, ICLR 2022 (arXiv 2105.04906).

    medssl pretrain --data CACHE --method VICReg --method.projection 512
"""

from __future__ import annotations

from typing import Any

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.devices import gather_all
from medssl.methods.shared.two_views import TwoViews


class VICReg(TwoViews):
    """The weighted sum of the three terms; the weights are the paper's.

    Args:
        invariance: Weight of the distance between the two views' projections.
        variance: Weight of the hinge that keeps each feature's standard deviation at 1 or above.
        covariance: Weight of the squared covariances of different features.
        projection: Width of the projector's three layers. The paper has 8192 for batches of 2048; the covariance of a batch
            of dozens has too low a rank for so many.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.
    """

    def __init__(
        self,
        encoder: Encoder,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        projection: int = 512,
        chunk: int = 0,
    ):
        super().__init__(encoder, chunk)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.projection = projection
        self.head = VICRegProjectionHead(encoder.out_dim, projection, projection)
        self.vicreg = VICRegLoss(invariance, variance, covariance)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.vicreg(*map(gather_all, self.projections(batch)))
