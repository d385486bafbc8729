"""The difference of two means over the same test patients whose draws have nothing to do with each other.

    difference_of_means(selector, random)          # (seeds, patients) and (draws, patients): an Interval

Arms of a study are compared draw by draw (`intervals.py`). A selector has no draw of its own beside the random ones: its
few choices are compared with the mean of all random draws. Test patients are one random effect that both share, so a
patient who is easy for both cancels; the draws of either side are a random effect of their own, each with its degrees of
freedom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.intervals import Interval, join_notes, no_interval, within_bounds
from medssl.evaluation.variance import fit_components, spread_of

Array = NDArray[Any]


def difference_of_means(
    first: Array,
    second: Array,
    level: float = 0.95,
    *,
    patient_df: float | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    nouns: tuple[str, str] = ("draw of the first", "draw of the second"),
) -> Interval:
    """The mean of the first table minus that of the second, for new draws of both sides and new patients.

    Args:
        first: (draws, patients), NaN where a case does not count.
        second: (other draws, the same patients).
        level: Level of the interval.
        patient_df: Degrees of freedom between patients, in place of patients - 1 (AUROC has fewer).
        bounds: Of the difference, beyond which the interval does not go.
        nouns: What a draw of either side is called in the note.

    Returns:
        The interval, without a p-value where a side has one draw; its draws are those of the smaller side.

    >>> round(difference_of_means(np.array([[0.8, 0.9]]), np.array([[0.6, 0.9], [0.7, 0.7]])).mean, 3)
    0.125
    """
    tables = [np.asarray(first, dtype=float), -np.asarray(second, dtype=float)]
    mean = float(sum(np.nanmean(table) for table in tables))
    count = np.all([~np.isnan(table).all(axis=0) for table in tables], axis=0)  # (patients,)
    draws, patients = min(map(len, tables)), int(count.sum())
    if patients < 2:
        return no_interval(mean, draws, patients, f"{patients} test patient(s) count: no interval")
    fits = [fit for table in tables if (fit := fit_components(table[:, count])) is not None]
    if len(fits) < len(tables):
        return no_interval(mean, draws, patients, "draws share too few patients: no interval")
    spread = spread_of(fits, patient_df)
    if spread.se == 0:
        return no_interval(mean, draws, patients, "the scores do not vary at all: no interval")
    half = spread.half_width(level)
    note = join_notes(*(_few(len(table), noun) for table, noun in zip(tables, nouns)))
    p = float("nan") if draws == 1 else spread.p_value(mean)
    return within_bounds(Interval(mean, mean - half, mean + half, spread.se, p, draws, patients, note), bounds)


def _few(count: int, noun: str) -> str:
    limits = {
        1: f"one {noun}: how another would do is not in the interval",
        2: f"two: how a {noun} differs from another rests on one number",
    }
    return limits.get(count, "")
