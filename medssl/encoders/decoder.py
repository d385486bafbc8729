"""A U-Net decoder over any encoder's pyramid (Ronneberger et al., MICCAI 2015), back to the scan's own grid.

decoder = Decoder(encoder, out_channels=3)
logits = decoder(encoder.features(x))                  # (B, 3, *S)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder


class Decoder(nn.Module):
    """Transposed convolutions from coarse to fine, each level joined with the encoder's, then one convolution.

    Args:
        encoder: The encoder whose pyramid the decoder takes.
        out_channels: Channels of the result; only `head` depends on them.
    """

    def __init__(self, encoder: Encoder, out_channels: int):
        super().__init__()
        dims, channels = encoder.dims, list(encoder.channels)
        ratios = [[b // a for a, b in zip(fine, coarse)] for fine, coarse in zip(encoder.strides, encoder.strides[1:])]
        self.ups = nn.ModuleList(_up(dims, c, f, r) for f, c, r in zip(channels, channels[1:], ratios))
        self.joins = nn.ModuleList(_block(dims, 2 * c, c) for c in channels[:-1])
        finest = encoder.strides[0]
        self.top = (
            nn.Sequential(_up(dims, channels[0], channels[0], finest), _block(dims, channels[0], channels[0]))
            if max(finest) > 1
            else nn.Identity()
        )
        self.head = _conv(dims)(channels[0], out_channels, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """[(B, channels[i], *S // strides[i])] -> (B, out_channels, *S)."""
        x = pyramid[-1]
        for skip, up, join in zip(pyramid[-2::-1], reversed(self.ups), reversed(self.joins)):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.head(self.top(x))


def _conv(dims: int) -> Any:
    return nn.Conv2d if dims == 2 else nn.Conv3d


def _up(dims: int, source: int, target: int, ratio: Sequence[int]) -> nn.Module:
    kind: Any = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    return kind(source, target, tuple(ratio), tuple(ratio))


def _block(dims: int, source: int, target: int) -> nn.Module:
    norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return nn.Sequential(
        _conv(dims)(source, target, 3, padding=1), norm(target, affine=True), nn.LeakyReLU(inplace=True)
    )
