"""SimCLR: two views of a scan are alike, all other scans of the batch are not.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020 (arXiv 2002.05709).

    medssl pretrain --data CACHE --method SimCLR --method.temperature 0.2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.views import recipes
from medssl.views.base import View


class SimCLR(Method):
    """temperature: of NT-Xent; the paper's is 0.1 to 0.5 by batch size, and small batches want it higher.

    projection: width of the head's output (128 in the paper).
    """

    least_batch = 2

    def __init__(self, encoder: Encoder, temperature: float = 0.2, projection: int = 128):
        super().__init__(encoder)
        self.temperature, self.projection = temperature, projection
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, projection)
        self.nt_xent = NTXentLoss(temperature=temperature, gather_distributed=torch.distributed.is_available())

    def views(self, size: Sequence[int], modality: str, spacing_mm: Sequence[float]) -> tuple[View, ...]:
        return tuple(recipes.contrastive(modality, size, spacing_mm) for _ in range(2))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        both = self.head(self.encoder(torch.cat(batch["views"])))  # one pass: batch statistics over both views
        return self.nt_xent(*both.chunk(2))
