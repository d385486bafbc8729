"""Selectors in a study: whom they may choose, that nobody else is trained on, and how they compare with random draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import medssl.studies.selected as module
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.registry import SELECTORS
from medssl.datasets.splits import SplitSpec
from medssl.preprocessing.cache import Cache
from medssl.reporting.html.report import report
from medssl.studies.plan import Plan, make_plan
from medssl.studies.selection.base import Pool, Selector
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.study import study
from tests.studies.test_study import ENCODER

DESIGN = StudyDesign(modes=["linear"], draws=3, selection=["maxherding", "random", "typiclust"], selection_seeds=2)


class First(Selector):
    """The first candidates in the order of the pool."""

    pooling = None

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        return pool.candidates[:count]


def settings_of(cache: Cache, out: Path, run: Path, design: StudyDesign = DESIGN, **other: Any) -> StudySettings:
    settings = {"budgets": ["4p", "100%"], "label": "lesion", "crop": (16, 16, 16)} | other
    return StudySettings(cache.path, out, "classification", ["scratch", str(run)], design=design, **settings)


@pytest.fixture
def plan(cache: Cache, pretrained: Path, tmp_path: Path) -> Plan:
    return make_plan(settings_of(cache, tmp_path / "s", pretrained))


def test_only_training_patients_are_candidates(
    cache: Cache, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No selector sees a scan of a validation or test patient, chooses one, or has a cell that trains on one."""
    asked: list[set[str]] = []

    def features(strategy: Selector, cache: Cache, manifest: pd.DataFrame, *_: Any) -> np.ndarray:
        asked.append(set(manifest["patient"]))
        vectors = np.random.default_rng(0).normal(size=(manifest["patient"].nunique(), 5))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(module, "patient_features", features)
    names = list(SELECTORS.names())
    design = replace(DESIGN, selection=[name for name in names if name != "Random"])
    plan = make_plan(settings_of(cache, tmp_path / "s", pretrained, design))
    roles = SplitSpec().roles(cache.manifest)
    training = set(roles.index[roles == "train"])
    assert asked
    assert all(patients <= training for patients in asked)
    assert set(plan.selected["selector"]) == set(names) - {"Random"}
    assert set(plan.selected["patient"]) <= training
    patient = cache.manifest.set_index("scan")["patient"]
    for cell in plan.cells:
        assert set(patient[[*cell.training, *cell.validation]]) <= training


def test_a_selector_buys_what_a_random_draw_buys_and_every_arm_trains_on_it(plan: Plan, cache: Cache) -> None:
    sizes = plan.selected.groupby(["selector", "budget_name", "draw"]).size()
    smallest = plan.subsets[plan.subsets["budget_name"] == "4p"].groupby("draw").size().min()
    assert list(sizes.index.get_level_values("budget_name").unique()) == ["4p"]  # with all patients there is no choice
    assert (sizes == smallest).all()
    assert len(sizes) == 4
    patient = cache.manifest.set_index("scan")["patient"]
    for (selector, draw), rows in plan.selected.groupby(["selector", "draw"]):
        own = [cell for cell in plan.cells if (cell.selector, cell.draw) == (selector, draw)]
        assert {cell.arm for cell in own} == {"scratch", "simmim"}
        assert all(set(patient[[*c.training, *c.validation]]) == set(rows["patient"]) for c in own)
        assert {code for p in rows["patient"] for code in plan.task.seen[p]} == {0, 1}
        learned_from = {patient[scan] for scan in plan.unlabelled(own[0])}
        assert not learned_from & set(rows["patient"])
    assert len([cell for cell in plan.cells if cell.selector is None]) == 2 * 2 * 3


def test_choices_are_made_once_and_random_cells_stay_the_same(
    plan: Plan, cache: Cache, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "patient_features", lambda *_: pytest.fail("the choice was made again"))
    again = make_plan(settings_of(cache, tmp_path / "s", pretrained))
    assert again.ids() == plan.ids()
    alone = make_plan(settings_of(cache, tmp_path / "s", pretrained, replace(DESIGN, selection=None)))
    assert set(alone.ids()) == {plan.id(cell) for cell in plan.cells if cell.selector is None}
    assert len(alone.selected) == 0
    assert "selection" not in alone.config


def test_a_choice_without_a_class_is_completed_from_the_selectors_list() -> None:
    pool = Pool(None, np.zeros(8, dtype=bool), np.array([""] * 8))
    classes = [(0,)] * 5 + [(1,)] * 3
    order = module._order(First(), pool, 3, 0, classes)
    assert order[:3] == [0, 1, 2]
    named = {str(number): codes for number, codes in enumerate(classes)}
    assert list(module.budget_roles([str(number) for number in order], named, 3)) == ["0", "5", "1"]


def test_the_table_is_that_of_the_cells_and_the_summary_that_of_the_random_draws(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    options = {"label": "lesion", "crop": (16, 16, 16), "budgets": ["4p"], "train": ENCODER["train"]}
    task, arms = "classification", [str(pretrained)]
    summary = study(cache.path, tmp_path / "s", task, arms, design=DESIGN, **options)
    alone = study(cache.path, tmp_path / "a", task, arms, design=replace(DESIGN, selection=None), **options)
    pd.testing.assert_frame_equal(summary.drop(columns="seconds"), alone.drop(columns="seconds"))
    table = pd.read_parquet(tmp_path / "s" / "selection.parquet").set_index("selector")
    assert list(table.index) == ["MaxHerding", "TypiClust"]
    cells = runs.table(tmp_path / "s" / "cells")
    random = cells[cells["config.selector"].isna()]["metrics.auroc"]
    for name, row in table.iterrows():
        own = cells[cells["config.selector"] == name]["metrics.auroc"]
        assert (row["seeds"], row["draws"]) == (2, 3) == (len(own), len(random))
        assert row["mean"] == pytest.approx(own.mean())
        assert row["random_mean"] == pytest.approx(random.mean())
        assert row["difference"] == pytest.approx(own.mean() - random.mean())
        assert row["beaten"] == (own.mean() > random).sum()
    page = report(tmp_path / "s").read_text()
    assert "Which patients to label" in page
    assert "--selection maxherding random typiclust --selection-seeds 2 --steps 3 --selection-run RUN_1" in page
    assert "Which patients to label" not in report(tmp_path / "a").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": ["maxherdin"]}, "there is no selector 'maxherdin'.*did you mean MaxHerding"),
        ({"selection": ["random"]}, "random alone.*expected a selector beside it"),
        ({"selection": None, "selection_run": Path("runs/a")}, "selectors none, which use no features"),
        ({"selection": ["stratified"], "selection_run": Path("runs/a")}, "Stratified, which use no features"),
        ({"selection_seeds": 0}, "selection_seeds 0: expected at least 1"),
    ],
)
def test_messages(cache: Cache, pretrained: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        make_plan(settings_of(cache, tmp_path / "s", pretrained, replace(DESIGN, **changes)))


def test_a_selector_without_a_run_says_what_it_needs(cache: Cache, tmp_path: Path) -> None:
    settings = StudySettings(cache.path, tmp_path / "s", "segmentation", ["scratch"], ["4p"], design=DESIGN)
    with pytest.raises(MedsslError, match="MaxHerding, TypiClust choose on features.*expected --selection-run"):
        make_plan(settings)
