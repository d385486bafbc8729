"""Label propagation against its formula, and where labels do not reach."""

import numpy as np
import pytest

from medssl.evaluation.propagation import SMOOTHNESS, TEMPERATURE, propagate, propagated_scores
from medssl.evaluation.representation import linear_scores


def rings(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes on arcs of a sphere, which a straight line through few labels does not tell apart, and their numbers."""
    generator = np.random.default_rng(seed)
    numbers, along = np.arange(count) % 2, generator.uniform(0, 2.5, count)
    points = np.stack([np.cos(along), np.sin(along), np.where(numbers, 0.6, -0.6)], axis=1)
    return points + 0.03 * generator.standard_normal(points.shape), numbers


def test_it_solves_the_system_of_zhou_and_others() -> None:
    features, numbers = rings(30)
    labels = np.where(np.arange(30) < 4, numbers, -1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(30)
    weights = np.zeros((30, 30))
    for i, row in enumerate(cosine):
        for j in np.argsort(-row)[:5]:
            weights[i, j] = weights[j, i] = np.exp((row[j] - 1) / TEMPERATURE)
    root = np.sqrt(weights.sum(1))
    known = np.stack([(labels == k) / (labels == k).sum() for k in (0, 1)], axis=1)
    reached = np.linalg.solve(np.eye(30) - SMOOTHNESS * weights / np.outer(root, root), known)
    reached /= reached.sum(0)
    expected = reached / reached.sum(1, keepdims=True)
    assert propagate(features, labels, 2, neighbours=5) == pytest.approx(expected, abs=1e-5)


def test_labels_follow_the_shape_of_the_classes_where_a_probe_of_the_labelled_scans_does_not() -> None:
    features, numbers = rings(400)
    far, known = features[200:], np.array([0, 1, 2, 3])
    found = propagated_scores(features[known], numbers[known], far, 2, features[:200]).argmax(1)
    probed = linear_scores(features[known], numbers[known], far, 2).argmax(1)
    assert (found == numbers[200:]).mean() > 0.98
    assert (probed == numbers[200:]).mean() < (found == numbers[200:]).mean()


def test_no_label_reaches_a_scan_without_a_path_to_one_and_a_class_without_labels_gets_nothing() -> None:
    apart = np.repeat(np.eye(3), 4, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((12, 3))
    labels = np.full(12, -1)
    labels[[0, 4]] = 0, 1
    soft = propagate(apart, labels, 3, neighbours=2)
    assert soft.argmax(1)[:8].tolist() == [0] * 4 + [1] * 4
    assert soft[:8].max(1) == pytest.approx(1)
    assert soft[8:] == pytest.approx(1 / 3)
    scores = propagated_scores(apart[[0, 1]], np.array([2, 2]), apart, 3, apart)
    assert scores.tolist() == [[0, 0, 1]] * 12
