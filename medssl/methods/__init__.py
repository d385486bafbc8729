"""Pretraining methods, one paper in each file.

    from medssl.methods import SimCLR
    medssl.pretrain("cache", method=SimCLR)

A new file here is enough: its `Method` subclasses can be named on the command line, in YAML and in Python at once.
"""

from typing import Any

from medssl.core.registry import METHODS
from medssl.methods.base import Method
from medssl.methods.check import check_method

__all__ = ["Method", "check_method", *METHODS.names()]


def __getattr__(name: str) -> Any:
    return METHODS.attribute(name)
