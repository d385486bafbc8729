"""The mode `chosen`: propagation with few labelled patients, the better probe within them with many, and what the record says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.preprocessing.cache import Cache
from medssl.studies import probe_choice
from medssl.studies.probe_choice import CANDIDATES, MIN_PATIENTS, choose
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig


def patients(count: int) -> dict[str, list[int]]:
    return {f"p{number:03d}": [number % 2] for number in range(count)}


def test_few_patients_take_propagation_without_a_choice() -> None:
    def score(probe: str, held_out: set[str]) -> float:
        raise AssertionError("nothing is to be scored")

    assert choose(patients(MIN_PATIENTS - 1), 0, score) == ("propagation", {})
    one_class_too_rare = patients(MIN_PATIENTS) | {"p000": [2]}
    assert choose(one_class_too_rare, 0, score) == ("propagation", {})


@pytest.mark.parametrize("better", ["propagation", "linear"])
def test_many_patients_take_what_is_better_on_those_held_out(better: str) -> None:
    held_out_by_probe: dict[str, list[set[str]]] = {"propagation": [], "linear": []}

    def score(probe: str, held_out: set[str]) -> float:
        held_out_by_probe[probe].append(held_out)
        return (0.9 if probe == better else 0.8) + 0.01 * len(held_out_by_probe[probe])

    probe, scores = choose(patients(MIN_PATIENTS), 3, score)
    assert probe == better
    assert scores[better] == pytest.approx(0.92)
    assert min(scores.values()) == pytest.approx(0.82)
    assert held_out_by_probe["propagation"] == held_out_by_probe["linear"]
    assert sorted(name for fold in held_out_by_probe["linear"] for name in fold) == sorted(patients(MIN_PATIENTS))


def test_a_cell_has_the_scores_of_the_probe_that_was_chosen_and_says_which(
    cache: Cache, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_choice, "MIN_PATIENTS", 8)
    design = StudyDesign(modes=["linear", "propagation", "chosen"], draws=1)
    budgets = ["5p", "100%"]
    arms = [str(pretrained)]
    train = FinetuneConfig(steps=1)
    study(
        cache.path, tmp_path, "classification", arms, budgets, "lesion", crop=(16, 16, 16), design=design, train=train
    )
    cells = runs.table(tmp_path / "cells").set_index(["config.budget_name", "config.mode"])
    scores = {
        key: pd.read_parquet(tmp_path / "cells" / row["folder"] / "predictions.parquet")["p.yes"].to_numpy()
        for key, row in cells.iterrows()
    }
    few, many = cells.loc[("5p", "chosen")], cells.loc[("100%", "chosen")]
    assert few["config.chosen_probe"] == "propagation"
    assert np.array_equal(scores["5p", "chosen"], scores["5p", "propagation"])
    tried = {probe: many[f"config.probe_scores.{probe}"] for probe in CANDIDATES}
    assert many["config.chosen_probe"] == max(tried, key=tried.get)  # the first of equals
    assert np.array_equal(scores["100%", "chosen"], scores["100%", many["config.chosen_probe"]])
    assert not np.allclose(scores["100%", "linear"], scores["100%", "propagation"])
    assert many["cost.unlabelled_samples"] == cells.loc[("100%", "propagation"), "cost.unlabelled_samples"] > 0
