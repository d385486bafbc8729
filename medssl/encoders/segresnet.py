"""The encoders of SegResNet in 2D and 3D (Myronenko 2018, arXiv 1810.11654), MONAI's own networks.

    SegResNet(dims=3, width=16)                            # SuPreM's
    SegResEncoder(dims=3, width=32, blocks=(1, 2, 2, 4, 4))      # CT-FM's: 77.8 million weights

`net` is MONAI's network with its own names, without the decoder. The two differ in where a level is cut, in their
norms, and in nothing that a user would see.
"""

from __future__ import annotations

from typing import Any, Literal

from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder as MonaiSegResEncoder
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder

GROUPS = 8


class SegResNet(Encoder):
    """The encoder of MONAI's SegResNet, with group norms.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Channels of the finest level, doubled with each level; 8 divides it.
        blocks: Residual blocks of each level.

    Raises:
        MedsslError: The groups of the norm do not divide the width.
    """

    def __init__(self, dims: int = 3, in_channels: int = 1, width: int = 16, blocks: tuple[int, ...] = (1, 2, 2, 4)):
        if width % GROUPS or width < GROUPS:
            raise MedsslError(f"width is {width}: expected a number that {GROUPS} divides, the groups of the norms")
        super().__init__(dims, in_channels, *_levels(dims, width, blocks))
        self.width, self.blocks = width, tuple(blocks)
        self.net: Any = MonaiSegResNet(
            dims, width, in_channels, blocks_down=tuple(blocks), norm=("GROUP", {"num_groups": GROUPS})
        )
        del self.net.up_layers, self.net.up_samples, self.net.conv_final

    def features(self, x: Tensor) -> list[Tensor]:
        return self.net.encode(x)[1]

    def layers(self) -> list[nn.Module]:
        return [self.net.convInit, *self.net.down_layers]


class SegResEncoder(Encoder):
    """MONAI's SegResEncoder, the encoder of SegResNetDS (Auto3DSeg) and of CT-FM.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Channels of the finest level, doubled with each level.
        blocks: Residual blocks of each level.
        norm: Kind of normalisation; "instance" for batches of one or two.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        width: int = 32,
        blocks: tuple[int, ...] = (1, 2, 2, 4),
        norm: Literal["batch", "instance"] = "batch",
    ):
        super().__init__(dims, in_channels, *_levels(dims, width, blocks))
        self.width, self.blocks, self.norm = width, tuple(blocks), norm
        self.net = MonaiSegResEncoder(dims, width, in_channels, norm=norm, blocks_down=tuple(blocks))

    def features(self, x: Tensor) -> list[Tensor]:
        return self.net(x)

    def layers(self) -> list[nn.Module]:
        return [self.net.conv_init, *self.net.layers]


def _levels(dims: int, width: int, blocks: tuple[int, ...]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Channels and strides of each level, fine to coarse."""
    return [width * 2**i for i in range(len(blocks))], [(2**i,) * dims for i in range(len(blocks))]
