"""Backbones in 2D and 3D behind one feature-pyramid contract, one family per file.

    from medssl.encoders import ResNet
    pyramid = ResNet(dims=3, depth=18).features(x)         # [(B, channels[i], *S // strides[i])]

To add an encoder, add a file here: its `Encoder` subclasses then have a name in Python, YAML and on the command line.
"""

from typing import Any

from medssl.core.registry import ENCODERS
from medssl.encoders.base import Encoder
from medssl.encoders.check import check_encoder
from medssl.encoders.decoder import Decoder
from medssl.encoders.tokens import TokenEncoder

__all__ = ["Decoder", "Encoder", "TokenEncoder", "check_encoder", *ENCODERS.names()]


def __getattr__(name: str) -> Any:
    return ENCODERS.attribute(name)
