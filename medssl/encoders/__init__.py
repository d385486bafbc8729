"""Backbones in 2D and 3D behind one feature-pyramid contract, one family a file.

    from medssl.encoders import ResNet
    pyramid = ResNet(dims=3, depth=18).features(x)         # [(B, channels[i], *S // strides[i])]

A file put here is found by itself: its `Encoder` subclasses can be named in the CLI, YAML and Python at once.
"""

from typing import Any

from medssl.core.registry import ENCODERS
from medssl.encoders.base import Encoder, TokenEncoder, check_encoder
from medssl.encoders.decoder import Decoder

__all__ = ["Decoder", "Encoder", "TokenEncoder", "check_encoder", *ENCODERS.names()]


def __getattr__(name: str) -> Any:
    return ENCODERS.attribute(name)
