"""Short calls for tests: options as the command line has them, flat, sorted into the arguments of `pretrain`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from medssl.training.config import Hardware, Monitoring, TrainConfig

GROUPS: dict[str, Any] = {"train": TrainConfig, "hardware": Hardware, "monitoring": Monitoring}


def options(**flat: Any) -> dict[str, Any]:
    """Keyword arguments for `pretrain`; a name that is not a field of a config stays as it is.

    >>> options(steps=2, seed=1)["train"].steps
    2
    """
    grouped = {}
    for argument, config in GROUPS.items():
        names = [field.name for field in fields(config) if field.name in flat]
        grouped[argument] = config(**{name: flat.pop(name) for name in names})
    return flat | grouped
