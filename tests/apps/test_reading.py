"""The page Reading: blinded, in an order of each reader's own, saved with who and when, undone, and added up."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from medssl.preprocessing.cache import Cache
from medssl.reporting import downloads
from medssl.reporting.dashboard import readers, reading, reading_results
from medssl.reporting.dashboard.reading import Pair
from medssl.reporting.dashboard.server import SignIn
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.verdicts import database, readings
from medssl.reporting.verdicts.readings import Answer, Reading, Side
from tests.apps.hostile import FRAGMENTS, HOSTILE, cells_of, elements_of
from tests.apps.readable import CASES, readable_study
from tests.apps.reading import html_of, study_of, text_of

SCRATCH, SIMMIM = ("scratch", "finetune", "1p"), ("simmim", "finetune", "1p")
PAIR = Pair("1p", 0, SCRATCH, SIMMIM)


@pytest.fixture
def root(tmp_path: Path, cache: Cache) -> Path:
    readable_study(tmp_path / "runs", cache)
    return tmp_path / "runs"


@pytest.fixture
def study(root: Path) -> ReviewedStudy:
    return study_of(root, "segmentation")


def sign_in(dashboard: AppTest, name: str) -> AppTest:
    dashboard.text_input[0].set_value(name)
    return press(dashboard, "Sign in")


def press(dashboard: AppTest, label: str) -> AppTest:
    (button,) = [button for button in dashboard.button if button.label == label]
    button.click().run()
    assert not dashboard.exception
    return dashboard


def answer(dashboard: AppTest, *grades: int) -> AppTest:
    """The grades of the structures, side A first, then B."""
    asked = [group for group in dashboard.button_group if group.label.startswith(("Structure", "Grade"))]
    for group, grade in zip(asked, grades, strict=False):
        group.set_value(grade)
    return dashboard.run()


def saved(study: ReviewedStudy) -> list[Reading]:
    return readings.readings(database.open_file(study.folder), study.run.id)


def test_the_order_and_the_sides_are_a_readers_own_and_stay(study: ReviewedStudy, cache: Cache) -> None:
    scans = cache.manifest["scan"].tolist()
    orders = {name: reading.order(name, study, PAIR, scans) for name in ("Ann", "Bob", "Cem", "Dee")}
    assert all(sorted(order) == sorted(scans[:CASES]) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders["Ann"] == reading.order("Ann", study, Pair("1p", 0, SIMMIM, SCRATCH), scans)
    many = [f"s{i}" for i in range(400)]
    on_a = [reading.sides("Ann", study, PAIR, scan)["A"] == SCRATCH for scan in many]
    assert 160 < sum(on_a) < 240
    turned = Pair("1p", 0, SIMMIM, SCRATCH)
    assert on_a == [reading.sides("Ann", study, turned, scan)["A"] == SCRATCH for scan in many]


def test_a_reader_signs_in_and_sees_no_arm(root: Path, cache: Cache, opened) -> None:
    dashboard = opened(root, "reading", [cache.path], study="segmentation")
    assert "Signed in" not in text_of(dashboard)
    assert not html_of(dashboard)[1:]
    dashboard = sign_in(dashboard, " Ann \t Author ")
    assert "Signed in as Ann Author." in text_of(dashboard)
    assert f"You have read 0 of {CASES} cases." in text_of(dashboard)
    pictures = "".join(html_of(dashboard))
    assert pictures.count("<img") == 3
    for arm in ("scratch", "simmim", "Dice"):
        assert arm not in pictures
    assert "Ann" not in str(dashboard.query_params)
    assert "Signed in" not in text_of(press(dashboard, "Sign out"))


def test_a_reading_is_saved_with_its_runs_survives_and_is_taken_back(
    root: Path, study: ReviewedStudy, cache: Cache, opened
) -> None:
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    order = reading.order("Ann", study, PAIR, cache.manifest["scan"].tolist())
    count = len(cache.structures)
    answer(dashboard, *[4] * count, *[2] * count)
    assert "Not said yet: which is better" in text_of(dashboard)
    press(dashboard, "B is better")
    dashboard.text_area[0].set_value(HOSTILE).run()
    press(dashboard, "Save and go on")
    assert f"You have read 1 of {CASES} cases." in text_of(dashboard)
    assert dashboard.query_params["case"] in (order[1], [order[1]])
    (kept,) = saved(study)
    shown = reading.sides("Ann", study, PAIR, order[0])
    assert (kept.reader, kept.scan, kept.budget, kept.draw) == ("Ann", order[0], "1p", 0)
    assert (kept.a, kept.b) == tuple(Side(f"{shown[side][0]}-cell", *shown[side][:2]) for side in "AB")
    assert Answer("prefer", "B") in kept.answers
    assert Answer("comment", HOSTILE) in kept.answers
    assert [a.value for a in kept.answers if a.question == "grade"] == ["4"] * count + ["2"] * count
    again = sign_in(opened(root, "reading", [cache.path], study="segmentation", case=order[0]), "Ann")
    assert "which you have read" in str(again.get("progress")[0].proto.text)
    assert again.text_area[0].value == HOSTILE
    press(again, "Undo")
    assert f"The reading of scan {order[0]} is taken back." in text_of(again)
    assert f"You have read 0 of {CASES} cases." in text_of(again)
    assert saved(study)[0].undone_at is not None
    press(again, "Undo")
    assert "There is no reading of yours to take back." in text_of(again)


def test_classes_are_corrected_and_go_into_a_file_of_labels(cache: Cache, tmp_path: Path, opened) -> None:
    readable_study(tmp_path / "runs", cache, "classification")
    study = study_of(tmp_path / "runs", "classification")
    dashboard = sign_in(opened(tmp_path / "runs", "reading", [cache.path], study="classification"), "Ann")
    assert "(true)" not in "".join(html_of(dashboard))
    (box,) = [box for box in dashboard.selectbox if box.label == "The right class"]
    box.set_value(box.options[-1]).run()
    press(dashboard, "Save and go on")
    (kept,) = saved(study)
    assert kept.answers == (Answer("class", box.options[-1]),)
    dashboard.radio[0].set_value("results").run()
    assert "--key scan --patient patient --label" in dashboard.code[0].value
    assert reading_results.corrected_classes(readings.as_table([kept])) == ({kept.scan: box.options[-1]}, [])


def test_one_arm_is_graded_without_a_preference(root: Path, study: ReviewedStudy, cache: Cache, opened) -> None:
    (study.folder / "cells" / "simmim-cell" / "predictions.parquet").unlink()
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    assert "".join(html_of(dashboard)).count("<img") == 2
    assert not [button for button in dashboard.button if "better" in button.label]
    press(answer(dashboard, *[5] * len(cache.structures)), "Save and go on")
    assert saved(study)[0].b is None


def test_without_a_cache_or_masks_the_page_says_what_is_missing(root: Path, cache: Cache, opened) -> None:
    dashboard = sign_in(opened(root, "reading", study="segmentation"), "Ann")
    assert "start the dashboard with --data CACHE" in text_of(dashboard)
    for file in root.glob("segmentation/cells/simmim-cell/masks/*"):
        file.unlink()
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    assert "Only the cells of a study's first draw save their masks" in text_of(dashboard)


def test_a_broken_database_and_one_of_another_version_are_plain_messages(
    root: Path, study: ReviewedStudy, cache: Cache, opened
) -> None:
    file = study.folder / database.FILE
    file.write_bytes(b"no database" * 1000)
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    assert "the database of verdicts refused" in dashboard.error[0].value
    file.unlink()
    with database.open_file(study.folder).begin() as connection:
        connection.execute(text("UPDATE medssl_verdicts SET version = 9"))
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    assert "has tables of version 9" in text_of(dashboard)


def test_a_database_that_goes_away_while_a_case_is_read_loses_no_case(
    root: Path, study: ReviewedStudy, cache: Cache, opened, monkeypatch
) -> None:
    dashboard = sign_in(opened(root, "reading", [cache.path], study="segmentation"), "Ann")
    answer(dashboard, *[3] * len(cache.structures))
    case = dashboard.query_params.get("case")
    monkeypatch.setattr(readings, "save", lambda *_: (_ for _ in ()).throw(database.MedsslError("it is away")))
    press(dashboard, "Save and go on")
    assert "it is away" in dashboard.error[0].value
    assert dashboard.query_params.get("case") == case
    assert "You have read 0 of" in text_of(dashboard)


def test_hostile_names_and_comments_are_shown_as_they_are_written(
    root: Path, study: ReviewedStudy, cache: Cache, opened
) -> None:
    engine = database.open_file(study.folder)
    a, b = Side("scratch-cell", HOSTILE, "finetune"), Side("simmim-cell", "simmim", "finetune")
    for reader in (HOSTILE, f"{HOSTILE} 2"):
        for i in range(4):
            answers = (Answer("prefer", "A"), Answer("grade", str(1 + i), "A", 1), Answer("comment", HOSTILE))
            readings.save(engine, Reading(reader, study.run.id, f"s{i}", f"p{i}", HOSTILE, 0, a, b, answers))
    dashboard = opened(root, "reading", [cache.path], study="segmentation", view="results")
    sign_in(dashboard, HOSTILE[:100])
    assert not dashboard.error
    markdown = [e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.info) for e in kind]
    markdown += [value for table in dashboard.table for value in cells_of(table)]
    assert HOSTILE in text_of(dashboard)
    assert not [value for value in markdown if any(fragment in value for fragment in FRAGMENTS)]
    assert elements_of(html_of(dashboard)) == []


def readings_of(grades: dict[str, list[int]], preferred: str = "B") -> pd.DataFrame:
    """Readings of cases s0, s1, ... by readers, whose side A is scratch at even cases."""
    scratch, simmim = Side("r1", "scratch", "finetune"), Side("r2", "simmim", "finetune")
    made = []
    for reader, values in grades.items():
        for i, grade in enumerate(values):
            a, b = (scratch, simmim) if i % 2 == 0 else (simmim, scratch)
            answers = (Answer("grade", str(grade), "A", 1), Answer("prefer", preferred), Answer("fit", "yes", "B"))
            made.append(Reading(reader, "study", f"s{i}", f"p{i // 2}", "1p", 0, a, b, answers))
    return readings.as_table(made)


def test_preferences_are_of_arms_whatever_the_side_and_a_patient_votes_once() -> None:
    """B is simmim at even cases and scratch at odd ones: each patient has one of each, and is not decided."""
    (row,) = reading_results.preferences(readings_of({"Ann": [3] * 8})).itertuples()
    assert (row.arm, row.other_arm, row.patients, row.equal, row.better) == ("simmim", "scratch", 4, 4, 0)
    assert np.isnan(row.share)
    (row,) = reading_results.preferences(readings_of({"Ann": [3]})).itertuples()
    assert (row.better, row.worse, row.share) == (1, 0, 1.0)
    assert row.low == pytest.approx(0.2065, abs=1e-4)  # Wilson's lower limit of 1 of 1
    (row,) = reading_results.preferences(readings_of({"Ann": [3]}, "equal")).itertuples()
    assert (row.equal, row.better, row.worse) == (1, 0, 0)


def test_grades_are_counted_by_arm_and_readers_are_compared_on_the_same_items() -> None:
    table = readings_of({"Ann": [5, 4, 3, 2, 1, 5], "Bob": [5, 4, 3, 3, 1, 4], "Cem": [5, 1]})
    graded = reading_results.grades(table).set_index("arm")
    assert graded.loc["scratch", "grades"] == 3 + 3 + 1
    assert graded.loc["scratch", "mean"] == pytest.approx(np.mean([5, 3, 1, 5, 3, 1, 5]))
    assert graded.loc["simmim", ["fit", "fit_asked"]].tolist() == [7, 7]
    agreed = reading_results.agreement(table).query("question == 'grade'")
    both = agreed[agreed["readers"] == "Ann, Bob"].iloc[0]
    assert both["items"] == 6
    expected = 1 - np.mean([0, 0, 0, 1, 0, 1]) / np.mean(
        [(a - b) ** 2 for a in (5, 4, 3, 2, 1, 5) for b in (5, 4, 3, 3, 1, 4)]
    )
    assert both["value"] == pytest.approx(expected)
    assert agreed[agreed["statistic"] == "ICC(2, 1)"].iloc[0]["items"] == 2  # what all three graded


def test_replaced_and_undone_readings_do_not_count() -> None:
    scratch, simmim = Side("r1", "scratch", "finetune"), Side("r2", "simmim", "finetune")
    first = Reading("Ann", "study", "s", "p", "1p", 0, scratch, simmim, (Answer("prefer", "A"), Answer("class", "a")))
    second = Reading("Ann", "study", "s", "p", "1p", 0, scratch, simmim, (Answer("prefer", "B"), Answer("class", "b")))
    table = readings.as_table([first, second])
    assert reading_results.preferences(table)[["better", "worse"]].to_numpy().tolist() == [[1, 0]]
    assert reading_results.corrected_classes(table) == ({"s": "b"}, [])


def test_readers_who_are_divided_on_a_class_change_nothing() -> None:
    scratch = Side("r1", "scratch", "finetune")
    said = {"s1": ["cyst", "tumour"], "s2": ["cyst", "cyst", "tumour"]}
    made = [
        Reading(f"reader {i}", "study", scan, "p", "1p", 0, scratch, None, (Answer("class", value),))
        for scan, values in said.items()
        for i, value in enumerate(values)
    ]
    assert reading_results.corrected_classes(readings.as_table(made)) == ({"s2": "cyst"}, ["s1"])


def test_names_lose_what_cannot_be_seen() -> None:
    assert readers.clean("  Ann\t\u200bAuthor\n") == "Ann Author"
    assert readers.clean("x" * 300) == "x" * readers.MAX_CHARACTERS
    assert readers.of_header(SignIn("X-User", admins=("ann",), typed=False), "ann").admin
    assert not readers.of_header(SignIn("X-User", admins=("ann",), typed=False), "Ann").admin
    assert readers.of_header(SignIn("X-User", typed=False), "  ") is None


def test_a_csv_starts_no_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[bytes] = []
    monkeypatch.setattr(downloads.st, "download_button", lambda label, content, *_, **__: offered.append(content))
    frame = pd.DataFrame({"value": ["=1+1", "fine", "@x"], "n": [-1, 2, 3]})
    downloads.table(frame, "All verdicts, CSV", "verdicts.csv", texts=["value"])
    (written,) = (content.decode() for content in offered)
    assert re.findall(r"^'[=@]", written, re.M) == ["'=", "'@"]
    assert ",-1" in written
