"""What every view was tested against, to what tolerance, and how far apart the two were.

python -m tests.views.references            # runs the tests that compare, writes the table into tests/views/README.md

A test states it in the one line that asserts it: `agrees(Blur, "scipy gaussian_filter", actual, expected, 1e-4)`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from medssl.core import registry
from medssl.views.base import View

HERE = Path(__file__).parent
VIEWS = registry.VIEWS.classes()
TABLE = HERE / "README.md"
INTRO = """# What every view is tested against

The largest difference anywhere between a view and its reference on the same parameters. Images are 0..1; `%` is relative.
Written by `python -m tests.views.references`; a test holds all but the last column against what the tests assert.

"""
Row = tuple[str, str]  # view, reference

apart: dict[Row, float] = {}  # the largest deviation of this run


def agrees(
    view: type[View], reference: str, actual: ArrayLike, expected: ArrayLike, tolerance: float, relative: bool = False
) -> None:
    """Assert that `actual` lies within `tolerance` of `expected` everywhere (as a share of it, if `relative`)."""
    actual, expected = (np.asarray(values, dtype=np.float64) for values in (actual, expected))
    assert actual.size, f"{view.__name__} and {reference}: nothing to compare"
    assert expected.shape in ((), actual.shape), f"{actual.shape} was compared with {expected.shape}"
    deviation = float((np.abs(actual - expected) / (np.abs(expected) if relative else 1.0)).max())
    row = view.__name__, reference
    apart[row] = max(apart.get(row, 0.0), deviation)
    assert deviation <= tolerance, (
        f"{view.__name__} is {deviation:.3g} from {reference}: at most {tolerance:g} expected"
    )


def stated() -> dict[Row, tuple[float, bool]]:
    """(view, reference) -> (tolerance, whether it is relative), from the source of every call of `agrees` in these tests."""
    tolerances = {}
    for _, call in _calls():
        view, reference, _, _, tolerance, *relative = call.args + [keyword.value for keyword in call.keywords]
        row = ast.unparse(view), ast.literal_eval(reference)
        tolerances[row] = ast.literal_eval(tolerance), bool(relative)
    return tolerances


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of `agrees` and the test it stands in, as pytest names it."""
    for file in sorted(HERE.glob("test_*.py")):
        for test in ast.parse(file.read_text()).body:
            for node in ast.walk(test):
                if (
                    isinstance(test, ast.FunctionDef)
                    and isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "agrees"
                ):
                    yield f"{file}::{test.name}", node


def table() -> str:
    """One row a view; what this run has not measured is `-`."""
    lines = ["| view | against | tolerance | largest difference |", "|---|---|---|---|"]
    rows = stated()
    for view in VIEWS:
        own = {reference: limits for (name, reference), limits in rows.items() if name == view}
        tolerances = [number(tolerance, tolerance, relative) for tolerance, relative in own.values()]
        measured = [number(apart.get((view, reference)), *limits) for reference, limits in own.items()]
        lines.append(f"| `{view}` | {' | '.join('<br>'.join(column) for column in (own, tolerances, measured))} |")
    return "\n".join(lines) + "\n"


def number(value: float | None, tolerance: float, relative: bool) -> str:
    """`2%` where that is how the tolerance is best said, else `1e-5`; `exact` for a difference of 0."""
    if not value:
        return "-" if value is None else "exact"
    if relative and tolerance >= 1e-3:
        return f"{100 * value:.2g}%"
    digits = f"{value:.2g}" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
    return f"{digits} relative" if relative else digits


if __name__ == "__main__":
    from tests.views import references  # the module that the tests import

    failed = pytest.main(sorted({test for test, _ in references._calls()}))
    TABLE.write_text(INTRO + references.table())
    sys.exit(failed)
