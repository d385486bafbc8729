"""SimSiam: predict the other view's projection, with a stop-gradient in place of negatives and of a teacher.

Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021 (arXiv 2011.10566).

    medssl pretrain --data CACHE --method SimSiam
"""

from __future__ import annotations

from typing import Any

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.two_views import TwoViews


class SimSiam(TwoViews):
    """The negative cosine between a predicted projection and the other view's, both ways; no gradient reaches the target.

    Args:
        projection: Width of the projector's three layers (2048 in the paper, as wide as its features).
        hidden: Width of the predictor's hidden layer, a quarter of the projection as in the paper.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.
    """

    stop_gradient = ("projections as targets",)

    def __init__(self, encoder: Encoder, projection: int = 512, hidden: int = 128, chunk: int = 0):
        super().__init__(encoder, chunk)
        self.projection, self.hidden = projection, hidden
        self.head = SimSiamProjectionHead(encoder.out_dim, projection, projection)
        self.predictor = SimSiamPredictionHead(projection, hidden, projection)
        self.negative_cosine = NegativeCosineSimilarity()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        a, b = self.projections(batch)
        pairs = ((a, b.detach()), (b, a.detach()))
        first, second = (self.negative_cosine(self.predictor(own), target) for own, target in pairs)
        return (first + second) / 2
