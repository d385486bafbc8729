"""An encoder whose vector holds every level of its pyramid, not the coarsest alone.

    PooledLevels(Timm(name="convnext_tiny"))(x)            # (B, sum of the channels of all levels)

The coarsest level of a network trained on photographs says what photographs show; texture and shade, which tell films apart, are
found in the finer ones. Several layers at once for a linear probe: Yosinski et al., NeurIPS 2014 (arXiv 1411.1792), on how general
each layer is; Evci et al., Head2Toe, ICML 2022 (arXiv 2201.03529).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder


class PooledLevels(Encoder):
    """Another encoder; its vector is the means of all its levels over space, one after the other, fine to coarse.

    Args:
        encoder: The encoder; its pyramid is passed on.
    """

    def __init__(self, encoder: Encoder):
        super().__init__(encoder.dims, encoder.in_channels, encoder.channels, encoder.strides)
        self.encoder = encoder

    @property
    def out_dim(self) -> int:
        return sum(self.channels)

    def features(self, x: Tensor) -> list[Tensor]:
        return self.encoder.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([level.flatten(2).mean(2) for level in self.features(x)], 1)

    def layers(self) -> list[nn.Module]:
        return self.encoder.layers()

    def check_size(self, size: Sequence[int]) -> None:
        self.encoder.check_size(size)
