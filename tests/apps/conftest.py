"""Streamlit's AppTest puts the app in the place of `__main__`; a process spawned later would start from there."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def main_stays() -> Iterator[None]:
    """`__main__` as it was, for the tests that come after."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before
