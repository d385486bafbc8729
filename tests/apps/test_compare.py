"""The page that compares arms: its numbers are the study's, cases come as pairs, and groups are tested on their own cases."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import compare
from medssl.reporting.style import difference, p_value
from tests.apps.hostile import FRAGMENTS, HOSTILE, elements_of
from tests.apps.reading import html_of, study_of, table_of, text_of, use_scans
from tests.apps.test_label_efficiency import numbers

SIMMIM = ("simmim", "finetune")


@pytest.mark.parametrize(("name", "metric"), [("hippo", "dice"), ("two/hippo", "auroc")])
def test_against_scratch_the_numbers_are_those_of_the_studys_table(
    studied: Path, opened, name: str, metric: str
) -> None:
    dashboard = opened(studied, "compare", study=name, budget="10%")
    summary = pd.read_parquet(studied / name / "summary.parquet")
    (row,) = summary.query("metric == @metric and budget_name == '10%' and arm == 'simmim'").itertuples()
    shown = table_of(dashboard.table[0]).iloc[0].tolist()
    assert shown == [
        difference(row.difference, row.difference_low, row.difference_high),
        p_value(row.p),
        p_value(row.p_holm),
    ]
    forest, _, scatter, _ = (json.loads(chart.proto.spec)["data"] for chart in dashboard.get("plotly_chart"))
    assert forest[0]["x"] == [pytest.approx(row.difference)]
    assert forest[0]["error_x"]["array"] == [pytest.approx(row.difference_high - row.difference)]
    assert len(numbers(scatter[1]["x"])) == (28 if metric == "dice" else 40)
    assert "all comparisons of the study's table" in text_of(dashboard)


def test_another_reference_turns_the_same_test_round(studied: Path) -> None:
    study = study_of(studied, "hippo")
    (forth,) = compare.comparisons(study, compare.SCRATCH, "1p").itertuples()
    (back,) = compare.comparisons(study, SIMMIM, "1p").itertuples()
    assert (back.arm, back.difference, back.low, back.high) == (
        "scratch",
        pytest.approx(-forth.difference),
        pytest.approx(-forth.high),
        pytest.approx(-forth.low),
    )
    assert back.p == pytest.approx(forth.p) == back.p_holm  # alone in its table


def test_cases_come_as_pairs_the_largest_difference_first(studied: Path) -> None:
    study = study_of(studied, "hippo")
    paired = compare.paired_cases(study, (*compare.SCRATCH, "1p"), (*SIMMIM, "1p"))
    assert paired["difference"].abs().is_monotonic_decreasing
    scan = paired["scan"].iloc[0]
    for column, arm in (("a", "scratch"), ("b", "simmim")):
        files = [studied / f"hippo/cells/{arm}-1p-{draw}/predictions.parquet" for draw in range(5)]
        scores = [pd.read_parquet(file).set_index("scan").loc[scan, ["dice.1", "dice.2"]].mean() for file in files]
        assert paired[column].iloc[0] == pytest.approx(np.mean(scores))


def test_a_group_of_all_cases_has_the_studys_difference_and_a_small_one_none(studied: Path) -> None:
    study = study_of(studied, "hippo")
    arms = ((*compare.SCRATCH, "1p"), (*SIMMIM, "1p"))
    scans = compare.paired_cases(study, *arms)["scan"].sort_values().tolist()
    (row,) = compare.comparisons(study, compare.SCRATCH, "1p").itertuples()
    whole = compare.differences_by_group(study, *arms, pd.Series("all", index=scans)).iloc[0]
    assert whole[["difference", "low", "high"]].tolist() == pytest.approx([row.difference, row.low, row.high])
    groups = pd.Series(["small"] + ["a"] * 14 + ["b"] * 13, index=scans)
    table = compare.differences_by_group(study, *arms, groups).set_index("group")
    assert table["scans"].to_dict() == {"a": 14, "b": 13, "small": 1}
    assert np.isnan(table.loc["small", "difference"])
    assert table.loc[["a", "b"], "difference"].notna().all()


def test_columns_that_divide_the_scans_are_groups() -> None:
    manifest = pd.DataFrame(
        {
            "scan": [f"s{n}" for n in range(40)],
            "patient": [f"p{n}" for n in range(40)],
            "manufacturer": ["GE", "Philips"] * 20,
            "modality": "CT",
            "spacing_mm": [[1.0, 1.0, 2.0]] * 40,
            "label.age": np.arange(40),
        }
    )
    groups = compare.groups_of(manifest, [f"s{n}" for n in range(20)])
    assert [*groups] == ["manufacturer", "age"]
    assert groups["manufacturer"].value_counts().to_dict() == {"GE": 10, "Philips": 10}
    assert groups["age"].value_counts().tolist() == [5, 5, 5, 5]


def test_hostile_columns_and_groups_of_the_cohort_are_shown_as_they_are_written(
    studied: Path, cache: Cache, opened, tmp_path: Path
) -> None:
    """The groups come from the manifest, whose labels and manufacturers others have named."""
    folder = tmp_path / "cache"
    shutil.copytree(cache.path, folder)
    scans = use_scans(studied / "hippo", cache)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    rows = manifest["scan"].isin(scans[:2])
    manifest[f"label.{HOSTILE}"] = np.where(rows, HOSTILE, f"{HOSTILE} 2")
    manifest["manufacturer"] = np.where(rows, f"# {HOSTILE}", "GE")
    manifest.to_parquet(folder / "manifest.parquet")
    for by in (HOSTILE, "manufacturer"):
        dashboard = opened(studied, "compare", [folder], study="hippo", budget="1p", by=by)
        (box,) = [box for box in dashboard.selectbox if box.label == "Column"]
        assert box.value == by
        shown = [e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.info) for e in kind]
        assert not [text for text in shown if any(fragment in text for fragment in FRAGMENTS)]
        assert elements_of(html_of(dashboard)) == []
        charts = [chart.proto.spec for chart in dashboard.get("plotly_chart")]
        groups = [line["y"][0] for line in json.loads(charts[-1])["data"]]
        assert any(f"{html.escape(HOSTILE)} (2 patients)" in group for group in groups)
        assert not [chart for chart in charts if "<script" in chart or "<img" in chart]


def test_costs_are_those_of_the_cells_with_the_pretraining_once(studied: Path, opened) -> None:
    study = study_of(studied, "hippo")
    rows = compare.costs(study, "10%").set_index("arm")
    assert rows.loc["scratch", ["training_s", "in_all_s"]].tolist() == [22.0, 22.0]  # draws of 20 to 24 s
    assert rows.loc["simmim", ["training_s", "in_all_s"]].tolist() == [22.0, 112.0]  # a pretraining of 90 s
    assert "The highest mean is that of simmim, fine-tuned (this run)" in text_of(
        opened(studied, "compare", study="hippo")
    )


def test_the_settings_in_which_two_cells_differ_are_shown(studied: Path) -> None:
    study = study_of(studied, "hippo")
    table, draw = compare.settings_apart(studied, study, (*compare.SCRATCH, "1p"), (*SIMMIM, "1p"))
    assert draw == 0
    assert table.loc["config.arm", ["A", "B"]].tolist() == ["scratch", "simmim"]
    assert table.loc["parent", "B"] == "pre123"
    assert "config.patients" not in table.index
