"""Features in the plane: principal components as another library has them, clusters that stay together in t-SNE and UMAP."""

import importlib.util

import numpy as np
import pytest
from sklearn.decomposition import PCA

from medssl.core.errors import MedsslError
from medssl.evaluation import projections
from medssl.evaluation.projections import embedded, kinds, principal


def features(count: int = 90, width: int = 20) -> np.ndarray:
    """Three groups, far from each other."""
    generator = np.random.default_rng(0)
    return (generator.normal(size=(count, width)) + 8 * np.eye(width)[np.arange(count) % 3]).astype(np.float32)


def test_the_components_are_those_of_another_library() -> None:
    x = features()
    flat, other = principal(x), PCA(2).fit(x)
    np.testing.assert_allclose(flat.shares[:2], other.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(flat.places), np.abs(other.transform(x)), atol=1e-3)
    np.testing.assert_array_equal(principal(x[::-1]).places.round(3), flat.places[::-1].round(3))
    assert flat.places[np.abs(flat.places).argmax(0), [0, 1]].min() > 0  # the sign is settled


def test_features_of_one_value_are_drawn_on_a_line() -> None:
    places = principal(np.arange(5.0)[:, None]).places
    assert places.shape == (5, 2)
    assert not places[:, 1].any()


def test_what_cannot_be_drawn_is_refused_in_words() -> None:
    with pytest.raises(MedsslError, match="three or more"):
        principal(np.ones((2, 4)))
    with pytest.raises(MedsslError, match="the same features"):
        principal(np.full((9, 4), 1e4, np.float32))
    with pytest.raises(MedsslError, match="expected one of PCA, t-SNE"):
        embedded("MDS", principal(features()))


@pytest.mark.parametrize("kind", kinds())
def test_neighbours_stay_together_and_a_part_of_many_is_drawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(projections.MOST_SCANS, kind, 60)
    flat = principal(features())
    rows, places = embedded(kind, flat)
    again = embedded(kind, flat)
    np.testing.assert_array_equal(places, again[1])
    assert len(rows) == (90 if kind == "PCA" else 60) == len(places)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(rows))
    assert (rows[distances.argmin(1)] % 3 == rows % 3).mean() > 0.95


def test_umap_is_offered_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else installed(name))
    assert kinds() == ["PCA", "t-SNE"]
