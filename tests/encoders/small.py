"""A small encoder of every family, built from the registry, for tests that go over all of them."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

from medssl.core.errors import MedsslError
from medssl.core.registry import ENCODERS
from medssl.encoders import Encoder

SMALL: dict[str, tuple[Any, ...]] = {  # the first values that an encoder takes make it small
    "width": (4, 8, 24),
    "depth": (1, 10),
    "blocks": ((1, 1),),
    "heads": (1,),
    "patch": (4,),
    "max_pool": (False,),
    "name": ("test_resnet",),
}
FOR_FAMILY: dict[
    str, dict[str, tuple[Any, ...]]
] = {  # in place of these, for families whose arguments mean something else
    "DenseNet": {"width": (4,), "growth": (4,), "blocks": ((1, 1),)},
    "EfficientNet": {"width": (0.1,), "depth": (0.3,)},
    "MedNeXt": {"width": (4,), "blocks": ((1, 1),), "expansion": ((2, 2),)},
    "MonaiNetwork": {
        "network": ("monai.networks.nets.BasicUNet",),
        "options": ({"features": [4, 8, 8, 8, 8, 8]},),
        "layers": (["conv_0", "down_1"],),
        "size": ((16, 16), (16, 16, 16)),
    },
    "Primus": {"size": ((16, 16, 16),), "patch": (4,), "width": (24,), "depth": (1,), "heads": (1,)},
    "SwinUNETR": {"width": (12,), "depths": ((1, 1, 1, 1),), "heads": ((1, 1, 2, 2),), "window": (2,)},
    "UNETR": {"size": ((16, 16), (16, 16, 16)), "patch": (4,), "width": (24,), "depth": (1,), "heads": (2,)},
}


def families(dims: int) -> list[str]:
    """The names of the encoders that have such dims."""
    kinds: dict[str, Any] = ENCODERS.classes()
    return [name for name, kind in kinds.items() if dims in kind.allowed_dims]


def small_encoder(name: str, dims: int, channels: int) -> Encoder:
    kind: Any = ENCODERS.load(name)
    if name == "SliceWise":
        return kind(small_encoder("ResNet", 2, channels))
    if name == "PooledLevels":
        return kind(small_encoder("ResNet", dims, channels))
    if name == "NormalizedInput":
        return kind(small_encoder("ResNet", dims, 3 if channels == 1 else channels), in_channels=channels)
    values_of = FOR_FAMILY.get(name, {n: v for n, v in SMALL.items() if n in inspect.signature(kind).parameters})
    names = list(values_of)
    refused = None
    for values in itertools.product(*values_of.values()):
        try:
            return kind(dims=dims, in_channels=channels, **dict(zip(names, values)))
        except MedsslError as error:
            refused = error
    raise AssertionError(f"no value of SMALL builds {name}: {refused}")
