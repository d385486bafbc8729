"""Labels saved and the area under the label curve cover what they promise, and bracket what they find."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation.intervals import combined_interval, crossed_interval
from medssl.evaluation.label_curves import area_under_label_curve, gap_closed, labels_saved
from tests.evaluation.simulation import coverage, crossed


def label_curve(generator):
    """Budgets, pretrained tables and scratch at 100%: true crossing at 10 patients, true area 0.7."""
    shared = 0.1 * generator.standard_normal(60)
    tables = [
        mean + shared + crossed(generator, draws, 60, (deviation, 0.05, 0.05))
        for mean, draws, deviation in [(0.5, 10, 0.05), (0.7, 10, 0.03), (0.9, 10, 0.01), (0.7, 10, 0.01)]
    ]
    return [1, 10, 100], tables[:3], tables[3]


@pytest.mark.slow
def test_coverage_labels_saved():
    def interval(generator):
        result = labels_saved(*label_curve(generator), points=2)
        return result.low, result.high

    assert 93 <= coverage(10, interval, "labels saved") <= 98


@pytest.mark.long
def test_coverage_area_under_label_curve():
    def interval(generator):
        budgets, tables, _ = label_curve(generator)
        result = area_under_label_curve(budgets, tables)
        return result.low, result.high

    assert 93 <= coverage(0.7, interval, "area under the label curve") <= 98


def test_labels_saved_without_draws():
    assert labels_saved([2, 20, 200], [0.5, 0.7, 0.8], 0.75).budget == pytest.approx(20 * 10**0.5)
    assert np.isinf(labels_saved([2, 20], [0.5, 0.7], 0.9).budget)
    low = labels_saved([2, 20], [0.8, 0.9], 0.75)
    assert low.budget == 2
    assert "smallest budget" in low.note
    with pytest.raises(MedsslError, match="rising"):
        labels_saved([20, 2], [0.8, 0.9], 0.75)


def test_labels_saved_brackets_its_budget_and_opens_where_it_must():
    budgets, tables, scratch = label_curve(np.random.default_rng(0))
    saved = labels_saved(budgets, tables, scratch)
    assert 1 < saved.low < saved.budget < saved.high < 100
    assert saved.share == pytest.approx(1 - saved.budget / 100)
    assert np.isinf(labels_saved(budgets, tables, scratch + 0.2).high)


def test_area_is_that_of_one_table_when_the_curve_is_one_table():
    _, tables, _ = label_curve(np.random.default_rng(0))
    area = area_under_label_curve([1, 10, 100], [tables[0]] * 3)
    alone = crossed_interval(tables[0])
    assert (area.mean, area.low, area.high) == pytest.approx((alone.mean, alone.low, alone.high))


def test_labels_saved_holds_its_own_estimate():
    """A budget significantly above scratch was left out once, so that the interval began beyond the estimate."""
    generator = np.random.default_rng(2)
    tables = [mean + crossed(generator, 10, 40, (0.005, 0.02, 0.005)) for mean in (0.72, 0.69, 0.74)]
    saved = labels_saved([1, 10, 100], tables, 0.7 + crossed(generator, 10, 40, (0.005, 0.02, 0.005)))
    assert saved.low <= saved.budget <= saved.high
    assert saved.budget == saved.low == 1


def test_draws_of_one_number_are_one_draw_at_every_budget():
    """A seed that is good at one budget and at the others makes the area vary more than seeds on their own."""
    generator = np.random.default_rng(0)
    seed, patients = generator.standard_normal((5, 1)), generator.standard_normal((1, 40))
    noise = [0.1 * generator.standard_normal((5, 40)) for _ in range(3)]
    shared = area_under_label_curve([1, 10, 100], [seed + 0.1 * patients + part for part in noise])
    shuffled = [np.roll(seed, k, axis=0) + 0.1 * patients + part for k, part in enumerate(noise)]
    assert shared.se > 1.5 * area_under_label_curve([1, 10, 100], shuffled).se
    fewer = [seed + 0.1 * patients + noise[0], (seed + 0.1 * patients + noise[1])[:3], seed + 0.1 * patients + noise[2]]
    assert area_under_label_curve([1, 10, 100], fewer).se > 0.8 * shared.se


def three_tables(generator: np.random.Generator, gap: float = 0.2) -> list[np.ndarray]:
    """An arm, scratch and scratch with all labels, of which the arm closes half of the gap."""
    shared = 0.1 * generator.standard_normal(60)
    means = [(0.6 + gap / 2, 10, 0.03), (0.6, 10, 0.05), (0.6 + gap, 3, 0.01)]
    return [mean + shared + crossed(generator, draws, 60, (sd, 0.05, 0.05)) for mean, draws, sd in means]


@pytest.mark.long
def test_coverage_gap_closed():
    """The interval holds a share where the contrast there does not differ from zero, so one contrast a replicate is enough.

    Three draws of scratch with all labels make it wider than it need be.
    """

    def interval(generator):
        contrast = combined_interval(three_tables(generator), [1.0, -0.5, -0.5], 0.95, None)
        return contrast.low, contrast.high

    assert 93 <= coverage(0.0, interval, "gap closed") <= 99


def test_the_interval_of_the_gap_closed_ends_where_the_contrast_begins_to_differ():
    tables = three_tables(np.random.default_rng(1))
    closed = gap_closed(*tables)
    mean = [float(table.mean()) for table in tables]
    assert closed.share == pytest.approx((mean[0] - mean[1]) / (mean[2] - mean[1]))
    assert closed.low < closed.share < closed.high
    for g, sign in ((closed.low, -1), (closed.high, 1)):
        inside = combined_interval(tables, [1.0, g - 1.0, -g], 0.95, None)
        outside = combined_interval(tables, [1.0, g + 0.001 * sign - 1.0, -g - 0.001 * sign], 0.95, None)
        assert inside.low <= 0 <= inside.high
        assert outside.low > 0 or outside.high < 0


def test_without_a_gap_none_is_closed():
    closed = gap_closed(*three_tables(np.random.default_rng(1), gap=0.0))
    assert np.isnan(closed.low)
    assert "no gap to close could be shown" in closed.note
    assert np.isnan(gap_closed(0.8, 0.7, 0.7).share)
