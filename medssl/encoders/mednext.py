"""The encoder of MedNeXt in 2D and 3D (Roy et al., MICCAI 2023; arXiv 2303.09975), MONAI's own network.

    MedNeXt(dims=3, blocks=(2, 2, 2, 2, 2), expansion=(2, 2, 2, 2, 2))     # MedNeXt-S
    MedNeXt(dims=3, blocks=(3, 4, 8, 8, 8), expansion=(3, 4, 8, 8, 8))     # MedNeXt-L

`net` is MONAI's network with its own names, without the decoder.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.mednext import MedNeXt as MonaiMedNeXt
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder


class MedNeXt(Encoder):
    """ConvNeXt blocks in a U-Net's encoder, with group norms and residual down-sampling.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Channels of the finest level, doubled with each level.
        blocks: Blocks of each level; the last level is the bottleneck.
        expansion: Factor on the channels inside a block, of each level.
        kernel: Voxels along the edge of a depthwise kernel, 3 or 5.

    Raises:
        MedsslError: `blocks` and `expansion` are not as long as each other, or of one level only.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        width: int = 32,
        blocks: tuple[int, ...] = (2, 2, 2, 2, 2),
        expansion: tuple[int, ...] = (2, 2, 2, 2, 2),
        kernel: int = 3,
    ):
        levels = len(blocks)
        if levels < 2 or len(expansion) != levels:
            raise MedsslError(
                f"blocks is {tuple(blocks)}, expansion {tuple(expansion)}: expected as many numbers in both, two or more"
            )
        super().__init__(
            dims, in_channels, [width * 2**i for i in range(levels)], [(2**i,) * dims for i in range(levels)]
        )
        self.width, self.blocks, self.expansion, self.kernel = width, tuple(blocks), tuple(expansion), kernel
        self.net: Any = MonaiMedNeXt(
            dims,
            width,
            in_channels,
            1,
            encoder_expansion_ratio=list(expansion[:-1]),
            bottleneck_expansion_ratio=expansion[-1],
            kernel_size=kernel,
            use_residual_connection=True,
            blocks_down=list(blocks[:-1]),
            blocks_bottleneck=blocks[-1],
            blocks_up=[],
        )
        del self.net.out_0

    def features(self, x: Tensor) -> list[Tensor]:
        x, levels = self.net.stem(x), []
        for stage, down in zip(self.net.enc_stages, self.net.down_blocks):
            levels.append(stage(x))
            x = down(levels[-1])
        return [*levels, self.net.bottleneck(x)]

    def layers(self) -> list[nn.Module]:
        stages = [nn.ModuleList(pair) for pair in zip(self.net.enc_stages, self.net.down_blocks)]
        return [self.net.stem, *stages, self.net.bottleneck]
