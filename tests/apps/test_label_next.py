"""The page Label next: the list of `medssl select` scan by scan, decisions that are kept and undone, labels for `index`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.label_file import label_file
from medssl.datasets.manifest import read_table
from medssl.evaluation.forecast import forecast
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import label_next, session
from medssl.reporting.verdicts import choices, database
from medssl.reporting.verdicts.choices import Choice
from medssl.studies.forecast import ArmForecast
from tests.apps.hostile import FRAGMENTS, HOSTILE, elements_of
from tests.apps.readable import readable_study
from tests.apps.reading import html_of, table_of, text_of, unescaped
from tests.apps.test_reading import press, sign_in


@pytest.fixture
def root(tmp_path: Path, cache: Cache) -> Path:
    """A folder with a list of five patients, as `medssl select` writes it."""
    table = cache.manifest[["patient", "scan"]].copy()
    table.insert(0, "rank", pd.factorize(table["patient"])[0] + 1)
    (tmp_path / "runs" / "lists").mkdir(parents=True)
    (tmp_path / "runs" / "other.csv").write_text("rank,patient\n1,x\n")
    table[table["rank"] <= 5].to_csv(tmp_path / "runs" / "lists" / "to_label.csv", index=False)
    return tmp_path / "runs"


@pytest.fixture
def scans(root: Path) -> label_next.ScanList:
    return label_next.read_list(root, "lists/to_label.csv")


def kept(root: Path, scans: label_next.ScanList, label: str) -> dict[str, Choice]:
    return choices.latest(choices.choices(database.open_file(root / "lists"), scans.id, label))


def choose_class(dashboard: AppTest, value: str) -> AppTest:
    (box,) = [box for box in dashboard.selectbox if box.label.startswith("Class")]
    box.options.extend([] if value in box.options else [value])  # typed
    box.set_value(value)
    return dashboard


def test_scans_are_accepted_skipped_deferred_and_taken_back(
    root: Path, scans: label_next.ScanList, cache: Cache, opened
) -> None:
    dashboard = opened(root, "label_next", [cache.path], label="kind")
    assert "Signed in" not in text_of(dashboard)
    sign_in(dashboard, "Ann")
    order = scans.table["scan"].tolist()
    assert f"0 of {len(order)} scans are decided" in text_of(dashboard)
    assert "".join(html_of(dashboard)).count("<img") == 1
    press(choose_class(dashboard, "cyst"), "Accept")
    assert f"Scan {order[1]}" in text_of(dashboard).replace("*", "")
    press(dashboard, "Skip")
    press(choose_class(dashboard, "a new class"), "Defer")
    assert "3 of" in text_of(dashboard)
    found = kept(root, scans, "kind")
    assert [(found[scan].decision, found[scan].value, found[scan].reader) for scan in order[:3]] == [
        ("accept", "cyst", "Ann"),
        ("skip", None, "Ann"),
        ("defer", None, "Ann"),
    ]
    assert dashboard.dataframe[0].value["decision"].tolist()[:4] == ["accept", "skip", "defer", ""]
    press(dashboard, "Undo")
    assert f"The decision on scan {order[2]} is taken back." in text_of(dashboard)
    assert order[2] not in kept(root, scans, "kind")
    assert "--key scan --patient patient --label" in dashboard.code[0].value


def test_accepted_classes_go_through_index(
    root: Path, scans: label_next.ScanList, cohort: Path, manifest: Path, cache: Cache, tmp_path: Path
) -> None:
    """The file that the page offers, read by `index` under the key of the manifest."""
    order = scans.table["scan"].tolist()
    decided = {
        scan: Choice("Ann", scans.id, "finding", scan, "p", decision, value)
        for scan, decision, value in zip(order, ("accept", "accept", "skip"), ("cyst", None, None), strict=False)
    }
    given = label_next.new_labels(label_next.with_decisions(scans, decided))
    assert given == {order[0]: "cyst"}
    (tmp_path / "labels.csv").write_bytes(label_file(read_table(cache.path / "manifest.parquet"), "finding", given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = {"key": "scan", "patient": "patient", "key_file": manifest / "pseudonym.key"}
        labels = {"labels": tmp_path / "labels.csv", "label": ["finding", "kind"]}
        after = index([cohort], tmp_path / "again", **labels, **key).set_index("scan")
    assert after["label.finding"].dropna().to_dict() == given
    before = cache.manifest.set_index("scan")
    assert after.loc[before.index, "patient"].equals(before["patient"])
    assert after.loc[before.index, "label.kind"].tolist() == before["label.kind"].tolist()


def test_a_class_that_is_a_date_or_a_long_text_is_refused_and_nothing_is_kept(
    root: Path, scans: label_next.ScanList, cache: Cache, opened
) -> None:
    dashboard = sign_in(opened(root, "label_next", [cache.path], label="kind"), "Ann")
    press(choose_class(dashboard, "2024-01-31"), "Accept")
    assert "holds dates" in dashboard.error[0].value
    assert kept(root, scans, "kind") == {}


def test_hostile_classes_and_readers_are_shown_as_they_are_written(
    root: Path, scans: label_next.ScanList, cache: Cache, opened
) -> None:
    order, engine = scans.table["scan"].tolist(), database.open_file(root / "lists")
    choices.save(engine, Choice(HOSTILE, scans.id, "kind", order[0], "p", "accept", HOSTILE))
    dashboard = sign_in(opened(root, "label_next", [cache.path], label="kind", case=order[0]), HOSTILE[:100])
    told = [unescaped(e.value) for e in dashboard.caption]
    assert f"Decided by {HOSTILE}: accept, {HOSTILE}." in told
    markdown = [e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.info) for e in kind]
    assert not [value for value in markdown if any(fragment in value for fragment in FRAGMENTS)]
    assert elements_of(html_of(dashboard)) == []


def test_without_a_list_or_a_cache_the_page_says_what_to_do(root: Path, cache: Cache, opened) -> None:
    dashboard = opened(root, "label_next")
    assert "start the dashboard with --data and the cache" in text_of(dashboard)
    (root / "lists" / "to_label.csv").unlink()
    readable_study(root, cache)
    assert "There is no list of scans to label" in text_of(opened(root, "label_next", [cache.path]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rank,patient,scan\n1,../x,85f3706036c9\n", "a patient that is no pseudonym"),
        ("rank,patient,scan\n1,85f3706036c9,../../etc\n", "a scan that is no pseudonym"),
        ("rank,patient,scan\nfirst,85f3706036c9,85f3706036c9\n", "cannot be read"),
        ("rank,patient,scan\n1,2,3,4\n", "no pseudonym"),
    ],
)
def test_a_broken_list_is_refused_in_words(root: Path, cache: Cache, opened, content: str, message: str) -> None:
    (root / "lists" / "to_label.csv").write_text(content)
    with pytest.raises(MedsslError, match=message):
        label_next.read_list(root, "lists/to_label.csv")
    assert message in text_of(opened(root, "label_next", [cache.path]))


def test_lists_are_found_below_the_folder_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "away.csv").write_text("rank,patient,scan\n")
    (root / "link.csv").symlink_to(tmp_path / "away.csv")
    assert label_next.lists(root) == ["lists/to_label.csv"]
    with pytest.raises(MedsslError, match="outside of the one under review"):
        label_next.read_list(root, "../away.csv")


def test_the_forecast_is_the_studys_label_curve_and_ends_where_it_ends() -> None:
    curve = forecast([2, 4, 8, 16], [np.full((3, 6), 0.9 - 0.4 / n) for n in (2, 4, 8, 16)])
    arms = [ArmForecast("scratch", "finetune", curve, pretraining_runs=0), ArmForecast("x", "knn", None, "too few")]
    (near,) = label_next.what_it_buys(arms, 8).itertuples()
    assert (near.now, near.patients) == (pytest.approx(0.9 - 0.4 / 16), 24)
    assert near.mean == pytest.approx(float(curve.at(24).mean))
    (far,) = label_next.what_it_buys(arms, 1000).itertuples()
    assert far.patients == curve.farthest == 64


def test_the_page_says_what_the_accepted_patients_would_buy(
    root: Path, scans: label_next.ScanList, cache: Cache, opened, monkeypatch
) -> None:
    curve = forecast([2, 4, 8, 16], [np.full((3, 6), 0.9 - 0.4 / n) for n in (2, 4, 8, 16)])
    arms = [ArmForecast("scratch", "finetune", curve), ArmForecast(HOSTILE, "finetune", curve, pretraining_runs=1)]
    monkeypatch.setattr(session, "forecasts", lambda _: arms)
    readable_study(root, cache)
    scan, other = scans.table["scan"].iloc[0], scans.table["scan"].iloc[-1]
    engine = database.open_file(root / "lists")
    for each in (scan, other):
        choices.save(engine, Choice("Ann", scans.id, "kind", each, "p", "accept"))
    dashboard = sign_in(opened(root, "label_next", [cache.path], label="kind", study="segmentation"), "Ann")
    shown = table_of(dashboard.table[0])
    assert shown.index.tolist() == ["scratch, fine-tuned", f"{HOSTILE}, fine-tuned (this run)"]
    assert shown["Dice now"].tolist() == ["0.875"] * 2
    assert shown["patients then"].tolist() == ["18"] * 2
    assert shown["Dice then"].tolist() == [f"{float(curve.at(18).mean):.3f}"] * 2
    assert "With 2 more labelled patients, the accepted." in text_of(dashboard)


def test_a_typed_label_is_offered_beside_those_of_the_cohort(root: Path, cache: Cache, opened) -> None:
    dashboard = sign_in(opened(root, "label_next", [cache.path], label="my finding"), "Ann")
    (box,) = [box for box in dashboard.selectbox if box.label.startswith("Label")]
    assert box.value == "my finding"
    assert "kind" in box.options
    (classes,) = [box for box in dashboard.selectbox if box.label.startswith("Class")]
    assert classes.options == []
    written = pd.read_csv(io.BytesIO(label_file(cache.manifest, "my finding", {})))
    assert written["my finding"].isna().all()
