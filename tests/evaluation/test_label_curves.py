"""Labels saved and the area under the label curve cover what they promise, and bracket what they find."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation.intervals import crossed_interval
from medssl.evaluation.label_curves import area_under_label_curve, labels_saved
from tests.evaluation.simulation import coverage, crossed


def label_curve(generator):
    """Budgets, pretrained tables and scratch at 100%: true crossing at 10 patients, true area 0.7."""
    shared = 0.1 * generator.standard_normal(60)
    tables = [
        mean + shared + crossed(generator, draws, 60, (deviation, 0.05, 0.05))
        for mean, draws, deviation in [(0.5, 10, 0.05), (0.7, 5, 0.03), (0.9, 3, 0.01), (0.7, 3, 0.01)]
    ]
    return [1, 10, 100], tables[:3], tables[3]


@pytest.mark.long
def test_coverage_labels_saved():
    def interval(generator):
        result = labels_saved(*label_curve(generator), points=2)
        return result.low, result.high

    assert 93 <= coverage(10, interval, "labels saved") <= 97


@pytest.mark.long
def test_coverage_area_under_label_curve():
    def interval(generator):
        budgets, tables, _ = label_curve(generator)
        result = area_under_label_curve(budgets, tables)
        return result.low, result.high

    assert 93 <= coverage(0.7, interval, "area under the label curve") <= 97


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
