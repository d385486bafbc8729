"""DenseNet in 2D and 3D (Huang et al., CVPR 2017; arXiv 1608.06993), MONAI's own network.

    DenseNet(dims=3, depth=121)
    DenseNet(dims=2, blocks=(2, 2), width=16, growth=8)    # small images on a CPU

`net` is MONAI's network with its own names, without the classifier. For torchvision's and timm's names in 2D: `Timm` with
`--encoder.name densenet121`.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.densenet import DenseNet as MonaiDenseNet
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.foreign import part_of

BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}


class DenseNet(Encoder):
    """A densely connected network.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        depth: 121, 169, 201 or 264: the published numbers of layers.
        blocks: Layers of each dense block, in place of a depth.
        width: Channels of the stem.
        growth: Channels that each layer adds.

    Raises:
        MedsslError: An unknown depth.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        depth: int = 121,
        blocks: tuple[int, ...] | None = None,
        width: int = 64,
        growth: int = 32,
    ):
        if depth not in BLOCKS:
            raise MedsslError(f"depth is {depth}: expected one of {', '.join(map(str, BLOCKS))}")
        counts = tuple(blocks or BLOCKS[depth])
        channels, carried = [width], width
        for count in counts:
            channels.append(carried + count * growth)
            carried = channels[-1] // 2
        super().__init__(dims, in_channels, channels, [(2 * 2**i,) * dims for i in range(len(channels))])
        self.depth, self.blocks, self.width, self.growth = depth, counts, width, growth
        self.net: Any = MonaiDenseNet(
            dims, in_channels, 1, init_features=width, growth_rate=growth, block_config=counts
        )
        del self.net.class_layers.out

    def features(self, x: Tensor) -> list[Tensor]:
        """The stem, then each dense block, the last one after its norm and ReLU."""
        levels = []
        for name, module in self.net.features.named_children():
            x = module(x)
            if name == "relu0" or name.startswith("denseblock"):
                levels.append(x)
        return [*levels[:-1], self.net.class_layers.relu(x)]

    def layers(self) -> list[nn.Module]:
        """The stem, then each block with what follows it."""
        groups: list[list[str]] = [[]]
        for name, module in self.net.features.named_children():
            if name.startswith("denseblock"):
                groups.append([])
            groups[-1] += [f"features.{name}.{inner}" for inner, _ in module.named_parameters()]
        return [part_of(self.net, names) for names in groups]
