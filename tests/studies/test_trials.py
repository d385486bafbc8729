"""Trials: the same number in every arm, inside the cell's labels alone, and the recipe where patients are few."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl.cli.terminal import study_table
from medssl.core import runs
from medssl.core.errors import Diverged, MedsslError
from medssl.preprocessing.cache import Cache
from medssl.reporting.html.report import report
from medssl.studies.plan import make_plan
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.study import study
from medssl.studies.trials import (
    FOLDS,
    MIN_PATIENTS,
    MOST,
    Trial,
    best,
    folds_of,
    samples_in_trials,
    settings_to_try,
    try_settings,
    why_no_trials,
)
from medssl.training.config import FinetuneConfig
from tests.conftest import small_encoder

cells_module = importlib.import_module("medssl.studies.cell")
study_module = importlib.import_module("medssl.studies.study")
RECIPE = FinetuneConfig(steps=100)
TWO_CLASSES = {f"p{number}": (number % 2,) for number in range(12)}


@pytest.mark.parametrize("count", [2, 5, MOST])
def test_every_arm_tries_as_many_different_settings_and_trains_as_long(count: int) -> None:
    starts = [(RECIPE, True), (RECIPE.for_random_start(), False), (FinetuneConfig(steps=100, encoder_share=0), True)]
    tried = [settings_to_try(recipe, pretrained, count, seed=3) for recipe, pretrained in starts]
    assert [each[0] for each in tried] == [recipe for recipe, _ in starts]
    for settings in tried:
        assert len({(each.lr, each.encoder_share, each.steps) for each in settings}) == count
        assert [each.steps for each in settings] == [each.steps for each in tried[0]]
    assert len({samples_in_trials(settings) for settings in tried}) == 1
    assert {each.encoder_share for each in tried[1]} == {1.0}
    assert {each.encoder_share for each in tried[2]} == {0}
    assert tried[0] == settings_to_try(RECIPE, True, count, seed=3)
    assert samples_in_trials(tried[0], 2) == 2 * FOLDS * sum(each.steps * each.batch_size for each in tried[0])


def test_folds_share_no_patient_and_each_shows_every_class() -> None:
    folds = folds_of(TWO_CLASSES, 0)
    assert len(folds) == FOLDS
    assert sorted(patient for fold in folds for patient in fold) == sorted(TWO_CLASSES)
    assert all({code for patient in fold for code in TWO_CLASSES[patient]} == {0, 1} for fold in folds)
    assert folds == folds_of(dict(reversed(TWO_CLASSES.items())), 0)
    assert folds != folds_of(TWO_CLASSES, 1)


def test_when_there_are_no_trials() -> None:
    assert why_no_trials(TWO_CLASSES, 0) == ""
    few = dict(list(TWO_CLASSES.items())[: MIN_PATIENTS - 1])
    assert why_no_trials(few, 0) == "9 labelled patients, and trials need 10"
    rare = {patient: (0,) for patient in TWO_CLASSES} | {"p0": (1,), "p1": (1,)}
    assert why_no_trials(rare, 0) == "a fold of 3 would have no patient of some class"


def test_the_best_mean_over_folds_wins_and_what_diverged_does_not() -> None:
    settings, folds = settings_to_try(RECIPE, True, 3, 0), folds_of(TWO_CLASSES, 0)
    scores = {settings[0].lr: [0.5, 0.5, 0.5], settings[1].lr: [0.9, 0.6, 0.3], settings[2].lr: [9.0, 9.0, None]}
    assert len(scores) == 3

    def score(each: FinetuneConfig, held_out: set[str]) -> float:
        value = scores[each.lr][folds.index(held_out)]
        if value is None:
            raise Diverged("the loss is nan")
        return value

    tried = try_settings(settings, folds, score)
    assert [trial.score for trial in tried[:2]] == pytest.approx([0.5, 0.6])
    assert np.isnan(tried[2].score)
    assert best(tried) is tried[1]
    assert best([Trial(each, float("nan")) for each in settings]).settings == RECIPE


def test_a_cell_tries_on_its_own_patients_alone_and_then_trains_on_all_of_them(
    cache: Cache, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With mocked trainings: who is trained on and scored, what is recorded, and what the tables say."""
    trained: list[tuple[Any, ...]] = []
    asked: list[list[str]] = []

    def train(plan: Any, cell: Any) -> Any:
        trained.append((cell.arm, cell.budget_name, cell.settings, set(cell.training), cell.validation))
        model = plan.arms[cell.arm].model(plan.task, plan.new_encoder(cell.arm), 0)
        return model, type("Trained", (), {"earlier": model.state_dict()})

    monkeypatch.setattr(cells_module, "_trained", train)
    monkeypatch.setattr(cells_module, "_change_in_last_third", lambda *_: 0.0)
    task_class = type(make_plan(settings_of(cache, pretrained, tmp_path / "p")).task)
    monkeypatch.setattr(
        task_class,
        "validation_score",
        lambda self, cache, scans, predictions: asked.append(list(scans)) or -len(trained),
    )
    settings = settings_of(cache, pretrained, tmp_path / "s")
    table = study(
        cache.path,
        tmp_path / "s",
        "segmentation",
        settings.arms,
        settings.budgets,
        crop=settings.crop,
        train=settings.train,
        design=settings.design,
    )
    plan = make_plan(settings)
    with_trials = [cell for cell in plan.cells if cell.trials]
    assert {cell.budget_name for cell in with_trials} == {"100%"}
    assert all(not cell.validation for cell in with_trials)
    for cell in with_trials:
        own = [each for each in trained if each[:2] == (cell.arm, "100%")]
        assert len(own) == 2 * FOLDS + 1
        assert all(scans < set(cell.training) for *_, scans, _ in own[:-1])
        assert own[-1][3] == set(cell.training)
        record = runs.read(plan.folder(cell))
        assert [trial["lr"] for trial in record.config["tried"]] == [each.lr for each in plan.to_try(cell)]
        assert record.config["chosen"]["lr"] == plan.to_try(cell)[0].lr  # the first, whose scores are the highest
        assert record.cost["trial_samples"] == plan.samples(cell)[1]
        assert record.cost["labelled_samples"] == sum(plan.samples(cell))
    held_out = {scan for scans in asked for scan in scans}
    assert held_out == set(with_trials[0].training)
    few = [cell for cell in plan.cells if cell.budget_name == "2p"]
    assert {cell.no_trials for cell in few} == {"2 labelled patients, and trials need 10"}
    assert all(runs.read(plan.folder(cell)).config["no_trials"] for cell in few)
    main = table[table["metric"] == "dice"].set_index(["budget_name", "arm"])
    assert main["trials"].to_dict() == {key: 2.0 if key[0] == "100%" else 0.0 for key in main.index}
    assert main["trial_samples"].loc["100%"].nunique() == 1  # the same compute in every arm
    assert "the recipe fixed beforehand in 1 of 1 draws: 2 labelled patients" in main.loc[("2p", "scratch"), "note"]
    assert "trials" in [column.header for column in study_table(table).columns]
    printed = " ".join(capsys.readouterr().err.split())
    assert "trials: 2 of 4 trained cells try 2 settings in 3 folds each; labelled samples: " in printed
    assert "the other cells take the fixed recipe (2 labelled patients, and trials need 10)" in printed
    page = report(tmp_path / "s").read_text()
    assert "Trials of settings" in page
    assert "the recipe (1)" in page


def settings_of(cache: Cache, run: Path, out: Path, **other: Any) -> StudySettings:
    design = StudyDesign(**{"draws": 1, "trials": 2} | other)
    train = FinetuneConfig(steps=3, batch_size=2)
    arms, budgets = ["scratch", str(run)], ["2p", "100%"]
    return StudySettings(cache.path, out, "segmentation", arms, budgets, crop=(16, 16, 16), train=train, design=design)


def test_cells_without_trials_keep_their_ids(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    none = make_plan(settings_of(cache, pretrained, tmp_path / "s", trials=0))
    assert all(cell.parts().keys().isdisjoint({"trials", "no_trials", "selector"}) for cell in none.cells)
    some = make_plan(settings_of(cache, pretrained, tmp_path / "s"))
    assert not set(none.ids()) & set(some.ids())
    assert study_module._trials_line(none) == ""


@pytest.mark.slow
def test_trials_that_are_trained(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    settings = settings_of(cache, pretrained, tmp_path / "s")
    study(
        cache.path,
        tmp_path / "s",
        "segmentation",
        settings.arms[:1],
        ["100%"],
        crop=settings.crop,
        train=settings.train,
        design=settings.design,
        encoder=small_encoder(),
    )
    record = runs.read(next((tmp_path / "s" / "cells").iterdir()))
    assert len(record.config["tried"]) == 2
    assert all(0 <= trial["score"] <= 1 for trial in record.config["tried"])
    assert record.config["chosen"]["steps"] in {trial["steps"] for trial in record.config["tried"]}


@pytest.mark.parametrize("count", [1, MOST + 1, -1])
def test_a_count_that_is_no_choice_is_refused(count: int) -> None:
    with pytest.raises(MedsslError, match=f"trials is {count}: expected 0 for the fixed recipe, or 2 to {MOST}"):
        StudyDesign(trials=count)
