"""Selectors and random draws of an arm with several pretraining runs are compared run by run."""

import numpy as np
import pandas as pd
import pytest

from medssl.evaluation.case_metrics import Dice, from_run
from medssl.evaluation.intervals import crossed_interval
from medssl.studies.selection_table import Tables, _difference, _of_shared_runs


def tables(scores: np.ndarray, runs: str) -> Tables:
    """Case tables of scores (draws, patients), each of the run that a letter names."""
    patients = [f"p{number}" for number in range(scores.shape[1])]
    return [
        from_run(pd.DataFrame({"scan": patients, "patient": patients, "dice.1": row}), run)
        for row, run in zip(scores, runs)
    ]


def test_the_differences_of_the_runs_are_the_sample() -> None:
    generator = np.random.default_rng(0)
    effect = {run: generator.normal(0.6, 0.1) for run in "abc"}  # of a run, the same on both sides

    def side(runs: str) -> np.ndarray:
        return np.array([[effect[run]] for run in runs]) + generator.normal(0, 0.01, (len(runs), 20))

    first, second = side("cab"), side("abcabcabca")
    chosen, random = _of_shared_runs(tables(first, "cab"), tables(second, "abcabcabca"))
    values, freedom = Dice().by_patient([*chosen, *random])
    found = _difference(values, chosen, random, freedom)
    means = [second[[place for place, run in enumerate("abcabcabca") if run == name]].mean(axis=0) for name in "abc"]
    expected = crossed_interval(first[[1, 2, 0]] - np.stack(means))
    assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert found.high - found.low < 0.05  # what the runs differ by cancels


def test_fewer_seeds_than_runs_are_compared_with_the_draws_of_their_runs() -> None:
    scores = np.random.default_rng(0).normal(0.6, 0.1, (6, 8))
    chosen, random = _of_shared_runs(tables(scores[:1], "a"), tables(scores, "abcabc"))
    assert [len(chosen), len(random)] == [1, 2]
    chosen, random = _of_shared_runs(*([table.drop(columns="pretraining_run")] for table in tables(scores[:2], "ab")))
    assert [len(chosen), len(random)] == [1, 1]
