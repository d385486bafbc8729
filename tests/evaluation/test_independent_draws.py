"""The difference of two means with a shared patient effect: its value, its standard error, and how often it covers."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation.independent_draws import difference_of_means


def scores(generator: np.random.Generator, patient: np.ndarray, draws: int, spread: float) -> np.ndarray:
    """Draw, patient and rest, as in a study."""
    draw = generator.normal(0, spread, (draws, 1))
    own = generator.normal(0, 0.05, len(patient))  # what the patient is better or worse by on this side alone
    return 0.7 + draw + patient + own + generator.normal(0, 0.05, (draws, len(patient)))


def test_what_both_sides_share_cancels() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 0.02, (3, 40)), generator.normal(0, 0.02, (10, 40))
    plain = difference_of_means(first, second)
    hard = generator.normal(0, 10, 40)
    shifted = difference_of_means(first + hard, second + hard)
    assert plain.mean == pytest.approx(first.mean() - second.mean())
    assert (shifted.mean, shifted.se, shifted.p) == pytest.approx((plain.mean, plain.se, plain.p))


def test_the_variance_is_that_of_patients_and_of_the_draws_of_each_side() -> None:
    """Without rest the three parts can be computed by hand."""
    generator = np.random.default_rng(1)
    effects = [generator.normal(0, 0.1, 30) for _ in range(2)]
    draws = [generator.normal(0, 0.03, (3, 1)), generator.normal(0, 0.04, (10, 1))]
    found = difference_of_means(draws[0] + effects[0], draws[1] + effects[1])
    expected = np.var(effects[0] - effects[1], ddof=1) / 30 + sum(np.var(d, ddof=1) / len(d) for d in draws)
    assert found.se == pytest.approx(np.sqrt(expected), rel=1e-6)


def test_one_seed_has_no_p_value_and_says_what_is_not_in_it() -> None:
    generator = np.random.default_rng(2)
    one = difference_of_means(generator.random((1, 20)), generator.random((10, 20)), nouns=("seed", "random draw"))
    assert np.isnan(one.p)
    assert one.note == "one seed: how another would do is not in the interval"
    assert np.isnan(difference_of_means(np.ones((3, 20)), np.ones((4, 20))).low)
    assert difference_of_means(np.ones((3, 1)), np.ones((4, 1))).note == "1 test patient(s) count: no interval"


def test_the_interval_covers_and_false_alarms_are_rare() -> None:
    """A selector that is as good as chance, which differs by 0.03 between draws: 95% within 2%, and no more alarms."""
    generator = np.random.default_rng(3)
    found = []
    for _ in range(600):
        patient = generator.normal(0, 0.15, 40)
        found.append(difference_of_means(scores(generator, patient, 3, 0.03), scores(generator, patient, 10, 0.03)))
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.93 <= covered <= 0.99
    assert np.mean([each.p < 0.05 for each in found]) == pytest.approx(1 - covered)
