"""No view without a reference, and no table of references that says other than the tests do."""

import numpy as np
import pytest

from medssl.views.intensity import Blur
from tests.views import references
from tests.views.references import TABLE, VIEWS, stated, table


def test_every_view_class_is_compared_with_something_that_is_not_itself() -> None:
    missing = sorted(VIEWS.keys() - {view for view, _ in stated()})
    assert not missing, (
        f"{missing}: expected a test that calls agrees({missing[0]}, reference, actual, expected, tolerance)"
    )


def test_the_table_says_what_the_tests_assert() -> None:
    def rows(text: str) -> list[list[str]]:
        return [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]

    written = rows(TABLE.read_text())
    again = "run `python -m tests.views.references` and commit tests/views/README.md"
    assert [row[:-1] for row in written] == [row[:-1] for row in rows(table())], again
    assert not any(cell == "-" for row in written for cell in row[-1].strip(" |").split("<br>")), again


def test_what_does_not_agree_fails() -> None:
    near = np.array([1.0, 2.0])
    references.agrees(Blur, "itself", near + 1e-9, near, 1e-4)
    for actual, expected in ((near + 1e-3, near), (near, near[:1]), (near[:0], near[:0]), (near * np.nan, near)):
        with pytest.raises(AssertionError):
            references.agrees(Blur, "itself", actual, expected, 1e-4)
