"""Studies in a folder, and the dashboard's pages without a browser, as Streamlit's AppTest runs them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from medssl.reporting.dashboard import watch
from medssl.reporting.dashboard.server import app
from tests.reporting.test_report import make_study


@pytest.fixture(autouse=True)
def main_stays() -> Iterator[None]:
    """`__main__` as it was, for the tests that come after: AppTest replaces it, and processes spawned later start from it."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(autouse=True)
def looked_at_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is walked at each run of a page, so that no test waits for the next look."""
    monkeypatch.setattr(watch, "CHECK_S", 0.0)


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A folder of runs: a segmentation study `hippo`, and a classification study `two/hippo`."""
    make_study(tmp_path / "runs" / "two", "classification")
    make_study(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def run(root: Path, page: str = "label_efficiency", data: list[Path] | None = None, **query: str) -> AppTest:
        settings = {"root": str(root), "data": [str(folder) for folder in data or ()]}
        monkeypatch.setenv("MEDSSL_REVIEW", json.dumps(settings))
        dashboard = AppTest.from_file(str(app()), default_timeout=120)
        dashboard.query_params.update(query)
        dashboard.switch_page(f"{page}.py").run()
        assert not dashboard.exception
        return dashboard

    return run
