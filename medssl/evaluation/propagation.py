"""Labels that spread from the few labelled scans to the others over a graph of nearest neighbours in feature space.

    soft = propagate(features, labels, classes=2)        # labels: -1 where there is none

Zhou, Bousquet, Lal, Weston, Schoelkopf, "Learning with local and global consistency", NeurIPS 2004; as pseudo-labels: Iscen,
Tolias, Avrithis, Chum, CVPR 2019, arXiv 1904.04717.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.floating]
TEMPERATURE = 0.1  # a neighbour at a cosine of 0.9 weighs 1/e of one in the same place
SMOOTHNESS = 0.99  # alpha of Zhou et al.: how much neighbours count beside a scan's own label


def propagate(features: Array, labels: NDArray[np.integer], classes: int, neighbours: int = 15) -> Array:
    """Class probabilities (N, classes) of all scans; equal for every class where no label reaches.

    Each class is given the same mass over the cohort, as balanced sampling does.

    Args:
        features: (N, D).
        labels: Class number of each scan (N,), -1 where it has none.
        classes: Number of classes.
        neighbours: Of each scan in the graph.

    >>> features = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> propagate(features, np.array([0, -1, 1, -1]), classes=2, neighbours=1).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    known = np.zeros((len(labels), classes))
    known[labels >= 0, labels[labels >= 0]] = 1
    known /= np.maximum(known.sum(0), 1)
    system = sparse.identity(len(labels)) - SMOOTHNESS * _graph(_unit(features), neighbours)
    reached = np.stack([cg(system, column, rtol=1e-6)[0] for column in known.T], axis=1).clip(min=0)
    reached /= np.maximum(reached.sum(0), 1e-300)
    total = reached.sum(1, keepdims=True)
    return np.where(total > 0, reached / np.maximum(total, 1e-300), 1 / classes)


def propagated_scores(train: Array, labels: NDArray[np.integer], test: Array, classes: int, unlabelled: Array) -> Array:
    """Class probabilities (M, classes) of a logistic regression on labels that were propagated.

    Args:
        train: Features (N, D) of labelled scans.
        labels: Class number of each (N,).
        test: Features (M, D).
        classes: Number of classes; one that no scan shows gets 0.
        unlabelled: Features (L, D) of training scans.
    """
    scale = StandardScaler().fit(unlabelled)
    everything = scale.transform(np.concatenate([train, unlabelled]))
    soft = propagate(everything, np.concatenate([labels, np.full(len(unlabelled), -1)]), classes)
    present = np.unique(labels)
    scores = np.zeros((len(test), classes), np.float32)
    if len(present) == 1:
        scores[:, present] = 1.0
        return scores
    copies, numbers = np.concatenate([everything] * len(present)), np.repeat(present, len(everything))
    model = LogisticRegression(C=0.1, max_iter=2000).fit(copies, numbers, soft[:, present].T.ravel())
    scores[:, present] = model.predict_proba(scale.transform(test))
    return scores


def _unit(features: Array) -> Array:
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-12)


def _graph(unit: Array, neighbours: int) -> sparse.csr_matrix:
    """Symmetric, normalised weights (N, N) of the nearest neighbours by cosine."""
    count = min(neighbours, len(unit) - 1)
    distance, index = NearestNeighbors(n_neighbors=count, metric="cosine").fit(unit).kneighbors()
    weights, rows = np.exp(-distance / TEMPERATURE), np.repeat(np.arange(len(unit)), count)
    one_way = sparse.csr_matrix((weights.ravel(), (rows, index.ravel())), shape=(len(unit), len(unit)))
    both = one_way.maximum(one_way.T)
    scale = sparse.diags(1 / np.sqrt(np.maximum(np.asarray(both.sum(1)).ravel(), 1e-300)))
    return sparse.csr_matrix(scale @ both @ scale)
