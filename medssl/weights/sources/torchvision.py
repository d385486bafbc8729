"""torchvision's ResNets, trained on photographs (He et al., CVPR 2016; https://github.com/pytorch/vision, BSD-3-Clause).

    medssl import resnet50-11ad3fa6.pth --as torchvision --out runs/imagenet
    medssl import resnet50-11ad3fa6.pth --as torchvision --encoder ResNet --encoder.dims 3 --encoder.depth 50 --out runs/inflated

The file has the names of MONAI's network one to one. Depth, width and channels are read from its tensors.
"""

from __future__ import annotations

import re

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.resnet import BLOCKS, ResNet
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PHOTOGRAPHS,
    Converted,
    Source,
    Tensors,
    take_out,
    with_in_channels,
    without_prefix,
)


class Torchvision(Source):
    """A ResNet with torchvision's names."""

    licence = "BSD-3-Clause (code); trained on ImageNet, whose images are for research"
    typical = (r"^(module\.)?conv1\.weight$", r"^(module\.)?layer1\.0\.conv1\.weight$")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = without_prefix(stored.tensors(self.payloads), ("module.",))
        tensors, left_out = take_out(tensors, {"classifier": r"^fc\."})
        built = resnet_like(tensors, encoder)
        return Converted(
            built,
            {f"net.{name}": value for name, value in tensors.items()},
            ExpectedScans(size=(224, 224) if built.dims == 2 else None, intensity=PHOTOGRAPHS),
            left_out=left_out,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )


def resnet_like(tensors: Tensors, encoder: Encoder | None = None) -> Encoder:
    """The ResNet that tensors with torchvision's names belong to.

    Args:
        tensors: The tensors, without prefix.
        encoder: What the user named; it is checked later, tensor by tensor.

    Raises:
        MedsslError: They are those of another network.
    """
    stem = tensors.get("conv1.weight")
    if stem is None or stem.ndim not in (4, 5):
        raise MedsslError(
            f"the file has no conv1.weight of a ResNet, but {', '.join(list(tensors)[:5])}: expected torchvision's names; for another "
            "of its networks name timm's own, as --as timm --encoder Timm --encoder.name NAME"
        )
    if encoder is not None:
        return with_in_channels(encoder, stem.shape[1])
    counts = tuple(len({m[1] for n in tensors if (m := re.match(rf"layer{i}\.(\d+)\.", n))}) for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in tensors
    depths = [depth for depth, blocks in BLOCKS.items() if blocks == counts and (depth >= 50) == bottleneck]
    if not depths:
        raise MedsslError(f"the file has {counts} blocks in its four stages: expected a ResNet of depth {list(BLOCKS)}")
    return ResNet(stem.ndim - 2, stem.shape[1], depths[0], stem.shape[0], max_pool=stem.shape[2] == 7)
