"""The words of the command line that say the same as objects do.

words = class_words("method", describe_method(method))          # ["--method", "SimMIM", "--method.mask_block", "4"]
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medssl.core.registry import find
from medssl.core.spec import plain


def class_words(option: str, spec: Mapping[str, Any]) -> list[str]:
    """`--method SimMIM --method.mask_block 4`: a class with those of its arguments that are not its defaults.

    Args:
        option: The option that names the class.
        spec: The class and its arguments, as `describe` gives them.
    """
    words = [f"--{option}", spec["class_path"]]
    for name, value in changed_arguments(spec).items():
        words += [f"--{option}.{name}", *_values(value)]
    return words


def changed_arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a spec that differ from the class's defaults, as plain data.

    Args:
        spec: The class and its arguments, as `describe` gives them.
    """
    given = {name: plain(value) for name, value in spec["init_args"].items()}
    if "." in spec["class_path"]:
        return given  # the user's own class, whose defaults no record may import
    parameters = inspect.signature(find(spec["class_path"])).parameters
    return {name: value for name, value in given.items() if value != _listed(parameters[name].default)}


def group_words(group: Any) -> list[str]:
    """The options of a frozen dataclass that differ from their defaults.

    Args:
        group: Such as a TrainConfig.
    """
    prefix = getattr(group, "option_prefix", "")
    changed = {item.name: getattr(group, item.name) for item in fields(group)}
    changed = {item.name: changed[item.name] for item in fields(group) if changed[item.name] != item.default}
    return [word for name, value in changed.items() for word in option_words(f"{prefix}{name}", value)]


def option_words(name: str, value: Any) -> list[str]:
    """`--batch-size 8`, or `--crop 32 32 32` of a list.

    Args:
        name: The option's name in Python.
        value: Its value.
    """
    return [f"--{name.replace('_', '-')}", *_values(value)]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _values(value: Any) -> list[str]:
    """The words of one value; a list of classes is one word unless all have their defaults."""
    if not isinstance(value, list | tuple):
        return [_word(value)]
    if any(isinstance(item, dict) for item in value):
        parts = [{"class_path": item["class_path"], "init_args": changed_arguments(item)} for item in value]
        if any(part["init_args"] for part in parts):
            return [json.dumps(parts)]
        return [part["class_path"] for part in parts]
    return [_word(item) for item in value]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
