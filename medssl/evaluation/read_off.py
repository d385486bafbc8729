"""How well a property of the scans, such as the scanner, can be read off their features: a shortcut that a model may take.

    found = read_off(vectors, scanners, patients)
    found.value, found.low, found.high, found.chance      # balanced accuracy 0.93 [0.88, 0.97], chance 0.25

A logistic regression on the standardised principal components is fitted in five folds of patients and scored on the fold that it
has not seen. The interval is over patients, whose scans count as one: Wilson's for each group, combined as Zou and Donner do
(Statistics in Medicine 27, 2008). It holds for this regression, and not for new training patients: since the folds share these, it
is somewhat too narrow for few patients. Imports no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.evaluation.agreement import share_with_interval

FOLDS = 5  # and so many patients a group needs
MOST_SCANS = 3_000  # a random part of more is used: seconds in place of minutes
COMPONENTS = 50


@dataclass(frozen=True)
class ReadOff:
    """What was found.

    Attributes:
        value: Balanced accuracy: the mean over groups of the share of scans that were told right.
        low: Lower limit of its 95% interval.
        high: Upper limit.
        groups: The groups that were told apart.
        left_out: Groups with fewer than five patients.
        scans: Scans that were used.
        patients: Their patients.
    """

    value: float
    low: float
    high: float
    groups: tuple[str, ...]
    left_out: tuple[str, ...]
    scans: int
    patients: int

    @property
    def chance(self) -> float:
        """What guessing reaches."""
        return 1 / len(self.groups)

    @property
    def shown(self) -> bool:
        """Whether the interval lies above chance."""
        return self.low > self.chance


def read_off(
    features: np.ndarray, values: Sequence[str | None], patients: Sequence[str], seed: int = 0
) -> ReadOff | None:
    """Return how well the groups can be told apart.

    Args:
        features: (N, D).
        values: The group of each scan; scans without one are left out.
        patients: The patient of each scan.
        seed: Of the folds, and of the random part of many scans.

    Returns:
        The result; None where fewer than two groups have five patients.
    """
    given, names = np.asarray([str(v or "") for v in values]), np.asarray(patients).astype(str)
    counts = {group: len(np.unique(names[given == group])) for group in np.unique(given[given != ""])}
    groups = tuple(str(group) for group, count in counts.items() if count >= FOLDS)
    if len(groups) < 2:
        return None
    rows = np.flatnonzero(np.isin(given, groups))
    if len(rows) > MOST_SCANS:
        rows = _part(rows, given, seed)
    x, y, own = np.asarray(features, np.float32)[rows], np.searchsorted(groups, given[rows]), names[rows]
    right = (_predicted(x, y, own, seed) == y).astype(float)
    value, low, high = _balanced(right, y, own)
    left_out = tuple(str(group) for group in counts if group not in groups)
    return ReadOff(value, low, high, groups, left_out, len(rows), len(np.unique(own)))


def _part(rows: np.ndarray, given: np.ndarray, seed: int) -> np.ndarray:
    """About `MOST_SCANS` random rows, as many of each group as there are of the others where it has them."""
    generator = np.random.default_rng(seed)
    groups = [generator.permutation(rows[given[rows] == group]) for group in np.unique(given[rows])]
    return np.sort(np.concatenate([group[: MOST_SCANS // len(groups)] for group in groups]))


def _predicted(x: np.ndarray, y: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """The group that each scan was taken for by a regression that saw no scan of its patient."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.empty_like(y)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(x, y, patients):
        components = PCA(min(COMPONENTS, x.shape[1], len(train) - 1), random_state=seed)
        regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy hardly moves by then
            predicted[test] = (
                make_pipeline(StandardScaler(), components, regression).fit(x[train], y[train]).predict(x[test])
            )
    return predicted


def _balanced(right: np.ndarray, y: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    """The mean over groups of the mean over their patients, with its interval."""
    shares, lows, highs = [], [], []
    for group in np.unique(y):
        own = y == group
        names, places = np.unique(patients[own], return_inverse=True)
        mean = float((np.bincount(places, right[own]) / np.bincount(places)).mean())
        limits = [share_with_interval(count, len(names)) for count in _whole(mean * len(names))]
        shares.append(mean)
        lows.append(min(limit.low for limit in limits))
        highs.append(max(limit.high for limit in limits))
    value, share, low, high = float(np.mean(shares)), *map(np.asarray, (shares, lows, highs))
    below, above = (float(np.sqrt(np.square(d).sum())) / len(shares) for d in (share - low, high - share))
    return value, max(0.0, value - below), min(1.0, value + above)


def _whole(count: float) -> set[int]:
    """The whole numbers on both sides: Wilson's interval is of a count, and the wider one is taken."""
    return {int(np.floor(round(count, 9))), int(np.ceil(round(count, 9)))}
