"""Scans of different patients whose features agree, as those of the same picture under two names do.

    near_duplicates(vectors, patients, 0.99)            # [(12, 407, 0.998), ...]
    closest_pairs(vectors, patients, 0.99, most=200)    # the 200 closest, and how many there are

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medssl.core.errors import MedsslError

Pair = tuple[int, int, float]


def near_duplicates(
    features: np.ndarray, patients: Sequence[str], threshold: float = 0.99, block: int = 1024
) -> list[Pair]:
    """Return pairs of scans of different patients whose centred features agree: (i, j, cosine), i < j, closest first.

    Args:
        features: (N, D).
        patients: Patient of each scan.
        threshold: Cosine from which a pair counts.
        block: Scans compared at once: memory grows with block x N, never with N x N.

    Raises:
        MedsslError: The threshold is outside (0, 1].

    >>> near_duplicates(np.array([[1.0, 0], [1, 0.01], [-2, 0]]), ["a", "b", "c"])
    [(0, 1, 0.99995)]
    """
    return closest_pairs(features, patients, threshold, block=block)[0]


def closest_pairs(
    features: np.ndarray, patients: Sequence[str], threshold: float, most: int | None = None, block: int = 1024
) -> tuple[list[Pair], int]:
    """Return the closest of the pairs that `near_duplicates` has, and how many there are; arguments as there.

    Args:
        features: (N, D).
        patients: Patient of each scan.
        threshold: Cosine from which a pair counts.
        most: Pairs returned at most; all by default.
        block: Scans compared at once.
    """
    if not 0 < threshold <= 1:
        raise MedsslError(f"the threshold is {threshold}: expected a cosine above 0 and at most 1, for example 0.99")
    kept, count = np.empty((0, 3)), 0
    for found in _pairs(unit(features), np.unique(np.asarray(patients), return_inverse=True)[1], threshold, block):
        count += len(found)
        kept = np.concatenate([kept, found])
        kept = kept[np.argsort(-kept[:, 2], kind="stable")][:most]
    return [(int(i), int(j), round(float(cosine), 6)) for i, j, cosine in kept], count


def unit(features: np.ndarray) -> np.ndarray:
    """Return the features less their mean, each of length 1, as float32; the product of two rows is their cosine."""
    centred = np.asarray(features, np.float32) - np.mean(features, 0, dtype=np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def nearest(features: np.ndarray, row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows nearest to one of them by cosine, itself left out, and their cosines.

    Args:
        features: As from `unit`, (N, D).
        row: The one.
        count: How many.
    """
    cosines = features @ features[row]
    cosines[row] = -np.inf
    rows = np.argsort(-cosines, kind="stable")[: min(count, len(cosines) - 1)]
    return rows, cosines[rows]


def _pairs(units: np.ndarray, patients: np.ndarray, threshold: float, block: int) -> Iterator[np.ndarray]:
    """The pairs of each block of rows with all later ones: (P, 3), row, row, cosine."""
    for start in range(0, len(units), block):
        cosines = units[start : start + block] @ units[start:].T
        i, j = np.nonzero(cosines >= threshold)
        later = (j > i) & (patients[start + i] != patients[start + j])
        i, j = i[later], j[later]
        yield np.stack([start + i, start + j, cosines[i, j]], axis=1)
