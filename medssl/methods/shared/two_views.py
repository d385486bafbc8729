"""Shared by methods that compare two views of a scan: the views, a projection head, and batches larger than memory.

    class Mine(TwoViews):
        def __init__(self, encoder: Encoder):
            super().__init__(encoder)
            self.head = ProjectionHead([(encoder.out_dim, 128, None, None)])

        def loss(self, batch):
            a, b = self.projections(batch)             # each (B, D)
            return ((a - b) ** 2).mean()

Deviation that all of these methods share: both views go through encoder and head in one pass, so that batch statistics
are taken over twice as many samples, which small batches of volumes need.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View


class TwoViews(Method):
    """Two strong views of each scan and a head; subclasses set `head` and define the loss.

    Args:
        chunk: Samples that pass the encoder at a time, for a batch larger than memory; 0 takes the whole batch.
    """

    min_batch_size = 2
    head: nn.Module

    def __init__(self, encoder: Encoder, chunk: int = 0):
        super().__init__(encoder)
        self.chunk = chunk

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return tuple(recipes.contrastive(data_spec, size) for _ in range(2))

    def project(self, *views: Tensor) -> Tensor:
        """Views (B, C, *S) -> (len(views) * B, D), in one pass."""
        return self.head(in_chunks(self.encoder, torch.cat(views), self.chunk))

    def projections(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(B, D) of each of the two views."""
        first, second = self.project(*batch["views"]).chunk(2)
        return first, second

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if self.chunk and any(isinstance(m, _BatchNorm) for m in self.encoder.modules()):
            warnings.warn(
                f"with --method.chunk {self.chunk} the encoder's batch norm sees {self.chunk} samples, so the gradient is not "
                f"that of the whole batch; an encoder without batch norm (ResNet: --encoder.norm instance) has exactly that",
                stacklevel=2,
            )


def in_chunks(encoder: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """encoder(x) with the activations of `chunk` samples in memory at a time, for one more forward pass.

    Gradient caching (Gao et al., RepL4NLP 2021, arXiv 2101.06983): the features of the whole batch stay in memory, and when
    their gradient is known each chunk's forward pass is repeated. This is checkpointing along the batch axis, and the
    gradient is that of the whole batch.

    Args:
        encoder: What the samples pass.
        x: (B, C, *S).
        chunk: Samples that pass at a time; 0 for all of them.

    >>> in_chunks(nn.Flatten(), torch.zeros(5, 2, 3), 2).shape
    torch.Size([5, 6])
    """
    if not chunk or len(x) <= chunk:
        return encoder(x)
    run = partial(checkpoint, encoder, use_reentrant=False) if torch.is_grad_enabled() else encoder
    return torch.cat([run(part) for part in x.split(chunk)])
