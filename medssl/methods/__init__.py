"""Pretexts, one paper a file.

    from medssl.methods import SimCLR
    medssl.pretrain("cache", method=SimCLR)

A file put here is found by itself: its `Method` subclasses can be named in the CLI, YAML and Python at once.
"""

from typing import Any

from medssl.core.registry import METHODS
from medssl.methods.base import Method
from medssl.methods.check import check_method

__all__ = ["Method", "check_method", *METHODS.names()]


def __getattr__(name: str) -> Any:
    return METHODS.attribute(name)
