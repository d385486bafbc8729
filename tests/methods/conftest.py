"""What the tests of methods share."""

from collections.abc import Callable

import pytest

from tests.methods.references import compare


@pytest.fixture
def agrees() -> Callable[..., None]:
    """A loss and its reference agree; a fixture, so that `references.py` finds the tests that compare one."""
    return compare
