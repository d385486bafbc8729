"""The folder is looked at once for all readers, and only what changed is read again."""

import json
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from medssl.core import runs
from medssl.reporting.dashboard import watch
from medssl.reporting.dashboard.folder import runs_below
from medssl.reporting.dashboard.watch import FolderWatch
from tests.reporting.test_report import record


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "CHECK_S", 0.0)
    for n in range(5):
        record(tmp_path / f"run{n}", "pretrain", {"steps": n})
    return tmp_path


def test_only_what_changed_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, read, row = FolderWatch(root), [], runs.row
    first, table = watched.now()
    pd.testing.assert_frame_equal(table, runs_below(root))
    monkeypatch.setattr(runs, "row", lambda base, folder: read.append(folder.name) or row(base, folder))
    assert watched.now()[0] == first
    record(root / "run5", "pretrain", {"steps": 5})
    (root / "run1" / "run.json").write_text('{"id": "half')
    version, table = watched.now()
    assert sorted(read) == ["run1", "run5"]
    assert version != first
    pd.testing.assert_frame_equal(table, runs_below(root))
    shutil.rmtree(root / "run0")
    pd.testing.assert_frame_equal(watched.now()[1], runs_below(root))


def test_a_run_that_died_becomes_stale_without_a_file_changing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    record(root / "died", "pretrain", {}, status="running", heartbeat=now)
    watched = FolderWatch(root)
    assert statuses(watched)["died"] == "running"
    monkeypatch.setattr(time, "time", lambda: now + runs.STALE_S + 1)
    assert statuses(watched)["died"] == "stale"
    about = json.loads((root / "died" / "run.json").read_text())
    (root / "died" / "run.json").write_text(json.dumps(about | {"heartbeat": now + runs.STALE_S}))
    assert statuses(watched)["died"] == "running"


def test_readers_share_one_look_a_second(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks, walk = [], watch.walk
    monkeypatch.setattr(watch, "walk", lambda folder: walks.append(folder) or walk(folder))
    monkeypatch.setattr(watch, "CHECK_S", 60.0)
    watched = FolderWatch(root)
    assert {watched.now()[0] for _ in range(10)} == {1}
    assert len(walks) == 1


def statuses(watched: FolderWatch) -> dict[str, str]:
    return watched.now()[1].set_index("folder")["status"].to_dict()
