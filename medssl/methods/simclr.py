"""SimCLR: two views of a scan are alike, all other scans of the batch are not.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020 (arXiv 2002.05709).

    medssl pretrain --data CACHE --method SimCLR --method.temperature 0.2
    medssl pretrain --data CACHE --method SimCLR --method.chunk 64 --batch-size 4096     # 64 scans in memory at a time
"""

from __future__ import annotations

from typing import Any

from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.shared.contrast import Similarity, check_temperature, nt_xent
from medssl.methods.shared.two_views import TwoViews


class SimCLR(TwoViews):
    """NT-Xent of two views of each scan; a scan that is in the batch twice is not its own negative.

    Args:
        temperature: Of NT-Xent; 0.1 to 0.5 in the paper, higher for small batches.
        projection: Width of the head's output (128 in the paper).
        similarity: Of two projections (cosine in the paper); `shared/contrast.py` defines the others.
        chunk: Samples that pass the encoder at a time (gradient caching), see `TwoViews`.

    Raises:
        MedsslError: `temperature` is not above 0.
    """

    def __init__(
        self,
        encoder: Encoder,
        temperature: float = 0.2,
        projection: int = 128,
        similarity: Similarity = "cosine",
        chunk: int = 0,
    ):
        super().__init__(encoder, chunk)
        check_temperature(temperature)
        self.temperature, self.projection, self.similarity = temperature, projection, similarity
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, projection)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        a, b = self.projections(batch)
        return nt_xent(a, b, batch["scan"], self.temperature, self.similarity)
