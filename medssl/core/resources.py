"""Where `apps/` and `configs/` are: beside the package in a checkout, inside it where a wheel was installed.

resource("configs")
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent


def resource(name: str) -> Path:
    """The folder called `name` that this copy of medssl was installed with."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else CHECKOUT / name
