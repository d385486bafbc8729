"""Adding a method or an encoder is adding one file: these few lines find the classes in a package's files."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable


def public_classes(package: str, path: Iterable[str], base: type) -> dict[str, type]:
    """The concrete subclasses of `base` defined in the files of a package, by name."""
    found = {}
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for name, thing in vars(module).items():
            ours = inspect.isclass(thing) and issubclass(thing, base) and thing.__module__ == module.__name__
            if ours and not inspect.isabstract(thing):
                found[name] = thing
    return found
