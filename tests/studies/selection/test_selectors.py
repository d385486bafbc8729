"""Every strategy keeps the contract; those that use features cover clusters that chance misses."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.core.registry import SELECTORS
from medssl.studies.selection.base import Pool

SIZES = (60, 20, 10, 6, 4)  # patients of each cluster
CLUSTER = np.repeat(np.arange(5), SIZES)
CLASSES = SELECTORS.classes()
BY_FEATURES = [name for name, cls in CLASSES.items() if cls.pooling is not None]


def pool(labelled=()):
    generator = np.random.default_rng(0)
    features = np.eye(5, 16)[CLUSTER] + 0.04 * generator.standard_normal((len(CLUSTER), 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    strata = np.where(np.arange(len(CLUSTER)) % 4 == 0, "CT a", "CT b")
    return Pool(features, np.isin(np.arange(len(CLUSTER)), labelled), strata)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("labelled", [(), (0, 61, 90)], ids=["no labels", "three labels"])
def test_contract(name, labelled):
    chosen = CLASSES[name]().select(pool(labelled), 12, seed=3)
    assert len(set(chosen)) == 12
    assert not set(chosen) & set(labelled)
    assert chosen == CLASSES[name]().select(pool(labelled), 12, seed=3)


@pytest.mark.parametrize("name", CLASSES)
def test_no_more_patients_than_there_are(name):
    assert len(CLASSES[name]().select(pool((0, 1)), 98)) == 98
    with pytest.raises(MedsslError, match="98 of 100 training patients have no label: expected 1 to 98"):
        CLASSES[name]().select(pool((0, 1)), 99)


@pytest.mark.parametrize("name", BY_FEATURES)
def test_five_labels_cover_five_clusters(name):
    for seed in range(3):
        assert set(CLUSTER[CLASSES[name]().select(pool(), 5, seed)]) == set(range(5))


@pytest.mark.parametrize("name", BY_FEATURES)
def test_clusters_with_a_label_are_left_for_those_without(name):
    assert set(CLUSTER[CLASSES[name]().select(pool((0, 60)), 3)]) == {2, 3, 4}


def test_chance_misses_clusters_and_changes_with_the_seed():
    draws = [CLASSES["Random"]().select(pool(), 5, seed) for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20
    assert any(len(set(CLUSTER[draw])) < 4 for draw in draws)


def test_strata_are_kept_in_proportion():
    for seed in range(10):
        chosen = CLASSES["Stratified"]().select(pool(), 20, seed)
        assert np.sum(pool().strata[chosen] == "CT a") == 5
