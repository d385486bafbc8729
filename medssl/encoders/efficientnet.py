"""EfficientNet in 2D and 3D (Tan and Le, ICML 2019; arXiv 1905.11946), MONAI's own network.

    EfficientNet(dims=3)                                   # B0
    EfficientNet(dims=3, width=1.2, depth=1.4, image_size=300)   # B3

`net` is MONAI's network with its own names, without the classifier. For timm's names and public weights in 2D: `Timm` with
`--encoder.name efficientnet_b0`.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.efficientnet import EfficientNet as MonaiEfficientNet
from torch import Tensor, nn

from medssl.encoders.base import Encoder

STAGES = (  # of B0: repeats, kernel, stride, expansion, channels in and out, squeeze-and-excitation
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)


class EfficientNet(Encoder):
    """An EfficientNet; a level of the pyramid is what comes before each stage that halves the size.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Factor on the channels of B0: 1.0 for B1 too, then 1.1, 1.2, 1.4, 1.6, 1.8, 2.0 up to B7.
        depth: Factor on the blocks of B0: 1.1 for B1, then 1.2, 1.4, 1.8, 2.2, 2.6, 3.1 up to B7.
        image_size: Voxels along an axis that MONAI computes its paddings for: 224, 240, 260, 300, 380, 456, 528, 600.
        drop_connect: Share of the residual blocks that are left out in training, for the last block.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        width: float = 1.0,
        depth: float = 1.0,
        image_size: int = 224,
        drop_connect: float = 0.2,
    ):
        self.check_arguments(dims, in_channels)
        net: Any = MonaiEfficientNet(
            list(STAGES), dims, in_channels, 1, width, depth, image_size=image_size, drop_connect_rate=drop_connect
        )
        kept = [index - 1 for index in net.extract_stacks]
        channels = [net._blocks_args[index].output_filters for index in kept]
        super().__init__(dims, in_channels, channels, [(2 * 2**i,) * dims for i in range(len(channels))])
        self.kept, self.net = kept, net
        del net._fc

    @property
    def out_dim(self) -> int:
        return self.net._conv_head.out_channels

    def features(self, x: Tensor) -> list[Tensor]:
        net, levels = self.net, []
        x = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(x))))
        for index, stage in enumerate(net._blocks):
            x = stage(x)
            if index in self.kept:
                levels.append(x)
        return levels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_dim): the head's channels, averaged over space."""
        net = self.net
        head = net._bn1(net._conv_head(net._conv_head_padding(self.features(x)[-1])))
        return net._swish(head).flatten(2).mean(2)

    def layers(self) -> list[nn.Module]:
        net = self.net
        stem, head = nn.ModuleList([net._conv_stem, net._bn0]), nn.ModuleList([net._conv_head, net._bn1])
        return [stem, *net._blocks, head]
