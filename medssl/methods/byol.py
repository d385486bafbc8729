"""BYOL: predict the projection that a slowly moving teacher gives of the other view, without negatives.

Grill et al., Bootstrap Your Own Latent, NeurIPS 2020 (arXiv 2006.07733).

    medssl pretrain --data CACHE --method BYOL --method.momentum 0.99

Fine-tuning takes the online encoder, as the paper does ("at the end of training, we only keep the encoder f_theta").
"""

from __future__ import annotations

from typing import Any

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.teacher import StudentTeacher


class BYOL(StudentTeacher):
    """The squared distance between predicted and teacher's projection, of length 1 each, both ways.

    Args:
        momentum: Share of itself that the teacher keeps at the first step (0.996 in the paper, see `shared/teacher.py`);
            it rises to 1 by a half cosine.
        hidden: Width of the hidden layers of projector and predictor; 4096 in the paper, twice as wide as its features.
        projection: Width of their outputs (256 in the paper).
        chunk: Samples that pass the encoder at a time, see `TwoViews`.

    Raises:
        MedsslError: `momentum` is not a share from 0 to 1.
    """

    def __init__(
        self, encoder: Encoder, momentum: float = 0.99, hidden: int = 1024, projection: int = 256, chunk: int = 0
    ):
        super().__init__(encoder, momentum, chunk)
        self.hidden, self.projection = hidden, projection
        self.head = BYOLProjectionHead(encoder.out_dim, hidden, projection)
        self.make_teacher()
        self.predictor = BYOLPredictionHead(projection, hidden, projection)
        self.negative_cosine = NegativeCosineSimilarity()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        first, second = (self.predictor(z) for z in self.projections(batch))
        first_target, second_target = self.targets(*batch["views"]).chunk(2)
        return 4 + 2 * self.negative_cosine(first, second_target) + 2 * self.negative_cosine(second, first_target)
