"""How much a mean over draws and test patients varies, and what is known of it when draws are few.

    fit = fit_components(scores)                              # (draws, patients), NaN where a case does not count
    spread = spread_of([fit], patient_df=None)
    spread.se, spread.half_width(0.95), spread.p_value(0.03)

Two-way random effects y = mean + draw + patient + rest. Each mean square is its expectation times a chi-square over its
degrees of freedom, so given the data an expectation may be the mean square times the degrees of freedom over such a
chi-square: a generalized pivotal quantity. The variance of the mean is averaged over, not estimated once. With many
draws that is the usual t interval; with few, its tails are those that few draws deserve.

Where an arm has several pretraining runs, draws lie within runs. A run's draws are averaged first, and runs then stand
where draws stood: the mean square between runs holds what runs differ by and what draws differ by, and is the only one
whose expectation is their share of the variance of the mean.

Searle, Casella, McCulloch, "Variance Components" (1992); Weerahandi, "Generalized confidence intervals", JASA 1993;
Hannig, Iyer, Patterson, "Fiducial generalized confidence intervals", JASA 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr

Array = NDArray[Any]
NODES = 1024  # of the integral over chi-squares, in all dimensions together
MIN_BLOCK = 3  # draws: a later block of fewer says too little about how draws differ


class Part(NamedTuple):
    """A mean square times its weight in the variance of the mean; `noise` of it belongs to the rest."""

    square: float
    noise: float
    df: float


@dataclass(frozen=True)
class Fit:
    """Draw and patient effects of one table, and what the variance of its mean needs of them.

    Attributes:
        patient: Effects (patients,).
        patient_weight: What their variance counts in the variance of the mean.
        patient_noise: Of their variance, the share that is rest.
        draw: The draws' part; None for one draw.
        rest: Its part in the variance of the mean.
    """

    patient: Array
    patient_weight: float
    patient_noise: float
    draw: Part | None
    rest: float


@dataclass(frozen=True)
class Spread:
    """The variances that the mean may have, with their weights.

    Attributes:
        se: Estimated standard error of the mean.
        variances: (nodes,)
        weights: (nodes,), their sum is 1.
    """

    se: float
    variances: Array
    weights: Array

    def p_value(self, distance: float) -> float:
        """The two-sided probability of a mean at least that far from the truth."""
        return float(2 * ndtr(-abs(distance) / np.sqrt(self.variances)) @ self.weights)

    def half_width(self, level: float) -> float:
        """The distance whose `p_value` is 1 - level."""
        low, high = 0.0, self.se
        while self.p_value(high) > 1 - level:
            low, high = high, 2 * high
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.p_value(middle) > 1 - level else (low, middle)
        return high


def run_means(table: Array, pretraining_runs: Sequence[Any] | None) -> Array:
    """Scores (draws, patients) averaged over the draws of each pretraining run: (runs, patients), runs in order.

    A single run leaves nothing to average: the table stays as it is, and what is concluded from it is about that run.

    Args:
        table: Scores (draws, patients), NaN where a case does not count.
        pretraining_runs: The run behind each draw (draws,); None where there is none.

    >>> run_means(np.array([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]]), ["a", "b", "a"]).tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    if pretraining_runs is None or len(set(pretraining_runs)) < 2:
        return table
    own = np.asarray(pretraining_runs) == np.unique(np.asarray(pretraining_runs))[:, None]  # (runs, draws)
    seen = ~np.isnan(table)
    counts = own.astype(float) @ seen
    return np.where(counts > 0, (own @ np.where(seen, table, 0.0)) / np.maximum(counts, 1), np.nan)


def fit_components(table: Array) -> Fit | None:
    """Least-squares effects of (draws, patients) with NaN (Henderson's method 3); None where they cannot be told apart."""
    seen = ~np.isnan(table)
    filled = np.where(seen, table, 0.0)
    draws, patients = table.shape
    per_draw, per_patient, cells = seen.sum(axis=1), seen.sum(axis=0), int(seen.sum())
    patient_weight = float(np.sum((per_patient / cells) ** 2))
    if draws == 1:
        return Fit(table[0], patient_weight, 0.0, None, 0.0)
    share = seen / per_patient  # (draws, patients)
    laplacian = np.diag(per_draw) - share @ seen.T  # (draws, draws), patients projected out
    eigenvalues, vectors = np.linalg.eigh(laplacian)
    if eigenvalues[1] < 1e-9 * patients:  # draws fall apart into groups without a common patient
        return None
    inverse = (vectors[:, 1:] / eigenvalues[1:]) @ vectors[:, 1:].T
    draw = inverse @ (filled.sum(axis=1) - share @ filled.sum(axis=0))
    patient = filled.sum(axis=0) / per_patient - draw @ share
    rest_df = max(cells - draws - patients + 1, 1)
    rest = float(np.sum(np.where(seen, table - draw[:, None] - patient, 0.0) ** 2) / rest_df)
    centred = share - share.mean(axis=1, keepdims=True)
    patient_noise = (1 / per_patient).sum() * (1 - 1 / patients) + np.sum(centred * (inverse @ centred))
    draw_weight = float(np.sum((per_draw / cells) ** 2))
    draw_noise = float(np.trace(inverse)) / (draws - 1) * rest
    part = Part(draw_weight * float(np.var(draw, ddof=1)), draw_weight * draw_noise, draws - 1)
    return Fit(patient, patient_weight, float(patient_noise) / (patients - 1) * rest, part, rest / cells)


def blocks(tables: Sequence[Array], weights: Sequence[float]) -> list[Array]:
    """Tables of draws that are independent of each other, whose means add up to the weighted sum of the tables' means.

    Draws of the same number share their seed and lie within one another, so they are summed over the tables before
    anything else. Tables with fewer draws end earlier: a block holds the draws that the same tables have. A later block
    of fewer than three draws is left out, which makes the others count a little more.

    Args:
        tables: One (draws, patients) a budget, the same patients in each.
        weights: Of the tables' means.
    """
    ends = sorted({len(table) for table in tables})
    spans = [(start, end) for start, end in zip([0, *ends], ends) if start == 0 or end - start >= MIN_BLOCK]
    counts = [sum(end - start for start, end in spans if end <= len(table)) for table in tables]
    return [
        np.sum(
            [
                weight * (end - start) / count * table[start:end]
                for table, weight, count in zip(tables, weights, counts)
                if end <= len(table)
            ],
            axis=0,
        )
        for start, end in spans
    ]


def parts_of(fits: Sequence[Fit], patient_df: float | None) -> tuple[list[Part], float]:
    """The patients' part, each block's draws, and the rest, of the variance of the summed mean."""
    effects = np.sum([fit.patient for fit in fits], axis=0)
    weight = max(fit.patient_weight for fit in fits)
    noise = weight * sum(fit.patient_noise for fit in fits)
    patient = Part(weight * float(np.var(effects, ddof=1)), noise, patient_df or len(effects) - 1)
    return [patient, *(fit.draw for fit in fits if fit.draw)], sum(fit.rest for fit in fits)


def spread_of(fits: Sequence[Fit], patient_df: float | None) -> Spread:
    """The spread of the sum of the fits' means; patient_df replaces patients - 1."""
    parts, rest = parts_of(fits, patient_df)
    variance = rest + sum(max(part.square - part.noise, 0.0) for part in parts)
    ratios, weights = chi_square_ratios(tuple(float(part.df) for part in parts))
    candidates = [np.maximum(part.square * ratio - part.noise, 0.0) for part, ratio in zip(parts, ratios)]
    return Spread(float(np.sqrt(variance)), rest + np.sum(candidates, axis=0), weights)


@lru_cache(1024)
def chi_square_ratios(dfs: tuple[float, ...]) -> tuple[Array, Array]:
    """Degrees of freedom over a chi-square (parts, nodes) for independent parts, and the weights of the nodes (nodes,).

    Gauss-Legendre in the cube root of the probability, which is dense in the tail that small p-values need.
    """
    points, weights = np.polynomial.legendre.leggauss(round(NODES ** (1 / len(dfs))))
    root = (points + 1) / 2
    ratios = np.meshgrid(*(df / (2 * gammaincinv(df / 2, root**3)) for df in dfs), indexing="ij")
    of_node = np.meshgrid(*[weights / 2 * 3 * root**2] * len(dfs), indexing="ij")
    return np.stack([ratio.ravel() for ratio in ratios]), np.prod(of_node, axis=0).ravel()
