"""The residual U-Net encoder, the usual one for segmentation (nnU-Net ResEnc; Isensee et al. 2024, arXiv 2404.09556).

    ResidualUNet(dims=3, width=32, blocks=(1, 3, 4, 6, 6, 6))     # nnU-Net's ResEnc-M and ResEnc-L
    ResidualUNet(dims=3, width=16, blocks=(1, 1, 1, 1))           # small crops on a CPU

It is built from nnU-Net's own package, so that weights can be exchanged with nnU-Net. `Decoder`, which takes the pyramid of
any encoder, is its decoder. nnU-Net's presets M, L and XL have one architecture: they differ in the crop and the batch that fit into
8, 24 and 40 GB, and a crop of 96 to 192 voxels has six levels (in 2D seven, up to 512 channels).
"""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import Tensor, nn

from medssl.encoders.base import Encoder


class ResidualUNet(Encoder):
    """nnU-Net's residual encoder.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Channels of the finest level, doubled with each level up to `max_width`.
        blocks: Number of residual blocks of each level.
        max_width: Largest number of channels.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        width: int = 32,
        blocks: tuple[int, ...] = (1, 3, 4, 6),
        max_width: int = 320,
    ):
        channels = [min(width * 2**i, max_width) for i in range(len(blocks))]
        super().__init__(dims, in_channels, channels, [(2**i,) * dims for i in range(len(blocks))])
        self.width, self.blocks, self.max_width = width, tuple(blocks), max_width
        self.net = ResidualEncoder(
            in_channels,
            len(blocks),
            channels,
            nn.Conv2d if dims == 2 else nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (len(blocks) - 1),
            n_blocks_per_stage=list(blocks),
            conv_bias=True,
            norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )

    def layers(self) -> list[nn.Module]:
        stem = [] if self.net.stem is None else [self.net.stem]
        return [*stem, *self.net.stages]

    def features(self, x: Tensor) -> list[Tensor]:
        return self.net(x)
