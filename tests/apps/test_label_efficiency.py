"""The page on label efficiency: its sentence, curves and tables are the study's, also while the study is running."""

import base64
import html
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.reporting import captions, tables
from medssl.reporting.findings import findings
from medssl.reporting.style import METRICS, arm_name
from medssl.studies.forecast import forecasts
from tests.apps.reading import html_of, study_of, table_of, text_of, unescaped
from tests.reporting.test_report import record


@pytest.mark.parametrize(("name", "kind"), [("hippo", "dice"), ("two/hippo", "auroc")])
def test_curves_sentence_and_labels_saved_are_the_studys(studied: Path, opened, name: str, kind: str) -> None:
    dashboard = opened(studied, study=name)
    summary = pd.read_parquet(studied / name / "summary.parquet").query("metric == @kind")
    lead, detail = findings(summary, METRICS[kind])
    assert f"<h4>{html.escape(lead)}</h4>" in html_of(dashboard)
    assert detail in [unescaped(c.value) for c in dashboard.caption]
    drawn = {trace["name"]: trace for trace in json.loads(dashboard.get("plotly_chart")[0].proto.spec)["data"]}
    for arm in ("scratch", "simmim"):
        trace_name = f"{arm}, fine-tuned{' (this run)' if arm == 'simmim' else ''}"  # one pretraining run is behind it
        trace, rows = drawn[trace_name], summary[summary["arm"] == arm].sort_values("patients")
        assert numbers(trace["y"]) == pytest.approx(rows["mean"].tolist())
        assert numbers(trace["error_y"]["array"]) == pytest.approx((rows["high"] - rows["mean"]).tolist())
        assert numbers(trace["error_y"]["arrayminus"]) == pytest.approx((rows["mean"] - rows["low"]).tolist())
    gap, saved, ahead, scores, *others = map(table_of, dashboard.table)
    assert "four times the labels" in ahead
    assert others[0]["HD95, mm (1)"].tolist() == ["3.2"] * 6
    study = study_of(studied, name)
    closed = tables.gap_closed(study.label_curves())
    assert (
        gap.map(lambda text: text.rstrip(" ¹²³")).to_numpy().tolist()
        == closed.frame().set_index("budget").to_numpy().tolist()
    )
    expected = tables.labels_saved(study.label_curves(), study.main)[0]
    assert saved.to_numpy().tolist() == expected.frame().set_index("arm").to_numpy().tolist()
    assert "simmim, fine-tuned (this run)" in saved.index[-1]
    assert scores["arm"].str.startswith("simmim, fine-tuned (this run)").sum() == 3
    assert "one pretraining run stands behind simmim" in text_of(dashboard)
    for caption in (captions.SCORES, captions.GAP_CLOSED, captions.OTHER_METRICS):
        assert caption in text_of(dashboard)
    for note in (*expected.notes, *tables.scores(study.main).notes):
        assert note[1:] in text_of(dashboard)
    for row in summary.itertuples():
        mine = (
            scores.loc[row.budget_name]
            if row.arm == "scratch"
            else scores[scores["arm"].str.startswith("simmim, fine-tuned")]
        )
        assert f"{row.mean:.3f}" in mine.to_string()


@pytest.mark.parametrize("columns", [None, ["mean"], ["arm", "mode", "budget_name", "metric", "mean"]])
def test_a_summary_that_cannot_be_read_gives_a_message(studied: Path, opened, columns: list[str] | None) -> None:
    file = studied / "hippo" / "summary.parquet"
    if columns is None:
        file.write_bytes(b"PAR1 cut off")
    else:
        pd.DataFrame({name: ["x"] for name in columns}).to_parquet(file)
    for page in ("label_efficiency", "cases"):
        (message,) = [unescaped(error.value) for error in opened(studied, page, study="hippo").error]
        assert "summary.parquet of study" in message
        assert "run the same medssl study command again" in message


def test_an_arm_with_a_frozen_encoder_is_not_called_fine_tuned() -> None:
    assert arm_name("random-frozen", "finetune") == "random-frozen, decoder trained"
    assert arm_name("random-frozen", "linear") == "random-frozen, linear probe"


def scores_of(dashboard) -> pd.DataFrame:
    (table,) = [table for table in map(table_of, dashboard.table) if "minus scratch" in table]
    return table


def numbers(values) -> list[float]:
    if isinstance(values, dict):  # plotly packs arrays
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return values


def test_a_running_study_is_followed_from_its_finished_cells(studied: Path, opened) -> None:
    study = studied / "hippo"
    config = runs.read(study).config
    (study / "summary.parquet").unlink()
    late = study / "cells" / "simmim-100-2" / "run.json"
    record_text, _ = late.read_text(), late.unlink()
    record(study, "study", config, status="running", heartbeat=4e9)
    cells = study / "cells"
    for folder in cells.iterdir():
        if (folder / "run.json").exists():
            about = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps(about | {"metrics": {"dice": 0.5}}))
    dashboard = opened(studied, study="hippo")
    assert "25 of 26 cells are finished" in text_of(dashboard)
    assert "<h4>So far: " in text_of(dashboard)
    before = scores_of(dashboard)
    late.write_text(record_text.replace('"metrics": {', '"metrics": {"dice": 0.5, '))
    dashboard.run()
    assert "25 of 26" not in text_of(dashboard)
    after = scores_of(dashboard)
    assert not after.equals(before)
    assert after["draws"].tolist()[-1] == "3"


def test_the_table_of_studies_counts_cells_by_state_and_the_forecast_is_the_reports(studied: Path, opened) -> None:
    cell = studied / "hippo" / "cells" / "simmim-1p-1" / "run.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"status": "failed", "reason": "out of memory"}))
    other = studied / "hippo" / "cells" / "simmim-1p-2" / "run.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"id": "another"}))  # a cell is known by its folder
    dashboard = opened(studied, study="two/hippo")
    table = dashboard.dataframe[-1].value.set_index("study")
    cells = pd.read_parquet(studied / "hippo" / "subsets.parquet").groupby("budget_name")["draw"].nunique().sum() * 2
    assert table.loc["hippo", ["finished", "running", "failed", "missing"]].tolist() == [cells - 1, 0, 1, 0]
    assert table.loc["two/hippo", "finished"] == cells
    study = study_of(studied, "two/hippo")
    arms = forecasts(study.cases, study.main, study.task.metric)
    assert tables.forecasts(arms).rows[0]["cells"][1]["text"] in text_of(dashboard)
    drawn = json.loads(dashboard.get("plotly_chart")[1].proto.spec)["data"]
    far = arms[0].forecast.at(arms[0].forecast.farthest)
    assert numbers(drawn[0]["y"])[-1] == pytest.approx(far.high)
    assert numbers(drawn[1]["y"])[-1] == pytest.approx(far.low)
