"""VICReg: two views agree (invariance), each feature varies (variance), no two say the same (covariance).

Bardes, Ponce and LeCun, VICReg, ICLR 2022 (arXiv 2105.04906).

    medssl pretrain --data CACHE --method VICReg --method.projection 512
"""

from __future__ import annotations

from typing import Any

import torch
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.two_views import TwoViews


class VICReg(TwoViews):
    """invariance, variance, covariance: weights of the three terms, the paper's.

    projection: width of the projector's three layers (8192 in the paper, for batches of 2048; a covariance over a batch
    of dozens has no rank for so many).
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
        gathered = torch.distributed.is_available()
        self.vicreg = VICRegLoss(invariance, variance, covariance, gather_distributed=gathered)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.vicreg(*self.projections(batch))
