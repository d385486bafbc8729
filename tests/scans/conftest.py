"""Where the real data lie, and a check that a message names nobody."""

import pytest

from tests.scans import scan_makers


@pytest.fixture
def shared():
    """shared("hippocampus") -> its folder; the test is skipped, saying so, where the data are not."""

    def find(name: str):
        folder = scan_makers.SHARED / name
        if not folder.exists():
            pytest.skip(f"../shared/data/{name} is not on this machine")
        return folder

    return find
