"""What scores over label budgets can claim: labels that pretraining saves, the gap it closes, the area under the curve.

    labels_saved([1, 10, 100], pretrained, scratch_full).budget          # patients at which scratch is reached
    gap_closed(pretrained[0], scratch[0], scratch_full).share            # of what all labels would add to scratch

Fieller, "Some problems in interval estimation", JRSS B 1954.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medssl.core.errors import MedsslError
from medssl.evaluation.intervals import Array, Interval, combined_interval, join_notes, no_interval, within_bounds


@dataclass(frozen=True)
class LabelsSaved:
    """The budget (patients) at which the pretrained curve reaches scratch with all labels.

    Attributes:
        budget: In patients; infinite where the curve stays below.
        low: Lower limit of its interval.
        high: Upper limit of its interval.
        share: 1 - budget / all patients.
        note: What the numbers leave out, or why there is no interval.
    """

    budget: float
    low: float
    high: float
    share: float
    note: str = ""


@dataclass(frozen=True)
class GapClosed:
    """How much of what all labels would add to scratch an arm reaches with few.

    Attributes:
        share: 0 for scratch with the few labels, 1 for scratch with all; it may lie outside of the two.
        low: Lower limit of its interval.
        high: Upper limit of its interval.
        note: What the interval leaves out, or why there is none.
    """

    share: float
    low: float
    high: float
    note: str = ""


def labels_saved(
    budgets: Sequence[float],
    pretrained: Sequence[ArrayLike],
    scratch_full: ArrayLike,
    *,
    level: float = 0.95,
    patient_df: float | None = None,
    points: int = 129,
) -> LabelsSaved:
    """The budget at which the pretrained curve, linear in log budget, first reaches scratch at 100%.

    Higher is better. The interval (Fieller 1954) goes from the smallest budget, of `points` between the first and
    the last, at which the curve is not significantly below scratch to the largest at which it is not significantly
    above, tested as in `crossed_interval` over draws and test patients; it always holds the estimate. It may be open:
    `high` is infinite where the last budget is in it. Numbers alone give no interval. Below the smallest budget the
    curve is not known: the answer is then that budget and the note says so.

    Args:
        budgets: Patients of each budget, rising.
        pretrained: For each budget (draws, patients), where draws may differ between budgets (`auroc_by_patient` gives
            that form), or one number.
        scratch_full: (draws, patients) of scratch at the last budget, or one number.
        level: Level of the interval.
        patient_df: Degrees of freedom between patients, in place of patients - 1.
        points: Budgets tried for the interval, between the first and the last.

    >>> round(labels_saved([1, 10, 100], [0.5, 0.7, 0.9], 0.7).budget, 6)
    10.0
    """
    sizes = _check_budgets(budgets, pretrained)
    tables = [np.asarray(table, dtype=float) for table in [*pretrained, scratch_full]]
    curve = np.array([np.nanmean(table) for table in tables])
    budget = _crossing(np.log(sizes), curve[:-1] - curve[-1])
    notes = {np.inf: "not reached within these budgets", sizes[0]: "reached at or below the smallest budget"}
    share, note = float(1 - budget / sizes[-1]), notes.get(budget, "")
    if any(table.ndim == 0 for table in tables):
        return LabelsSaved(budget, np.nan, np.nan, share, join_notes(note, "no draws given: no interval"))
    grid = np.unique(np.concatenate([np.geomspace(sizes[0], sizes[-1], points), sizes]))
    reachable, needed, limit = [], [], ""
    for size in grid:
        weights = [*_between(np.log(sizes), np.log(size)), -1.0]
        difference = combined_interval(tables, weights, level, patient_df)
        limit = difference.note
        if np.isnan(difference.low):
            return LabelsSaved(budget, np.nan, np.nan, share, join_notes(note, limit))
        reachable.append(difference.high >= 0)  # not significantly below scratch
        needed.append(difference.low <= 0)  # not significantly above it
    low = min([budget, *grid[reachable][:1]])
    high = max([budget, *grid[needed][-1:]])
    high = np.inf if high >= sizes[-1] and needed[-1] else high
    return LabelsSaved(budget, float(low), float(high), share, join_notes(note, limit))


def gap_closed(
    arm: ArrayLike,
    scratch: ArrayLike,
    scratch_full: ArrayLike,
    *,
    level: float = 0.95,
    patient_df: float | None = None,
) -> GapClosed:
    """The share (arm - scratch) / (scratch with all labels - scratch), all of the same test patients.

    The interval (Fieller 1954) holds the shares g at which arm - (1 - g) scratch - g scratch_full does not differ from zero,
    tested as in `crossed_interval` over draws and test patients. A ratio has no finite interval where its denominator may be
    zero: unless scratch with all labels is significantly above scratch, there is none and the note says so.

    Args:
        arm: Scores (draws, patients) of the arm with the few labels, or one number.
        scratch: The same of scratch with the few labels.
        scratch_full: The same of scratch with all labels; it may have fewer draws.
        level: Level of the interval.
        patient_df: Degrees of freedom between patients, in place of patients - 1.

    >>> round(gap_closed(0.8, 0.7, 0.9).share, 6)
    0.5
    """
    tables = [np.asarray(table, dtype=float) for table in (arm, scratch, scratch_full)]
    reached, few, full = (float(np.nanmean(table)) for table in tables)
    share = (reached - few) / (full - few) if full != few else np.nan
    if any(table.ndim == 0 for table in tables):
        return GapClosed(share, np.nan, np.nan, "no draws given: no interval")
    gap = combined_interval(tables, [0.0, -1.0, 1.0], level, patient_df)
    if not gap.low > 0:
        return GapClosed(share, np.nan, np.nan, join_notes("no gap to close could be shown: no interval", gap.note))

    def differs(g: float) -> bool:
        contrast = combined_interval(tables, [1.0, g - 1.0, -g], level, patient_df)
        return contrast.low > 0 or contrast.high < 0

    return GapClosed(share, _first_beyond(share, -1.0, differs), _first_beyond(share, 1.0, differs), gap.note)


def _first_beyond(start: float, direction: float, excluded: Callable[[float], bool]) -> float:
    """The end of the values that are not excluded, on one side of a start that is not; infinite beyond 1,000."""
    inside, step = start, 0.1
    while not excluded(outside := inside + direction * step):
        inside, step = outside, 2 * step
        if step > 1000:
            return float(direction * np.inf)
    while abs(outside - inside) > 1e-4:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
    return inside


def area_under_label_curve(
    budgets: Sequence[float],
    scores: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    patient_df: float | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """The mean score along the label curve, linear in log budget: the area over the width of the log axis.

    The interval is that of `crossed_interval`, for the weighted sum of the budgets' means: budgets share the test
    patients, and draws of the same number, which share seeds and nested subsets. Numbers alone give no interval.

    Args:
        budgets: Patients of each budget, rising.
        scores: For each budget (draws, patients), or one number; for two arms the differences of their scores.
        level: Level of the interval.
        patient_df: Degrees of freedom between patients, in place of patients - 1.
        bounds: Lowest and highest value that the score can have.

    >>> round(area_under_label_curve([1, 10, 100], [0.5, 0.7, 0.9]).mean, 6)
    0.7
    """
    sizes = _check_budgets(budgets, scores)
    logs = np.log(sizes)
    weights = np.trapezoid(np.eye(len(sizes)), logs, axis=1) / (logs[-1] - logs[0])
    tables = [np.asarray(table, dtype=float) for table in scores]
    if any(table.ndim == 0 for table in tables):
        mean = float(sum(w * np.nanmean(table) for w, table in zip(weights, tables)))
        return no_interval(mean, 0, 0, "no draws given: no interval")
    return within_bounds(combined_interval(tables, weights.tolist(), level, patient_df), bounds)


def _check_budgets(budgets: Sequence[float], scores: Sequence[ArrayLike]) -> Array:
    sizes = np.asarray(budgets, dtype=float)
    if len(sizes) < 2 or len(sizes) != len(scores) or sizes[0] <= 0 or np.any(np.diff(sizes) <= 0):
        raise MedsslError(
            f"budgets are {sizes.tolist()} with {len(scores)} scores: expected two or more, patients rising"
        )
    return sizes


def _crossing(log_sizes: Array, difference: Array) -> float:
    """Where the difference (budgets,) first reaches zero from below, in patients; infinity where it does not."""
    above = np.flatnonzero(difference >= 0)
    if not len(above):
        return float(np.inf)
    first = int(above[0])
    if first == 0:
        return float(np.exp(log_sizes[0]))
    return float(np.exp(np.interp(0.0, difference[first - 1 : first + 1], log_sizes[first - 1 : first + 1])))


def _between(log_sizes: Array, log_size: float) -> list[float]:
    """The weight of each budget in the linear interpolation at one size."""
    return [float(np.interp(log_size, log_sizes, row)) for row in np.eye(len(log_sizes))]
