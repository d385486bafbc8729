"""CLIP: a scan and its own report are alike, all other reports of the batch are not.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (arXiv 2103.00020); in
radiology: Zhang et al., ConVIRT, MLHC 2022 (arXiv 2010.00747).

    medssl index SCANS --labels labels.csv --report report --out MANIFEST
    medssl pretrain --data CACHE --method CLIP --crop 32 32 32
    medssl probe runs/clip --data CACHE --kind retrieval zeroshot --label lesion \
        --prompts '{"no": ["No focal abnormality."], "yes": ["Suspicious lesion."]}'

Deviations for small cohorts: the text encoder is a small one trained from scratch (`text.py`) unless `--method.text`
names a folder; views are turned and zoomed a little but never mirrored, because a report tells left from right. A crop
should hold what the report describes: choose it nearly as large as the scans. Equal reports are not negatives of each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.shared.devices import gather_all, own_rows
from medssl.methods.shared.text import HashedText, LocalText
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View

MAX_SCALE = 100.0  # of the logits, the paper's bound


class CLIP(Method):
    """The symmetric InfoNCE of scans and their reports.

    Args:
        text: A folder with a transformers model; without it a small text encoder is trained, see `shared/text.py`.
        temperature: Of the softmax at the first step; it is learned.
        projection: Width of the space that scans and reports share.
        text_width: Width of the small text encoder.

    Raises:
        MedsslError: `temperature` is below 0.01, or `text` holds no model that can be read.
    """

    min_batch_size = 2
    sample_fields = ("report",)

    def __init__(
        self,
        encoder: Encoder,
        text: str | None = None,
        temperature: float = 0.07,
        projection: int = 128,
        text_width: int = 128,
    ):
        super().__init__(encoder)
        if not temperature >= 1 / MAX_SCALE:
            raise MedsslError(f"temperature is {temperature}: expected {1 / MAX_SCALE} or more")
        self.text, self.temperature, self.projection, self.text_width = text, temperature, projection, text_width
        self.text_encoder: Any = HashedText(text_width) if text is None else LocalText(text)
        self.image_head = nn.Linear(encoder.out_dim, projection, bias=False)
        self.text_head = nn.Linear(self.text_encoder.out_dim, projection, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.relational(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        images = self.image_vectors(self.encoder(batch["views"][0]))
        texts = self.text_vectors(batch["report"])
        same = torch.tensor([number_of(text) for text in batch["report"]], device=images.device)
        return clip_loss(images, texts, self.log_scale.exp().clamp(max=MAX_SCALE), same)

    def image_vectors(self, features: Tensor) -> Tensor:
        """(N, out_dim) of the encoder -> (N, projection) of length 1."""
        return F.normalize(self.image_head(features).float(), dim=1)

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, projection) of length 1."""
        return F.normalize(self.text_head(self.text_encoder(texts)).float(), dim=1)

    def monitored_values(self) -> dict[str, float]:
        return {"temperature": 1 / min(MAX_SCALE, math.exp(float(self.log_scale.detach())))}


def number_of(text: str) -> int:
    """An int64 that equal texts share on every device: the first 63 bits of the SHA-256.

    >>> number_of("The lungs are clear.") == number_of("The lungs are clear.")
    True
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """The symmetric InfoNCE of pairs (B, D), (B, D) of length 1; negatives are gathered across devices.

    Args:
        images: (B, D), of length 1.
        texts: (B, D), of length 1.
        scale: What the cosines are multiplied by, 1 / temperature.
        same: (B,) whole numbers; pairs with the same number (equal reports) are not each other's negatives.
    """
    own = own_rows(images)
    groups = own if same is None else same
    excluded = groups[:, None] == gather_all(groups)[None]
    excluded[torch.arange(len(images)), own] = False  # a pair is its own positive
    sides = ((images, texts), (texts, images))
    logits = [(scale * a @ gather_all(b).T).masked_fill(excluded, -torch.inf) for a, b in sides]
    return torch.stack([F.cross_entropy(side, own) for side in logits]).mean()
