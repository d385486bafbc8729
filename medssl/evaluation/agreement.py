"""How far readers agree, and how often one of two is preferred.

    weighted_kappa([5, 4, 4, 2], [5, 4, 3, 2])                 # two readers, grades in an order
    fleiss_kappa([[5, 5, 4], [2, 2, 2], [4, 3, 4]])            # cases x readers, grades as names
    intraclass_correlation([[9, 2, 5], [6, 1, 3], [8, 4, 6]])  # cases x readers, grades as numbers
    share_with_interval(17, 20)                                # 0.85, with Wilson's interval

Cohen, Psychological Bulletin 1968 (weighted kappa, computed by scikit-learn); Fleiss, Psychological Bulletin 1971; Shrout and
Fleiss, Psychological Bulletin 1979, and McGraw and Wong, Psychological Methods 1996 (intraclass correlation); Wilson, JASA
1927 (interval of a share, computed by SciPy). Where nothing varies, agreement beyond chance is not defined: the value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medssl.core.errors import MedsslError

Array = NDArray[Any]
REPLICATES = 1000  # of the bootstrap over patients


@dataclass(frozen=True)
class Estimate:
    """A number with the limits of its interval; NaN where there is none.

    Attributes:
        value: The number.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
    """

    value: float
    low: float
    high: float


def weighted_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's kappa of two readers with quadratic weights, for grades that have an order.

    Args:
        first: The grades of one reader (cases,).
        second: The grades of the other reader of the same cases (cases,).

    Returns:
        1 where they are equal, 0 where they agree as often as by chance; NaN where both gave one and the same grade to all.

    >>> weighted_kappa([1, 2, 3], [1, 2, 3])
    1.0
    """
    from sklearn.metrics import cohen_kappa_score

    a, b = np.asarray(first), np.asarray(second)
    if len(a) != len(b) or len(a) == 0:
        raise MedsslError(
            f"grades of {len(a)} and {len(b)} cases: expected the same cases of both readers, one or more"
        )
    if len(np.unique(np.concatenate([a, b]))) < 2:
        return float("nan")
    return float(cohen_kappa_score(a, b, weights="quadratic"))


def fleiss_kappa(grades: ArrayLike) -> float:
    """Fleiss' kappa of several readers, who take each grade for a name: near misses count as much as far ones.

    Args:
        grades: The grade of each case by each reader (cases, readers), two readers or more.

    Returns:
        1 where they are equal, 0 where they agree as often as by chance; NaN where all grades are the same.
    """
    table = _table(grades)
    counts = np.stack([(table == grade).sum(axis=1) for grade in np.unique(table)], axis=1)  # (cases, grades)
    readers = table.shape[1]
    agreed = ((counts**2).sum(axis=1) - readers) / (readers * (readers - 1))
    by_chance = float(((counts.sum(axis=0) / table.size) ** 2).sum())
    return float("nan") if by_chance == 1 else float((agreed.mean() - by_chance) / (1 - by_chance))


def intraclass_correlation(grades: ArrayLike, level: float = 0.95) -> Estimate:
    """ICC(2, 1): the absolute agreement of single grades, cases and readers being samples of many.

    Args:
        grades: The grade of each case by each reader (cases, readers), two of each or more.
        level: Level of the interval, that of McGraw and Wong.

    Returns:
        The correlation and its interval; NaN where the cases do not differ at all.
    """
    from scipy.stats import f

    table = _table(grades).astype(float)
    n, k = table.shape
    if n < 2:
        raise MedsslError(f"grades of {n} case: expected two cases or more")
    mean = table.mean()
    of_cases = k * ((table.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    of_readers = n * ((table.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + mean
    error = (left**2).sum() / ((n - 1) * (k - 1))
    total = of_cases + (k - 1) * error + k * (of_readers - error) / n
    if total <= 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = (of_cases - error) / total
    if error == 0 and of_readers == 0:
        return Estimate(1.0, 1.0, 1.0)
    a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * of_readers + b * error) ** 2 / (
        (a * of_readers) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    tail = (1 + level) / 2
    up, down = f.ppf(tail, n - 1, freedom), f.ppf(tail, freedom, n - 1)
    spread = k * of_readers + (k * n - k - n) * error
    low = n * (of_cases - up * error) / (up * spread + n * of_cases)
    high = n * (down * of_cases - error) / (spread + n * down * of_cases)
    return Estimate(float(value), float(low), float(high))


def share_with_interval(count: int, of: int, level: float = 0.95) -> Estimate:
    """A share with Wilson's interval.

    Args:
        count: How many were so.
        of: How many there are; NaN where it is 0.
        level: Level of the interval.

    >>> share_with_interval(5, 10).value
    0.5
    """
    from scipy.stats import binomtest

    if not 0 <= count <= of:
        raise MedsslError(f"a share of {count} in {of}: expected a count between 0 and {of}")
    if of == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    interval = binomtest(count, of).proportion_ci(level, method="wilson")
    return Estimate(count / of, float(interval.low), float(interval.high))


def over_patients(
    statistic: Callable[[Array], float],
    grades: ArrayLike,
    patients: Sequence[str],
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """A statistic with its percentile interval over patients, whose cases stay together.

    Args:
        statistic: Takes (cases, readers) and returns a number.
        grades: The grade of each case by each reader (cases, readers).
        patients: The patient of each case.
        replicates: Samples of the bootstrap.
        seed: Its seed.
        level: Level of the interval.

    Returns:
        The value, with NaN for limits where there are fewer than three patients, or where it is not defined in a tenth or more
        of the samples.
    """
    table, names = np.asarray(grades), np.asarray(patients)
    value, groups = statistic(table), [np.flatnonzero(names == name) for name in np.unique(names)]
    unknown = Estimate(value, float("nan"), float("nan"))
    if len(groups) < 3 or np.isnan(value):
        return unknown
    generator = np.random.default_rng([seed, 23])
    picks = generator.integers(len(groups), size=(replicates, len(groups)))
    samples = np.array([statistic(table[np.concatenate([groups[i] for i in pick])]) for pick in picks])
    if np.isnan(samples).mean() >= 0.1:
        return unknown
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _table(grades: ArrayLike) -> Array:
    table = np.asarray(grades)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise MedsslError(
            f"grades of the shape {table.shape}: expected (cases, readers), one case or more and two readers or more"
        )
    return table
