"""What every encoder is: a module that turns scans into a pyramid of features, fine to coarse.

    class Mine(Encoder):
        def __init__(self, dims: int = 3, in_channels: int = 1):
            super().__init__(dims, in_channels, channels=(16, 32), strides=((1,) * dims, (2,) * dims))
            ...
        def features(self, x): ...

    medssl pretrain --encoder mypackage.Mine --data CACHE

A run record keeps the arguments that the encoder was built with, so they have to be numbers, texts, lists, tuples or
dicts of these, or other encoders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded, twin


class Encoder(Recorded, nn.Module, ABC):
    """A backbone.

    dims: 2 or 3. channels: of each level of the pyramid. strides: of each level, one number an axis, fine to coarse.
    """

    def __init__(self, dims: int, in_channels: int, channels: Sequence[int], strides: Sequence[Sequence[int]]):
        super().__init__()
        if dims not in (2, 3) or in_channels < 1:
            raise MedsslError(f"dims is {dims}, in_channels is {in_channels}: expected 2 or 3, and at least 1")
        self.dims, self.in_channels = dims, in_channels
        self.channels = tuple(channels)
        self.strides = tuple(tuple(s) for s in strides)

    @property
    def out_dim(self) -> int:
        """The length of the vector `forward` gives."""
        return self.channels[-1]

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, *S) -> [(B, channels[i], *S // strides[i])], fine to coarse."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_dim): the coarsest level, averaged over space."""
        return self.features(x)[-1].flatten(2).mean(2)

    def check_size(self, size: Sequence[int]) -> None:
        """Raise MedsslError unless a crop of this size goes evenly through all strides."""
        coarsest = self.strides[-1]
        if len(size) != self.dims:
            raise MedsslError(f"the crop {tuple(size)} has {len(size)} axes: this encoder was built for {self.dims}")
        if any(n % s or n < s for n, s in zip(size, coarsest)):
            fits = tuple(max(s, round(n / s) * s) for n, s in zip(size, coarsest))
            raise MedsslError(
                f"the crop {tuple(size)} does not divide by the encoder's coarsest stride {coarsest}: the nearest that "
                f"does is {fits}; pass --crop {' '.join(map(str, fits))}"
            )


class TokenEncoder(Encoder):
    """An encoder of patches, each as large as the coarsest stride, that can encode some of them alone."""

    @abstractmethod
    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        """(B, in_channels, *S) -> (B, N, out_dim), patches in raster order, or (B, K, out_dim) of `keep (B, K)` only.

        keep: numbers of patches, the same count in each sample. attend: (B, N, N), True where patch i may look at j.
        """

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """How many patches a crop has along each axis."""
        return tuple(n // p for n, p in zip(size, self.strides[-1]))


def check_encoder(encoder: Encoder, size: Sequence[int] | None = None) -> None:
    """Raise AssertionError unless `encoder` keeps the contract: pyramid, vector, gradients, a record that rebuilds."""
    size = tuple(size or (2 * s for s in encoder.strides[-1]))
    x = torch.randn(2, encoder.in_channels, *size)
    encoder.check_size(size)
    pyramid = encoder.features(x)
    assert len(pyramid) == len(encoder.channels) == len(encoder.strides)
    for level, channels, stride in zip(pyramid, encoder.channels, encoder.strides):
        expected = (2, channels, *(n // s for n, s in zip(size, stride)))
        assert tuple(level.shape) == expected, (
            f"a level is {tuple(level.shape)}, its channels and strides say {expected}"
        )
    vector = encoder(x)
    assert tuple(vector.shape) == (2, encoder.out_dim), f"forward gives {tuple(vector.shape)}"
    (vector.square().mean() + sum(level.square().mean() for level in pyramid)).backward()
    idle = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f"no gradient reaches {idle[:3]}: DDP would complain"
    again = twin(encoder)
    again.load_state_dict(encoder.state_dict())
    encoder.eval(), again.eval()
    assert torch.equal(again(x), encoder(x)), "an encoder rebuilt from its record gives another result"
