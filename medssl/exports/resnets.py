"""Our 2D ResNet under the names of torchvision and timm, whose ResNets are the same network.

check_resnet(model.encoder, "torchvision")
weights = resnet_weights(model)                        # "conv1.weight", "layer1.0.conv1.weight", ...
"""

from __future__ import annotations

from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.resnet import ResNet
from medssl.exports.trained import TrainedModel

WIDTH = 64  # of the first stage of every ResNet of torchvision and timm


def check_resnet(encoder: Encoder, library: str) -> None:
    """Raise MedsslError unless the library has this ResNet.

    Args:
        encoder: The encoder.
        library: Name of the library, for the message.
    """
    if not isinstance(encoder, ResNet):
        raise MedsslError(
            f"the encoder is a {type(encoder).__name__}: {library} has our ResNet alone; export to safetensors or onnx, which take any"
        )
    given = {
        "dims": (encoder.dims, 2),
        "width": (encoder.width, WIDTH),
        "max_pool": (encoder.max_pool, True),
        "norm": (encoder.norm, "batch"),
    }
    different = [f"{name} {own} (expected {theirs})" for name, (own, theirs) in given.items() if own != theirs]
    if different:
        raise MedsslError(
            f"this ResNet has {', '.join(different)}: {library} has no such ResNet; export to safetensors or onnx, which take any"
        )


def resnet_weights(model: TrainedModel) -> dict[str, Tensor]:
    """The weights of the ResNet, and of a classifier's last layer as `fc`, under torchvision's names.

    Args:
        model: A model that `check_resnet` passed.
    """
    weights = {name.removeprefix("net."): weight for name, weight in model.encoder.state_dict().items()}
    head = {} if model.head is None else {f"fc.{name}": weight for name, weight in model.head.state_dict().items()}
    return weights | head
