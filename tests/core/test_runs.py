"""The run record: whole or not there, says how it ended, and a table of all of them survives broken ones."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import DiskFull, MedsslError
from medssl.core.spec import describe, rebuild
from medssl.encoders import Encoder, ResidualUNet


def test_a_finished_run_reads_back_with_metrics_cost_and_versions(tmp_path: Path) -> None:
    with runs.recording(tmp_path / "a", "pretrain", {"lr": 0.1}, "data", 3) as record:
        record.update(metrics={"auroc": 0.9, "nothing": float("nan")}, cost={"samples_per_s": 2.0})
        record.update(metrics={"more": 1})
    run = runs.read(tmp_path / "a")
    assert (run.status, run.kind, run.seed, run.config) == ("finished", "pretrain", 3, {"lr": 0.1})
    assert run.metrics == {"auroc": 0.9, "nothing": None, "more": 1}
    assert run.cost["seconds"] >= 0
    assert run.cost["samples_per_s"] == 2.0
    assert set(runs.PACKAGES) < set(run.versions)


def test_a_run_that_raises_is_failed_with_a_reason_that_holds_no_foreign_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError), runs.recording(tmp_path / "a", "x", {}, "d", 0):
        raise ValueError("/home/someone/DOE^JOHN")
    assert runs.read(tmp_path / "a").reason == "ValueError"
    with pytest.raises(MedsslError), runs.recording(tmp_path / "b", "x", {}, "d", 0):
        raise MedsslError("crop is 3: expected 4")
    assert runs.read(tmp_path / "b").reason == "crop is 3: expected 4"
    assert "DOE" not in (tmp_path / "a" / "run.json").read_text()


def test_table_shows_finished_broken_and_stale_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.recording(tmp_path / "good", "x", {"n": {"m": 1}}, "d", 0) as record:
        record.update(metrics={"dice": 0.5})
    for name, text in (("half", '{"id": "a"'), ("list", "[1]"), ("short", '{"id": "a"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    old = json.loads((tmp_path / "good" / "run.json").read_text()) | {
        "status": "running",
        "heartbeat": time.time() - 999,
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps(old))
    table = runs.table(tmp_path).set_index("folder")
    assert table["status"].to_dict() == {
        "good": "finished",
        "half": "broken",
        "list": "broken",
        "short": "broken",
        "old": "stale",
    }
    assert table.loc["good", "config.n.m"] == 1
    assert table.loc["good", "metrics.dice"] == 0.5
    assert list(runs.table(tmp_path / "nowhere").columns) == ["folder", "id", "kind", "status"]


def _write_forever(path: str) -> None:
    for n in range(10**6):
        write_atomically(Path(path), str(n % 10).encode() * 200_000)


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"x" * 200_000)
    for delay in (0.001, 0.01, 0.05, 0.1):
        writer = multiprocessing.get_context("fork").Process(target=_write_forever, args=(str(target),))
        writer.start()
        time.sleep(delay)
        writer.kill()
        writer.join()
        content = target.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1


def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="disk is full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_identity_depends_on_every_part_and_not_on_their_order() -> None:
    assert runs.identity(a=1, b=(2, 3)) == runs.identity(b=[2, 3], a=1)
    assert runs.identity(a=1) != runs.identity(a=2)


def test_a_record_of_format_1_is_read_with_present_names_of_classes_and_arguments(tmp_path: Path) -> None:
    with runs.recording(tmp_path, "pretrain", {"encoder": describe(ResidualUNet(2, width=4))}, "data", 0):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    old = {"class_path": "medssl.encoders.resenc.ResidualUNet", "init_args": {"dims": 2, "width": 4, "most_width": 8}}
    (tmp_path / "run.json").write_text(json.dumps(record | {"format": 1, "config": {"encoder": old}}))
    encoder = rebuild(runs.read(tmp_path).config["encoder"], Encoder)
    assert isinstance(encoder, ResidualUNet)
    assert encoder.channels == (4, 8, 8, 8)
