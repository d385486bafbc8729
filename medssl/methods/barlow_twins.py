"""Barlow Twins: the features of two views, correlated over the batch, should be the identity matrix.

Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021 (arXiv 2103.03230).

    medssl pretrain --data CACHE --method BarlowTwins --method.projection 512
"""

from __future__ import annotations

from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.two_views import TwoViews


class BarlowTwins(TwoViews):
    """redundancy: weight of the off-diagonal terms (lambda, 0.005 in the paper).

    projection: width of the projector's three layers. 8192 in the paper, for batches of 2048: off-diagonal noise grows with
    projection / batch, and batches of volumes are of dozens.
    """

    def __init__(self, encoder: Encoder, redundancy: float = 5e-3, projection: int = 512, chunk: int = 0):
        super().__init__(encoder, chunk)
        self.redundancy, self.projection = redundancy, projection
        self.head = BarlowTwinsProjectionHead(encoder.out_dim, projection, projection)
        self.barlow = BarlowTwinsLoss(redundancy, gather_distributed=torch.distributed.is_available())

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.barlow(*self.projections(batch))
