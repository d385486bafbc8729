"""A small encoder of every family, built from the registry, for tests that go over all of them."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

from medssl.core.errors import MedsslError
from medssl.core.registry import ENCODERS
from medssl.encoders import Encoder

SMALL: dict[
    str, tuple[Any, ...]
] = {  # the first values that an encoder takes make it small, where it has such arguments
    "width": (4, 8, 24),
    "depth": (1, 10),
    "blocks": ((1, 1),),
    "heads": (1,),
    "patch": (4,),
    "max_pool": (False,),
}


def small_encoder(name: str, dims: int, channels: int) -> Encoder:
    kind: Any = ENCODERS.load(name)
    names = [n for n in SMALL if n in inspect.signature(kind).parameters]
    refused = None
    for values in itertools.product(*(SMALL[n] for n in names)):
        try:
            return kind(dims=dims, in_channels=channels, **dict(zip(names, values)))
        except MedsslError as error:
            refused = error
    raise AssertionError(f"no value of SMALL builds {name}: {refused}")
