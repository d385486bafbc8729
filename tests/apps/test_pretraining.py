"""The page Pretraining: curves of the logs over each other, how runs ended, what they restored, receipts, files that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.dashboard import pretraining
from medssl.reporting.dashboard.folder import runs_below
from medssl.reporting.redaction import without_paths
from tests.apps.hostile import FRAGMENTS, HOSTILE
from tests.apps.reading import html_of, text_of
from tests.apps.test_label_efficiency import numbers
from tests.reporting.test_report import record

STEPS = 30


def write_run(root: Path, name: str, log: str | None = None, metrics: dict | None = None, **changes: object) -> Path:
    """A pretraining run as `medssl pretrain` leaves it."""
    config = {
        "method": {"class_path": "SimCLR", "init_args": {}},
        "steps": STEPS,
        "data_spec": DataSpec(3, 1, "CT", (2.0, 1.0, 1.0)).to_record(),
    }
    cost = {"steps": STEPS, "seconds": 9.0, "samples_per_s": 12.5, "peak_memory_mib": 700, "device": "cpu"}
    record(root / name, "pretrain", config, metrics=metrics or {}, cost=cost, **changes)
    step = np.arange(1, STEPS + 1)
    curves = pd.DataFrame({"step": step, "lr": 1e-3, "loss": 4 - 0.1 * step})
    curves["effective_rank"] = np.where(step % 10 == 0, step / 2.0, np.nan)
    curves["method.momentum"] = 0.99
    (root / name / "metrics.csv").write_text(curves.to_csv(index=False) if log is None else log)
    return root / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs", "simclr")
    collapsed = {"metrics": {"collapsed_at_step": 20.0}, "status": "failed", "started": 1.6e9}
    write_run(tmp_path / "runs", "moco", **collapsed, id="other", reason="collapsed; see /home/ann/runs/x")
    return tmp_path / "runs"


def charts(dashboard: AppTest) -> dict[str, dict]:
    specs = [json.loads(chart.proto.spec) for chart in dashboard.get("plotly_chart")]
    return {spec["layout"]["title"]["text"]: spec for spec in specs}


def test_the_curves_are_those_of_the_logs(root: Path, opened) -> None:
    dashboard = opened(root, "pretraining")
    shown = charts(dashboard)
    assert [*shown] == ["loss", "effective rank", "learning rate", "momentum"]
    log = pd.read_csv(root / "simclr" / "metrics.csv")
    first = shown["loss"]["data"][0]
    assert first["name"] == "simclr"
    assert numbers(first["y"]) == pytest.approx(log["loss"].tolist())
    rank = shown["effective rank"]["data"][0]
    assert dict(zip(numbers(rank["x"]), numbers(rank["y"]), strict=True)) == {10: 5, 20: 10, 30: 15}
    looks = {
        (t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"]) for t in shown["loss"]["data"] if "line" in t
    }
    assert len(looks) == 2
    text = text_of(dashboard)
    assert "simclr (SimCLR): step 30 of 30, loss 3.9 to 1, effective rank 5 to 15." in text


def test_a_collapse_and_an_end_are_marked_and_said(root: Path, opened) -> None:
    dashboard = opened(root, "pretraining", run=["moco"])
    text = text_of(dashboard)
    assert "Its features collapsed at step 20." in text
    assert "moco: failed. collapsed; see [path]" in text
    loss = charts(dashboard)["loss"]
    assert next(trace.get("name") for trace in loss["data"]) == "moco"
    assert loss["layout"]["shapes"][0]["x0"] == 20
    assert loss["layout"]["annotations"][0]["text"] == "collapsed"
    assert numbers(loss["data"][1]["x"]) == [STEPS]
    assert loss["data"][1]["marker"]["symbol"] == "x"
    assert "shapes" not in charts(opened(root, "pretraining", run=["simclr"]))["loss"]["layout"]


def test_copies_of_a_study_count_once_and_other_kinds_do_not(root: Path) -> None:
    write_run(root, "study/pretraining/simclr", id="simclr", started=1.8e9)
    record(root / "study", "study", {})
    listed = pretraining.pretraining_runs(runs_below(root))
    assert listed["run"].tolist() == ["simclr", "moco"]
    assert listed["method"].tolist() == ["SimCLR"] * 2
    assert listed["collapsed_at"].dropna().tolist() == [20]
    assert listed["peak_memory_mib"].tolist() == [700, 700]


def test_restored_scans_are_shown_true_to_their_spacing(root: Path, opened) -> None:
    slices = {
        f"{kind}.{n}": np.random.default_rng(n).normal(size=(8, 8)) for kind in ("source", "restored") for n in (0, 1)
    }
    np.savez(root / "simclr" / "examples.npz", **slices)
    frames = pretraining.restored(root, "simclr", runs.read(root / "simclr"))
    assert [kind for kind, _ in frames] == ["source 1", "restored 1", "source 2", "restored 2"]
    assert {frame.plane.left + frame.plane.top for _, frame in frames} == {""}  # a view may be mirrored
    height, width = frames[0][1].pixels.shape[:2]
    assert width == 2 * height
    (body,) = [body for body in html_of(opened(root, "pretraining", run=["simclr"])) if "<img" in body]
    assert body.count("<img") == 4
    (root / "simclr" / "examples.npz").write_bytes(b"PK half")
    assert pretraining.restored(root, "simclr", runs.read(root / "simclr")) == []
    assert "None of these runs restores scans" in text_of(opened(root, "pretraining", run=["simclr"]))


def test_an_import_is_named_as_such(root: Path, opened) -> None:
    part = {"tensors": 2, "parameters": 300, "names": ["stem.weight"]}
    empty = {"adapted": {}, "left_out": {}, "random": part | {"tensors": 0}, "share": 1.0, "notes": []}
    source = {"layout": "torchvision", "licence": "BSD-3-Clause", "sha256": "ab" * 32}
    config = {"receipt": {"loaded": part} | empty, "source": source, "expects": {}}
    record(root / "imagenet", "import", config)
    text = text_of(opened(root, "pretraining", run=["imagenet"]))
    assert "imagenet (torchvision) was imported and not trained here." in text
    assert "BSD-3-Clause" in text
    assert "BSD-3-Clause" not in text_of(opened(root, "pretraining", run=["simclr"]))


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "the log cannot be read"),
        ("a,b\n1,2\n", "no column step"),
        ('step,loss\n1,"2\n', "the log cannot be read"),
        ("step,loss\n1,x\n2,inf\nx,3\n", "has logged a step yet"),
        ("step,loss\n", "has logged a step yet"),
    ],
)
def test_a_broken_log_is_said_and_ends_nothing(root: Path, opened, log: str, message: str) -> None:
    write_run(root, "broken", log=log, started=1.9e9)
    dashboard = opened(root, "pretraining", run=["broken"])
    assert message in text_of(dashboard)
    assert "broken" in dashboard.dataframe[0].value["run"].tolist()
    assert next(iter(charts(opened(root, "pretraining", run=["broken", "simclr"])))) == "loss"


def test_a_run_that_has_just_started_and_a_folder_without_any(root: Path, opened, tmp_path: Path) -> None:
    write_run(root, "new", started=1.9e9, status="running", heartbeat=4e9)
    (root / "new" / "metrics.csv").unlink()
    assert "new (SimCLR) has logged nothing yet." in text_of(opened(root, "pretraining"))
    record(tmp_path / "other" / "study", "study", {})
    assert "There is no pretraining run in this folder yet" in text_of(opened(tmp_path / "other", "pretraining"))


def test_logs_are_read_below_the_folder_alone(root: Path, tmp_path: Path) -> None:
    away = write_run(tmp_path, "away")
    (root / "moco" / "metrics.csv").unlink()
    (root / "moco" / "metrics.csv").symlink_to(away / "metrics.csv")
    for name in ("../away", "moco"):
        with pytest.raises(MedsslError, match="outside of the one under review"):
            pretraining.log(root, name)


def test_hostile_names_and_values_are_shown_as_they_are_written(root: Path, opened) -> None:
    file = root / "moco" / "run.json"
    about = json.loads(file.read_text())
    about["config"]["method"]["class_path"] = HOSTILE.replace(".", "")
    file.write_text(json.dumps(about | {"reason": HOSTILE, "metrics": {"collapsed_at_step": [[1]]}}))
    log = pd.read_csv(root / "moco" / "metrics.csv").rename(columns={"method.momentum": f"method.{HOSTILE}"})
    log.to_csv(root / "moco" / "metrics.csv", index=False)
    dashboard = opened(root, "pretraining")
    assert f"moco: failed. {without_paths(HOSTILE)}" in text_of(dashboard)
    markdown = [e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.warning) for e in kind]
    assert not [text for text in markdown if any(fragment in text for fragment in FRAGMENTS)]
    assert "<img" not in json.dumps(charts(dashboard))
    assert "<img src=x>" not in "".join(html_of(dashboard))
