"""The pages of the dashboard: every file of `apps/review` but its first, in the order that each states at its top.

    TITLE = "Runs"      # in apps/review/runs.py
    ORDER = 2

A new page is one more file there; no list names it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from medssl.core.errors import MedsslError

FIRST_FILE = "app.py"


class Page(NamedTuple):
    """A page: its place among the others, its title, its file."""

    order: int
    title: str
    path: Path


def pages(folder: Path) -> list[Page]:
    """Return the pages in a folder, in their order.

    Raises:
        MedsslError: A file states no title or no order at its top.
    """
    return sorted(_page(path) for path in folder.glob("*.py") if path.name != FIRST_FILE)


def _page(path: Path) -> Page:
    """Read what a file states at its top, without running it."""
    stated = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in ("TITLE", "ORDER")
    }
    if set(stated) != {"TITLE", "ORDER"}:
        raise MedsslError(f'{path.name} states no title or no order: expected TITLE = "Runs" and ORDER = 2 at its top')
    return Page(stated["ORDER"], stated["TITLE"], path)
