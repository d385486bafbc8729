"""BYOL: predict what a slowly moving teacher makes of the other view; no negatives.

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
    """momentum: of the teacher at first (0.996 in the paper, see `teacher.py`), rising to 1 by a half cosine.

    hidden, projection: widths of projector and predictor. 4096 in the paper, twice its features; ours are 128 to 512 wide.
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
        of_first, of_second = self.targets(*batch["views"]).chunk(2)
        return 4 + 2 * self.negative_cosine(first, of_second) + 2 * self.negative_cosine(second, of_first)
