"""Barlow Twins: the cross-correlation of two views' projections, over the batch, should be the identity matrix.

Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021 (arXiv 2103.03230).

    medssl pretrain --data CACHE --method BarlowTwins --method.projection 512
"""

from __future__ import annotations

from typing import Any

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.devices import gather_all
from medssl.methods.shared.two_views import TwoViews


class BarlowTwins(TwoViews):
    """The squared distance of the cross-correlation matrix from the identity.

    Args:
        redundancy: Weight of the off-diagonal terms (lambda, 0.005 in the paper).
        projection: Width of the projector's three layers. The paper has 8192 for batches of 2048; off-diagonal noise grows
            with projection / batch, and a batch of volumes has dozens.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.
    """

    def __init__(self, encoder: Encoder, redundancy: float = 5e-3, projection: int = 512, chunk: int = 0):
        super().__init__(encoder, chunk)
        self.redundancy, self.projection = redundancy, projection
        self.head = BarlowTwinsProjectionHead(encoder.out_dim, projection, projection)
        self.barlow = BarlowTwinsLoss(redundancy)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.barlow(*map(gather_all, self.projections(batch)))
