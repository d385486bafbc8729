"""A 2D encoder on volumes: every slice is encoded by itself, then the slices are pooled, so that a public 2D model serves 3D.

    SliceWise(Timm(name="vit_base_patch14_dinov2"))                       # along the last axis, averaged
    SliceWise(ResNet(dims=2), planes="all", pool="attention")             # three planes, attention over slices
    medssl pretrain --data CACHE --encoder SliceWise --encoder.encoder Timm --encoder.encoder.name resnet18

Attention pooling weighs the slices by one score each, made of the slice's vector (Ilse et al., Attention-based deep multiple
instance learning, ICML 2018, arXiv 1802.04712). `features` stacks the maps of the slices along the last axis into volumes, whose
stride along that axis is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder

AXIS = 2  # of the slices of one plane: axial in RAS+ volumes


class SliceWise(Encoder):
    """A 2D encoder applied to the slices of a volume.

    Args:
        encoder: The 2D encoder; it has one channel for each of the volume's.
        dims: 3: it takes volumes.
        in_channels: Channels of a volume; by default the encoder's.
        planes: "axial", or "all" for the axial, coronal and sagittal slices, whose vectors are joined.
        pool: How the slices' vectors become one: their mean, or a mean weighted by attention.
        hidden: Width of the layer that scores a slice, for attention.
        chunk: Slices that are encoded at once; 0 for all.

    Raises:
        MedsslError: The encoder is not 2D, or has other channels.
    """

    allowed_dims: ClassVar[tuple[int, ...]] = (3,)

    def __init__(
        self,
        encoder: Encoder,
        dims: int = 3,
        in_channels: int | None = None,
        planes: Literal["axial", "all"] = "axial",
        pool: Literal["mean", "attention"] = "mean",
        hidden: int = 64,
        chunk: int = 0,
    ):
        channels = encoder.in_channels if in_channels is None else in_channels
        if encoder.dims != 2 or channels != encoder.in_channels:
            raise MedsslError(
                f"SliceWise came with a {type(encoder).__name__} of dims={encoder.dims}, in_channels={encoder.in_channels}: expected "
                f"dims=2 and in_channels={channels}; pass --encoder.encoder.dims 2 --encoder.encoder.in_channels {channels}"
            )
        if chunk < 0 or hidden < 1:
            raise MedsslError(f"chunk is {chunk}, hidden is {hidden}: expected 0 or more, and 1 or more")
        super().__init__(dims, channels, encoder.channels, [(*stride, 1) for stride in encoder.strides])
        self.axes = (0, 1, AXIS) if planes == "all" else (AXIS,)
        self.planes, self.pool, self.chunk = planes, pool, chunk
        self.encoder = encoder
        width = encoder.out_dim
        self.score = (
            nn.ModuleList(nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1)) for _ in self.axes)
            if pool == "attention"
            else nn.ModuleList()
        )

    @property
    def out_dim(self) -> int:
        return self.encoder.out_dim * len(self.axes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps of the axial slices, stacked: [(B, channels[i], X // s, Y // s, Z)]."""
        slices, count = x.movedim(-1, 1).flatten(0, 1), x.shape[-1]
        parts = [self.encoder.features(part) for part in self._chunks(slices)]
        return [torch.cat(level).unflatten(0, (-1, count)).movedim(1, -1) for level in zip(*parts)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, X, Y, Z) -> (B, out_dim): the pooled vectors of each plane, side by side."""
        return torch.cat([self._pooled(x, i, axis) for i, axis in enumerate(self.axes)], dim=1)

    def layers(self) -> list[nn.Module]:
        *parts, last = self.encoder.layers()
        return [*parts, nn.ModuleList([last, self.score])]

    def check_size(self, size: Sequence[int]) -> None:
        super().check_size(size)
        for axis in self.axes:
            self.encoder.check_size([n for i, n in enumerate(size) if i != axis])

    def _pooled(self, x: Tensor, plane: int, axis: int) -> Tensor:
        moved = x.movedim(2 + axis, 1)  # (B, slices, C, ...)
        vectors = torch.cat([self.encoder(part) for part in self._chunks(moved.flatten(0, 1))])
        vectors = vectors.unflatten(0, (len(x), -1))
        if self.pool == "mean":
            return vectors.mean(1)
        return (self.score[plane](vectors).softmax(1) * vectors).sum(1)

    def _chunks(self, slices: Tensor) -> Sequence[Tensor]:
        return slices.split(self.chunk) if self.chunk else [slices]
