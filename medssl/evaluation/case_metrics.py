"""The primary metric of a task, from tables with one row for each case: means, intervals, paired differences.

The scores of single cases are computed in `metrics.py`; here they are summarised.

    Dice().interval([pd.read_parquet(path) for path in predictions])       # one table for each draw

A case table holds `scan`, `patient` and what the metric needs: `dice.STRUCTURE` columns, or `label` and `p.CLASS`
columns. `pretraining_run`, where it is there, is the id of the run that the draw's model started from: draws of several runs
are averaged run by run before anything is concluded (see `variance.py`). All tables given together score the same scans.
Does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medssl.evaluation.intervals import (
    Interval,
    auroc_by_patient,
    auroc_interval,
    crossed_interval,
    paired_auroc,
)

Array = NDArray[Any]
RUN = "pretraining_run"


def from_run(cases: pd.DataFrame, run: str | None) -> pd.DataFrame:
    """The case table of a draw with the id of the pretraining run behind it; unchanged where there is none.

    Args:
        cases: The case table.
        run: The id.
    """
    return cases if run is None else cases.assign(**{RUN: run})


def runs_behind(draws: Sequence[pd.DataFrame]) -> list[str] | None:
    """The id of the pretraining run behind each draw; None where a draw has none."""
    if not all(RUN in cases for cases in draws):
        return None
    return [str(cases[RUN].iloc[0]) for cases in draws]


class CaseMetric(ABC):
    """A score of case tables, higher is better, with intervals for new draws and new patients."""

    name: ClassVar[str]

    @abstractmethod
    def interval(self, draws: Sequence[pd.DataFrame]) -> Interval:
        """The mean score over the draws, with its interval."""

    @abstractmethod
    def difference(self, draws: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame]) -> Interval:
        """The first arm's score minus the second's, over the same draws and cases, with its interval and p-value.

        Args:
            draws: The first arm's case tables, one for each draw.
            others: The second arm's, of the same draws in the same order.
        """

    @abstractmethod
    def by_patient(self, draws: Sequence[pd.DataFrame]) -> tuple[Array, float | None]:
        """Scores (draws, patients), and their patients' degrees of freedom where these are fewer than patients - 1.

        The scores are one number, without an interval, where a class has a single test patient.
        """


class Dice(CaseMetric):
    """Dice averaged over structures, then over a patient's scans."""

    name = "dice"

    def interval(self, draws: Sequence[pd.DataFrame]) -> Interval:
        note = lost_structures(draws)
        scores = self.by_patient(draws)[0]
        return crossed_interval(scores, pretraining_runs=runs_behind(draws), bounds=(0, 1), note=note)

    def difference(self, draws: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame]) -> Interval:
        differences = self.by_patient(draws)[0] - self.by_patient(others)[0]
        return crossed_interval(differences, pretraining_runs=runs_behind(draws), bounds=(-1, 1))

    def by_patient(self, draws: Sequence[pd.DataFrame]) -> tuple[Array, float | None]:
        scores = [mean_dice(cases).groupby(cases["patient"], sort=True).mean().to_numpy() for cases in draws]
        return np.stack(scores), None


class AUROC(CaseMetric):
    """Area under the ROC curve: of class 1 for two classes, macro one-vs-rest for more."""

    name = "auroc"

    def interval(self, draws: Sequence[pd.DataFrame]) -> Interval:
        return auroc_interval(*_labels_scores_patients(draws), pretraining_runs=runs_behind(draws))

    def difference(self, draws: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame]) -> Interval:
        labels, scores, patients = _labels_scores_patients(draws)
        theirs, pretraining_runs = _labels_scores_patients(others)[1], runs_behind(draws)
        return paired_auroc(labels, scores, theirs, patients, pretraining_runs=pretraining_runs)

    def by_patient(self, draws: Sequence[pd.DataFrame]) -> tuple[Array, float | None]:
        values, freedom = auroc_by_patient(*_labels_scores_patients(draws))
        return (values, freedom) if freedom else (np.asarray(values.mean()), None)


LOST = 0.1  # Dice below which a structure counts as lost


def lost_structures(draws: Sequence[pd.DataFrame]) -> str:
    """A sentence on lost structures, empty where there are none: such scores have tails that no interval for a mean fits.

    Where one draw in ten loses a structure, the 95% interval covers less than it says, since most studies of few draws
    see no such draw or too many of them.
    """
    scores = np.stack([_structures(cases).to_numpy() for cases in draws])  # (draws, cases, structures)
    counted = ~np.isnan(scores)
    lost = counted & (np.nan_to_num(scores, nan=1.0) < LOST)
    if not lost.any():
        return ""
    failing, median = int(lost.any(axis=(1, 2)).sum()), float(np.nanmedian([mean_dice(cases) for cases in draws]))
    return (
        f"structures were lost (Dice below {LOST:g}) in {100 * lost.sum() / counted.sum():.2g}% of the cases, in {failing} "
        f"of {len(draws)} draws; the median Dice is {median:.3f}; the interval of the mean may be too narrow"
    )


def _structures(cases: pd.DataFrame) -> pd.DataFrame:
    return cases[[column for column in cases if str(column).startswith("dice.")]]


def mean_dice(cases: pd.DataFrame) -> pd.Series:
    """The mean over the structures that count, of each case."""
    return _structures(cases).mean(axis=1)


def _labels_scores_patients(draws: Sequence[pd.DataFrame]) -> tuple[Array, Array, Array]:
    """labels (cases,), scores (draws, cases) for two classes or (draws, cases, classes), patients (cases,)."""
    first = draws[0]
    columns = [column for column in first if column.startswith("p.")]
    scores = np.stack([cases[columns].to_numpy() for cases in draws])
    two_classes = len(columns) == 2
    return first["label"].to_numpy(), scores[..., 1] if two_classes else scores, first["patient"].to_numpy()
