"""ResNet in 2D and 3D, of any depth and width (He et al., CVPR 2016; arXiv 1512.03385), built from MONAI's network.

ResNet(dims=2, depth=50)                               # ResNet-50
ResNet(dims=3, depth=10, width=16, max_pool=False)     # small crops on a CPU
"""

from __future__ import annotations

from typing import Any, Literal

from monai.networks.nets.resnet import ResNet as MonaiResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(Encoder):
    """A residual network.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        depth: 10, 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        width: Channels of the first stage.
        max_pool: Whether the stem pools; without it the stem's stride is 2 in place of 4, for crops below 96 voxels.
        norm: Kind of normalisation; "instance" for batches of one or two.

    Raises:
        MedsslError: An unknown depth.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        depth: int = 18,
        width: int = 64,
        max_pool: bool = True,
        norm: Literal["batch", "instance"] = "batch",
    ):
        if depth not in BLOCKS:
            raise MedsslError(f"depth is {depth}: expected one of {', '.join(map(str, BLOCKS))}")
        planes = [width * 2**i for i in range(4)]
        expansion = 4 if depth >= 50 else 1
        stride = 4 if max_pool else 2
        channels = [p * expansion for p in planes]
        strides = [(stride * 2**i,) * dims for i in range(4)]
        stem = ([width], [(2,) * dims]) if max_pool else ([], [])
        super().__init__(dims, in_channels, stem[0] + channels, stem[1] + strides)
        self.depth, self.width, self.max_pool, self.norm = depth, width, max_pool, norm
        self.net = MonaiResNet(
            block="bottleneck" if depth >= 50 else "basic",
            layers=list(BLOCKS[depth]),
            block_inplanes=planes,
            spatial_dims=dims,
            n_input_channels=in_channels,
            conv1_t_size=7 if max_pool else 3,
            conv1_t_stride=2,
            no_max_pool=not max_pool,
            feed_forward=False,
            bias_downsample=False,
            norm=(norm, {"affine": True}),
        )
        if norm == "instance":
            _use_instance_norms(self.net, dims)

    def layers(self) -> list[nn.Module]:
        net = self.net
        return [nn.ModuleList([net.conv1, net.bn1]), net.layer1, net.layer2, net.layer3, net.layer4]

    def features(self, x: Tensor) -> list[Tensor]:
        net = self.net
        stem = net.act(net.bn1(net.conv1(x)))
        levels = [stem] if self.max_pool else []
        x = net.maxpool(stem) if self.max_pool else stem
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            levels.append(x)
        return levels


def _use_instance_norms(net: nn.Module, dims: int) -> None:
    """Replace the batch norms, in place: MONAI 1.6 gives the norm that it was asked for to the stem alone.

    Args:
        net: MONAI's network.
        dims: 2 or 3.
    """
    kind: Any = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, kind(child.num_features, affine=True))
