"""What holds on every page: no malformed file ends it, no address leaves the folder, and data are never Markdown or HTML."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medssl.reporting.dashboard.pages import pages
from medssl.reporting.dashboard.server import app
from tests.apps.hostile import FRAGMENTS, HOSTILE, cells_of, elements_of, rename_arm
from tests.apps.reading import html_of, text_of
from tests.reporting.test_report import make_study

ROOT = Path(__file__).parent.parent.parent
PAGES = [page.path.stem for page in pages(app().parent)]  # a new page is tested without being named here

JUNK = (None, "x", [[1]])


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_says_so(tmp_path: Path, opened, page: str) -> None:
    assert "This folder is empty" in text_of(opened(tmp_path, page))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(studied: Path, opened, page: str) -> None:
    assert text_of(opened(studied, page))


@pytest.mark.parametrize("name", ["../outside", "/etc", "hippo/../../outside", "hippo/cells", "way_out", "nowhere"])
@pytest.mark.parametrize("page", ["label_efficiency", "cases"])
def test_a_path_in_the_address_is_refused(studied: Path, opened, tmp_path: Path, name: str, page: str) -> None:
    make_study(tmp_path / "outside")
    os.rename(tmp_path / "outside" / "hippo", tmp_path / "away")
    (studied / "way_out").symlink_to(tmp_path / "away")
    dashboard = opened(studied, page, study=name)
    assert len(dashboard.error) == 1
    assert re.search(
        "outside of the one under review|no readable study of the requested name", dashboard.error[0].value
    )
    assert not dashboard.table
    assert not dashboard.dataframe


@pytest.mark.parametrize("field", ["config", "metrics", "cost", "started", "status", "kind", "protocol", "versions"])
def test_a_malformed_record_never_ends_the_page(studied: Path, opened, field: str) -> None:
    file = studied / "hippo" / "run.json"
    about = json.loads(file.read_text())
    for junk in JUNK:
        file.write_text(json.dumps(about | {field: junk}))
        assert text_of(opened(studied))
    cell = studied / "two" / "hippo" / "cells" / "scratch-1p-0" / "run.json"
    about = json.loads(cell.read_text())
    cell.write_text(json.dumps(about | {field: "x"}))
    assert text_of(opened(studied, "runs"))
    assert text_of(opened(studied, study="two/hippo"))


@pytest.mark.parametrize("name", ["task", "arms", "cell_ids", "cells", "scored_patients", "seen_test_scans", "dims"])
def test_malformed_settings_of_a_study_are_shown_on_the_page(studied: Path, opened, name: str) -> None:
    file = studied / "hippo" / "run.json"
    about = json.loads(file.read_text())
    for junk in JUNK:
        file.write_text(json.dumps(about | {"config": about["config"] | {name: junk}}))
        assert text_of(opened(studied, "cases", study="hippo"))


def test_names_and_messages_from_data_are_shown_as_they_are_written(studied: Path, opened) -> None:
    rename_arm(studied / "hippo", "simmim", HOSTILE)
    cell = studied / "hippo" / "cells" / "simmim-1p-1" / "run.json"
    about = json.loads(cell.read_text())
    cell.write_text(json.dumps(about | {"status": HOSTILE, "reason": f"# {HOSTILE}"}))
    for page in ("label_efficiency", "compare", "runs", "cases"):
        dashboard = opened(studied, page, study="hippo")
        assert HOSTILE in text_of(dashboard), page
        markdown = [
            e.value
            for kind in (dashboard.markdown, dashboard.caption, dashboard.error, dashboard.warning)
            for e in kind
        ]
        markdown += [text for table in dashboard.table for text in cells_of(table)]
        markdown += [metric.label for metric in dashboard.metric]
        assert not [text for text in markdown if any(fragment in text for fragment in FRAGMENTS)]
        assert elements_of(html_of(dashboard)) == []
        charts = "".join(chart.proto.spec for chart in dashboard.get("plotly_chart"))
        assert "<img" not in charts
        assert "<script" not in charts


def test_from_a_wheel_in_an_empty_folder_and_without_torch(studied: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = """
import sys
from streamlit.testing.v1 import AppTest
from medssl.reporting.dashboard.server import app
dashboard = AppTest.from_file(str(app()), default_timeout=120).run()
for page in ("runs.py", "cases.py"):
    dashboard.switch_page(page).run()
    assert not dashboard.exception and not dashboard.error, dashboard.error
import medssl
print(medssl.__file__, str(app()), sorted({"torch", "monai", "lightly", "torchvision"} & set(sys.modules)))
"""
    (tmp_path / "empty").mkdir()
    settings = json.dumps({"root": str(studied), "data": []})
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "MEDSSL_REVIEW": settings}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    package, first, heavy = done.stdout.strip().split("\n")[-1].split(" ", 2)
    assert Path(package).is_relative_to(tmp_path / "installed")
    assert Path(first) == tmp_path / "installed" / "medssl" / "apps" / "review" / "app.py"
    assert heavy == "[]"
