"""Numbers that no setting can mean, refused when a dataclass of options is made.

@dataclass(frozen=True)
class Options:
    steps: int = 10

    def __post_init__(self) -> None:
        check_numbers(self)                     # steps=nan, steps=1.5, steps=True
"""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from medssl.core.errors import MedsslError


def check_numbers(options: Any) -> None:
    """Check that numbers are finite, whole where a whole number is meant, and that no seed is negative.

    Args:
        options: A dataclass whose annotations are text, as `from __future__ import annotations` leaves them.

    Raises:
        MedsslError: A field holds something else.

    >>> from medssl.training.config import TrainConfig
    >>> check_numbers(TrainConfig(steps=5))
    """
    for field in fields(options):
        kinds, value = str(field.type).split(" | "), getattr(options, field.name)
        if (value is None and "None" in kinds) or (isinstance(value, str) and "str" in kinds):
            continue
        if "int" in kinds and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise MedsslError(f"{field.name} is {value!r}: expected a whole number")
        if "float" in kinds and not (isinstance(value, Real) and math.isfinite(value)):
            raise MedsslError(f"{field.name} is {value!r}: expected a finite number")
        if field.name == "seed" and value < 0:
            raise MedsslError(f"{field.name} is {value}: expected 0 or more")
