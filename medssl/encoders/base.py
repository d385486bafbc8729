"""The contract of an encoder: a module that turns scans into a pyramid of features, fine to coarse.

    class Mine(Encoder):
        def __init__(self, dims: int = 3, in_channels: int = 1):
            super().__init__(dims, in_channels, channels=(16, 32), strides=((1,) * dims, (2,) * dims))
            ...
        def features(self, x): ...

    medssl pretrain --encoder mypackage.Mine --data CACHE

The record of a run keeps the arguments that the encoder was built with, so they have to be numbers, texts, lists, tuples or
dicts of these, or other encoders. `medssl.encoders.check_encoder` tests an encoder against this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded


class Encoder(Recorded, nn.Module, ABC):
    """A backbone in 2D or 3D.

    Args:
        dims: 2 for images (H, W), 3 for volumes (X, Y, Z).
        in_channels: Channels of a scan.
        channels: Channels of each level of the pyramid, fine to coarse.
        strides: Voxels of the scan for one of each level, along each axis, fine to coarse.

    Attributes:
        allowed_dims: The dims that the family has.

    Raises:
        MedsslError: The family has no such dims, or in_channels is below 1.
    """

    allowed_dims: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(self, dims: int, in_channels: int, channels: Sequence[int], strides: Sequence[Sequence[int]]):
        super().__init__()
        self.check_arguments(dims, in_channels)
        self.dims, self.in_channels = dims, in_channels
        self.channels = tuple(channels)
        self.strides = tuple(tuple(stride) for stride in strides)

    @classmethod
    def check_arguments(cls, dims: int, in_channels: int) -> None:
        """Raise MedsslError unless the family has networks for such scans.

        Args:
            dims: 2 for images, 3 for volumes.
            in_channels: Channels of a scan.
        """
        if dims in cls.allowed_dims and in_channels >= 1:
            return
        expected = " or ".join(map(str, cls.allowed_dims))
        hint = (
            "; for volumes put it into SliceWise: --encoder SliceWise" if (cls.allowed_dims, dims) == ((2,), 3) else ""
        )
        raise MedsslError(
            f"dims is {dims}, in_channels is {in_channels}: expected dims {expected} and 1 channel or more for {cls.__name__}{hint}"
        )

    @property
    def out_dim(self) -> int:
        """The length of the vector that `forward` returns."""
        return self.channels[-1]

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, *S) -> [(B, channels[i], *S // strides[i])], fine to coarse."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_dim): the coarsest level, averaged over space."""
        return self.features(x)[-1].flatten(2).mean(2)

    def layers(self) -> list[nn.Module]:
        """The parts of the network from input to output, for learning rates that differ by layer; by default one."""
        return [self]

    def check_size(self, size: Sequence[int]) -> None:
        """Raise MedsslError unless every stride divides a crop of this size."""
        coarsest = self.strides[-1]
        if len(size) != self.dims:
            raise MedsslError(f"the crop {tuple(size)} has {len(size)} axes: this encoder was built for {self.dims}")
        if any(n % s or n < s for n, s in zip(size, coarsest)):
            fits = tuple(max(s, round(n / s) * s) for n, s in zip(size, coarsest))
            raise MedsslError(
                f"the crop {tuple(size)} does not divide by the encoder's coarsest stride {coarsest}: the nearest that "
                f"does is {fits}; pass --crop {' '.join(map(str, fits))}"
            )
