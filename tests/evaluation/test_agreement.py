"""Agreement of readers against the worked examples of the papers, and against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation.agreement import (
    fleiss_kappa,
    intraclass_correlation,
    over_patients,
    share_with_interval,
    weighted_kappa,
)

SHROUT_FLEISS = [  # Shrout and Fleiss 1979, table 2: six cases, four judges
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
FOURTEEN_RATERS = [  # how often each of five grades was given; kappa 0.210, the example of Wikipedia's article on it
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    """ICC(2, 1) = 0.29; its limits are those that psych for R prints: 0.019 and 0.76."""
    found = intraclass_correlation(SHROUT_FLEISS)
    assert found.value == pytest.approx(0.29, abs=0.005)
    assert (found.low, found.high) == pytest.approx((0.019, 0.76), abs=0.005)


def test_fleiss_kappa_is_that_of_the_worked_example() -> None:
    grades = [[grade for grade, count in enumerate(counts) for _ in range(count)] for counts in FOURTEEN_RATERS]
    assert fleiss_kappa(grades) == pytest.approx(0.210, abs=0.0005)


def test_fleiss_kappa_of_two_readers_is_scotts_pi() -> None:
    """Scott 1955: the chance of both is that of the grades pooled. 3 of 4 agree; 0.5 by chance."""
    assert fleiss_kappa([["a", "a"], ["b", "b"], ["a", "b"], ["b", "b"], ["a", "a"], ["b", "a"]]) == pytest.approx(
        (4 / 6 - 0.5) / 0.5
    )


def test_weighted_kappa_counts_the_squared_distance() -> None:
    """One minus the mean squared distance over that of all pairs of the two margins, as Cohen defines it."""
    first, second = [1, 2, 3, 4, 5, 3, 2, 5], [1, 2, 4, 4, 4, 3, 1, 5]
    by_chance = np.mean([(a - b) ** 2 for a in first for b in second])
    expected = 1 - np.mean(np.square(np.subtract(first, second))) / by_chance
    assert weighted_kappa(first, second) == pytest.approx(expected)


def test_wilsons_interval_is_that_of_newcombes_table() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611."""
    found = share_with_interval(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = share_with_interval(0, 20)
    assert (none.low, none.high) == pytest.approx((0, 0.1611), abs=5e-5)
    assert np.isnan(share_with_interval(0, 0).value)


def test_what_cannot_be_told_is_nan_and_not_perfect() -> None:
    assert np.isnan(weighted_kappa([4, 4], [4, 4]))
    assert np.isnan(fleiss_kappa([[4, 4], [4, 4]]))
    assert np.isnan(intraclass_correlation([[4, 4], [4, 4]]).value)
    assert intraclass_correlation([[4, 4], [2, 2]]).value == 1.0


def test_the_interval_over_patients_keeps_the_cases_of_a_patient_together() -> None:
    generator = np.random.default_rng(0)
    grades = generator.integers(1, 6, (40, 2))
    grades[:, 1] = np.clip(grades[:, 0] + generator.integers(-1, 2, 40), 1, 5)
    alone = over_patients(lambda t: weighted_kappa(t[:, 0], t[:, 1]), grades, [str(i) for i in range(40)], 300)
    grouped = over_patients(lambda t: weighted_kappa(t[:, 0], t[:, 1]), grades, [str(i // 4) for i in range(40)], 300)
    copied = over_patients(
        lambda t: weighted_kappa(t[:, 0], t[:, 1]), np.tile(grades, (4, 1)), [str(i % 40) for i in range(160)], 300
    )
    assert alone.low < alone.value < alone.high
    assert grouped.value == alone.value
    assert (copied.low, copied.high) == pytest.approx(
        (alone.low, alone.high), abs=0.03
    )  # four copies are no more patients
    few = over_patients(lambda t: weighted_kappa(t[:, 0], t[:, 1]), grades[:2], ["a", "b"])
    assert np.isnan(few.low)


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(MedsslError, match="two readers or more"):
        fleiss_kappa([[1], [2]])
    with pytest.raises(MedsslError, match="grades of 1 and 2 cases"):
        weighted_kappa([1], [1, 2])
    with pytest.raises(MedsslError, match="between 0 and 3"):
        share_with_interval(4, 3)
