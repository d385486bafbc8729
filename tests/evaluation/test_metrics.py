"""Metrics on cases done by hand, and against an independent formula."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation.metrics import calibration_error, classification_metrics, dice


def test_classification_metrics_on_a_case_done_by_hand():
    scores = classification_metrics([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])
    assert scores["auroc"] == 1
    assert scores["auprc"] == 1
    assert scores["balanced_accuracy"] == 0.75
    assert scores["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.1) / 4)  # each alone in its bin


def test_dice_rule_for_empty_masks():
    empty, full = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert np.isnan(dice(empty, empty, [1])["1"])
    assert dice(full, empty, {"lesion": 1}) == {"lesion": 0}
    assert dice(empty, full, {"lesion": 1}) == {"lesion": 0}
    half = full.copy()
    half[2:] = 2
    assert dice(half, full, [1])["1"] == pytest.approx(2 * 8 / (8 + 16))
    with pytest.raises(MedsslError, match="one shape"):
        dice(empty, empty[:2], [1])


@pytest.mark.parametrize("classes", [2, 5])
def test_calibration_error_is_that_of_its_definition(classes: int) -> None:
    """Guo et al. 2017: the gap of accuracy and mean confidence in each of 15 bins, weighted by the cases in it."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(classes), 200)
    labels = generator.integers(0, classes, 200)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = (confidence * 15).astype(int)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert calibration_error(labels, probabilities) == pytest.approx(sum(gaps), abs=1e-6)
