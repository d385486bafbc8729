"""Pretexts, one paper a file.

    from medssl.methods import SimCLR
    medssl.pretrain("cache", method=SimCLR)

A file put here is found by itself: its `Method` subclasses can be named in the CLI, YAML and Python at once.
"""

from medssl.core.registry import public_classes
from medssl.methods.base import Method, check_method

globals().update(public_classes(__name__, __path__, Method))

__all__ = ["Method", "check_method", *public_classes(__name__, __path__, Method)]
