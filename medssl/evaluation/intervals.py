"""What a comparison can claim: intervals over draws x patients, paired tests, labels saved.

A score in a study varies with the draw (which patients were labelled, which seed) and with the test
patient. Both are samples, and every draw meets every patient, so they are crossed random effects: an
interval over patients alone pretends that another draw would have given the same model. Pretraining again would give
another model too, so several pretraining runs of one arm are a sample as well, with draws within them; from one run, every
interval and p-value is about that run and not about its method. Scores come as
one array (draws, patients), NaN where a case does not count; AUROC is brought to that same form.

    python -c "import numpy; from medssl.evaluation.intervals import crossed_interval; \
               print(crossed_interval(numpy.random.default_rng(0).normal(0.8, 0.1, (5, 40))))"

How the variance comes about stands in `variance.py`. DeLong et al., Biometrics 1988; Obuchowski, "Nonparametric
analysis of clustered ROC curve data", Biometrics 1997; Hanley and McNeil, Radiology 1982; Newcombe, Statistics in
Medicine 2006.

How often the nominal 95% covers, and how often p falls below 5%, 1% and 0.1% where there is no difference:

    python tests/benchmarks/coverage.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from medssl.core.errors import MedsslError
from medssl.evaluation.variance import (
    Spread,
    blocks,
    chi_square_ratios,
    fit_components,
    parts_of,
    run_means,
    spread_of,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A mean over draws and test patients, its interval, and what stands behind it.

    Attributes:
        mean: The mean.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        se: Standard error of the mean.
        p: Two-sided p-value against 0, so that it means something for differences only; NaN for a single draw.
        draws: Draws that the mean is taken over.
        patients: Test patients that the mean is taken over.
        note: What the interval leaves out; empty when draws and patients are both in it.
    """

    mean: float
    low: float
    high: float
    se: float
    p: float
    draws: int
    patients: int
    note: str = ""


# ---------------------------------------------------------------------------------------------- intervals


def crossed_interval(
    scores: ArrayLike,
    level: float = 0.95,
    *,
    patient_df: float | None = None,
    pretraining_runs: Sequence[Any] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    note: str = "",
) -> Interval:
    """The mean of scores (draws, patients) with an interval for new draws and new patients.

    Two-way random effects y = mean + draw + patient + rest; interval and p-value are one generalized pivotal quantity
    (see `variance.py`), so they agree with each other. NaN cells are left out: the mean is over the cells that count,
    each with the same weight. One draw: the interval is over patients alone, the note says so, and there is no
    p-value. One patient: no interval.

    Type I errors at 5%, 1% and 0.1% stay at or below their level, from 2 draws on and from 20 to 200 patients; the
    interval covers 95 to 97% with 10 draws, and up to 99% with 2 or 3 where draws do not differ, which so few cannot
    show. It is too narrow for skewed scores with few patients, and a rare failure that no draw has shown cannot be
    in it. With several pretraining runs the mean is that of the runs' means, and runs count as draws do here: from two runs
    on type I errors stay at their level, and few runs give wide intervals.

    Args:
        scores: (draws, patients), NaN where a case does not count.
        level: Level of the interval.
        patient_df: In place of patients - 1 (AUROC has fewer).
        pretraining_runs: The pretraining run behind each draw (draws,); None where there is none.
        bounds: Of the score (Dice: 0, 1), beyond which the interval does not go.
        note: Put before the interval's own.

    >>> round(crossed_interval([[0.8, 0.9, 0.7], [0.7, 0.9, 0.6]]).mean, 4)
    0.7667
    """
    table = np.asarray(scores, dtype=float)
    interval = combined_interval([run_means(table, pretraining_runs)], [1.0], level, patient_df, note)
    return within_bounds(replace(interval, draws=len(table)), bounds)


def within_bounds(interval: Interval, bounds: tuple[float, float]) -> Interval:
    """The interval cut off at the bounds of the score; one without limits stays as it is.

    Args:
        interval: The interval; one without limits stays as it is.
        bounds: Lowest and highest value that the score can have.
    """
    if np.isnan(interval.low):
        return interval
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))


def combined_interval(
    tables: Sequence[Array], weights: Sequence[float], level: float, patient_df: float | None, note: str = ""
) -> Interval:
    """The weighted sum of the means of tables (draws, patients): one table, or the budgets of a label curve.

    Tables share the patients, and draws of the same number (see `blocks`).

    Args:
        tables: Scores (draws, patients) of each budget, NaN where a case does not count.
        weights: Weight of each table's mean.
        level: Level of the interval, such as 0.95.
        patient_df: Degrees of freedom between patients, in place of patients - 1.
        note: Put before the interval's own.
    """
    if any(table.ndim != 2 or table.shape[1] != tables[0].shape[1] for table in tables):
        shapes = [table.shape for table in tables]
        raise MedsslError(f"scores have shapes {shapes}: expected (draws, patients), the same patients in each")
    mean = float(sum(w * np.mean(t[~np.isnan(t)]) if (~np.isnan(t)).any() else np.nan for w, t in zip(weights, tables)))
    groups = blocks(tables, list(weights))
    count = np.all([~np.isnan(table).all(axis=0) for table in groups], axis=0)  # (patients,)
    cleaned = [table[:, count] for table in groups]
    cleaned = [table[~np.isnan(table).all(axis=1)] for table in cleaned]
    draws, patients = min(map(len, tables)), int(count.sum())
    if patients < 2:
        return no_interval(mean, draws, patients, f"{patients} test patient(s) count: no interval")
    fits = [fit for table in cleaned if (fit := fit_components(table)) is not None]
    if len(fits) < len(cleaned):
        return no_interval(mean, draws, patients, "draws share too few patients: no interval")
    limits = {
        1: "one draw: the interval is over patients alone, how another draw would do is not in it",
        2: "two draws, or two pretraining runs: how these differ rests on one number",
    }
    spread = spread_of(fits, patient_df)
    return _interval(mean, spread, level, (draws, patients), join_notes(note, limits.get(draws, "")))


def _interval(mean: float, spread: Spread, level: float, counts: tuple[int, int], note: str) -> Interval:
    draws, patients = counts
    if spread.se == 0:
        note = join_notes(note, "the scores do not vary at all: the interval has no width")
        return Interval(mean, mean, mean, 0.0, 1.0 if mean == 0 else np.nan, draws, patients, note)
    half = spread.half_width(level)
    p = spread.p_value(mean) if draws > 1 else np.nan
    return Interval(mean, mean - half, mean + half, spread.se, p, draws, patients, note)


def no_interval(mean: float, draws: int, patients: int, note: str) -> Interval:
    """A mean whose interval cannot be computed: limits, standard error and p-value are NaN.

    Args:
        mean: The mean.
        draws: Draws that it is taken over.
        patients: Test patients that it is taken over.
        note: Why there is no interval.
    """
    return Interval(mean, np.nan, np.nan, np.nan, np.nan, draws, patients, note)


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def patient_means(scores: ArrayLike, groups: ArrayLike) -> tuple[Array, Array]:
    """Scores (draws, scans) averaged over each patient's scans: (draws, patients), and the patients' names.

    NaN scans are left out; a patient whose scans are all NaN stays NaN.

    Args:
        scores: (draws, scans), NaN where a scan does not count.
        groups: The patient of each scan (scans,).
    """
    table = np.atleast_2d(np.asarray(scores, dtype=float))
    patients, code = np.unique(np.asarray(groups), return_inverse=True)
    member = np.eye(len(patients))[code]  # (scans, patients)
    seen = ~np.isnan(table)
    count = seen @ member
    total = np.where(seen, table, 0.0) @ member
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), patients


# -------------------------------------------------------------------------------------------------- AUROC


def auroc_by_patient(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[Array, float]:
    """AUROC as pseudo-values (draws, patients) whose row means are each draw's AUROC, and their patient df.

    DeLong's structural components, summed over each patient's cases (Obuchowski 1997) and scaled so that the
    variance of a row's mean is DeLong's; with several cases a patient it agrees with Obuchowski's but for
    her weight of the product of a patient's positive and negative sums. The degrees of freedom are
    Satterthwaite's over the classes: 5 diseased among 100 patients give between 4 and some 10, not 99.

    Args:
        labels: Class numbers (cases,).
        scores: (draws, cases) for labels 0/1, or (draws, cases, classes) for the macro one-vs-rest.
        groups: The patient of each case (cases,).
    """
    codes, columns = one_vs_rest(labels, np.asarray(scores, dtype=float))
    patients, owner = np.unique(np.asarray(groups), return_inverse=True)
    if len(owner) != len(codes):
        raise MedsslError(f"{len(owner)} groups for {len(codes)} cases: expected one patient a case")
    areas, pieces = zip(*(_structural(codes == k, column) for k, column in columns))
    area, part = np.mean(areas, axis=0), np.mean(pieces, axis=0)  # (draws, 1), (draws, cases)
    member = np.eye(len(patients))[owner]  # (cases, patients)
    by_patient, strata = np.zeros((len(area), len(patients))), []
    for k in np.unique(codes):
        holders = len(np.unique(owner[codes == k]))
        if holders < 2:  # one patient with this class: how much it varies cannot be known
            return np.broadcast_to(area, by_patient.shape), 0.0
        correction = np.sqrt(holders / (holders - 1) * (1 - 1 / len(patients)))
        values = (part * (codes == k)) @ member * correction  # (draws, patients)
        by_patient = by_patient + values
        strata.append((float(np.sum(values.mean(axis=0) ** 2)), holders - 1))
    deviation = by_patient - np.mean(by_patient, axis=1, keepdims=True)
    total = sum(square for square, _ in strata)
    freedom = total**2 / sum(square**2 / df for square, df in strata) if total > 0 else len(patients) - 1
    return area + deviation * len(patients), float(freedom)


def auroc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    level: float = 0.95,
    pretraining_runs: Sequence[Any] | None = None,
) -> Interval:
    """AUROC over draws with an interval for new draws and new patients.

    A score interval: a value is in it if the AUROC found would not be far from it, were it true. The patients' variance
    at that value is DeLong's, carried there in proportion to Hanley and McNeil's, and averaged with theirs as if that
    came from 30 patients: near 1 few cases are in error, and DeLong's alone misses on one side. The draws' variance is
    carried there on the logit scale. `p` is against 0.5. Where no draw made an error, the lower end is the exact
    binomial bound for the smallest class.

    Args:
        labels: Class numbers (cases,).
        scores: (draws, cases) for labels 0/1, or (draws, cases, classes) for the macro one-vs-rest.
        groups: The patient of each case (cases,).
        level: Level of the interval.
        pretraining_runs: As in `crossed_interval`.

    >>> auroc_interval([0, 0, 1, 1], [[0.1, 0.4, 0.35, 0.8]], ["a", "b", "c", "d"]).mean
    0.75
    """
    values, freedom = auroc_by_patient(labels, scores, groups)
    if not freedom:
        return _one_patient_class(values)
    plain = crossed_interval(values, level, patient_df=freedom, pretraining_runs=pretraining_runs)
    if plain.se == 0 and plain.mean == 1:
        codes, owner = np.asarray(labels), np.asarray(groups)
        smallest = min(len(np.unique(owner[codes == k])) for k in np.unique(codes))
        low = ((1 - level) / 2) ** (1 / smallest)
        return replace(plain, low=float(low), p=np.nan, note=join_notes(plain.note, "no error seen: binomial bound"))
    if not 0 < plain.mean < 1 or plain.se == 0:
        return plain
    accepted = _AurocScore.fit(values, run_means(values, pretraining_runs), freedom, _class_sizes(labels, groups))
    low, high = accepted.limits(1 - level)
    return replace(plain, low=low, high=high, p=accepted.p_value(0.5) if plain.draws > 1 else np.nan)


PRIOR_PATIENTS = (
    30.0  # what Hanley and McNeil's variance counts beside DeLong's, and a third of it in degrees of freedom
)
MAX_RATIO = 25.0  # of the draws' variance at a value over that at the estimate


@dataclass(frozen=True)
class _AurocScore:
    """Whether an AUROC could be the true one, given that of the draws."""

    mean: float
    patient: float  # DeLong's variance of the mean, of the patients' part
    patient_df: float
    of_mean: float  # the variance of the mean over draws, as a share of that of one draw
    sizes: list[tuple[int, int]]  # of each class to tell from the rest: its patients, those of the others
    patient_ratio: Array
    draw_variance: Array
    weights: Array

    @classmethod
    def fit(cls, values: Array, averaged: Array, freedom: float, sizes: list[tuple[int, int]]) -> _AurocScore:
        """values: (draws, patients); averaged: those over the draws of each pretraining run."""
        fit = fit_components(averaged)
        assert fit is not None  # AUROC has no missing cells
        patient, *draws = parts_of([fit], freedom)[0]
        dfs = (round(freedom + PRIOR_PATIENTS / 3, 1), *(float(part.df) for part in draws))
        (patient_ratio, *ratios), weights = chi_square_ratios(dfs)
        parts = [np.maximum(part.square * ratio - part.noise, 0.0) for part, ratio in zip(draws, ratios)]
        single = float(np.mean(np.var(values, axis=1, ddof=1))) / values.shape[1]
        share = min(1.0, max(patient.square / single, 1 / len(values))) if single > 0 else 1.0
        of_mean = (freedom * share + PRIOR_PATIENTS / 3) / (freedom + PRIOR_PATIENTS / 3)
        draw = np.sum(parts, axis=0) + 0.0
        return cls(float(averaged.mean()), patient.square, freedom, of_mean, sizes, patient_ratio, draw, weights)

    def p_value(self, value: float) -> float:
        """Two-sided, of the value being true."""
        theirs, at_mean = (np.mean([_hanley_mcneil(x, *n) for n in self.sizes]) for x in (value, self.mean))
        prior, own = PRIOR_PATIENTS, self.patient_df
        patient = (prior * self.of_mean * theirs + own * self.patient * theirs / at_mean) / (prior + own)
        slope = (value * (1 - value) / (self.mean * (1 - self.mean))) ** 2
        variance = patient * self.patient_ratio + min(slope, MAX_RATIO) * self.draw_variance
        return float(2 * ndtr(-abs(self.mean - value) / np.sqrt(np.maximum(variance, 1e-300))) @ self.weights)

    def limits(self, alpha: float) -> tuple[float, float]:
        """The values nearest to 0 and to 1 whose p-value is at least alpha."""
        ends = []
        for outside in (0.0, 1.0):
            inside = self.mean
            for _ in range(30):
                middle = (inside + outside) / 2
                inside, outside = (middle, outside) if self.p_value(middle) >= alpha else (inside, middle)
            ends.append(inside)
        return ends[0], ends[1]


def _hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """The variance of an AUROC that depends on it alone, symmetric in the classes (Newcombe 2006, method 5)."""
    area = min(max(area, 1e-9), 1 - 1e-9)
    extra = (positives + negatives) / 2 - 1
    return area * (1 - area) * (1 + extra * ((1 - area) / (2 - area) + area / (1 + area))) / (positives * negatives)


def _class_sizes(labels: ArrayLike, groups: ArrayLike) -> list[tuple[int, int]]:
    """For each class that is told from the rest: the patients who have it, and those who have another."""
    codes, owner = np.asarray(labels).astype(int), np.asarray(groups)
    classes = np.unique(codes)
    distinguished = classes[1:] if len(classes) == 2 else classes
    return [(len(np.unique(owner[codes == k])), len(np.unique(owner[codes != k]))) for k in distinguished]


def paired_auroc(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    groups: ArrayLike,
    level: float = 0.95,
    pretraining_runs: Sequence[Any] | None = None,
) -> Interval:
    """AUROC of arm a minus arm b, same draws, same cases, with its interval and p-value.

    Args:
        labels: Class numbers (cases,).
        scores_a: Of arm a: (draws, cases) for labels 0/1, or (draws, cases, classes).
        scores_b: Of arm b, in the same order.
        groups: The patient of each case (cases,).
        level: Level of the interval.
        pretraining_runs: The run behind each draw of the arms, as in `crossed_interval`.
    """
    a, freedom_a = auroc_by_patient(labels, scores_a, groups)
    b, freedom_b = auroc_by_patient(labels, scores_b, groups)
    if a.shape != b.shape:
        raise MedsslError(f"arms have shapes {a.shape} and {b.shape}: expected the same draws and patients")
    freedom = min(freedom_a, freedom_b)
    if not freedom:
        return _one_patient_class(a - b)
    return crossed_interval(a - b, level, patient_df=freedom, pretraining_runs=pretraining_runs, bounds=(-1.0, 1.0))


def _one_patient_class(values: Array) -> Interval:
    return no_interval(
        float(values.mean()), values.shape[0], values.shape[1], "a class has one test patient: no interval"
    )


def one_vs_rest(labels: ArrayLike, scores: Array) -> tuple[Array, list[tuple[int, Array]]]:
    """Return the labels (cases,) as integers, and for each class to tell from the rest its scores (draws, cases).

    Args:
        labels: Class numbers (cases,).
        scores: (draws, cases) for labels 0/1, or (draws, cases, classes).

    Raises:
        MedsslError: A class has no case, or a score is missing.
    """
    codes = np.asarray(labels).astype(int)
    scores = np.asarray(scores, dtype=float)
    classes = 2 if scores.ndim == 2 else scores.shape[2]
    if scores.shape[1] != len(codes):
        raise MedsslError(f"scores {scores.shape} for {len(codes)} labels: expected (draws, cases[, classes])")
    if np.isnan(scores).any():
        raise MedsslError(
            "a score is NaN: expected a number for every test case; see run.json of the failed run in STUDY/cells"
        )
    counts = {k: int(np.sum(codes == k)) for k in range(classes)}
    absent = [k for k, count in counts.items() if count == 0]
    if absent or sum(counts.values()) != len(codes):
        known = ", ".join(f"{k}: {count}" for k, count in counts.items())
        raise MedsslError(
            f"test cases a class are {known} of {len(codes)}: AUROC needs at least one case of each class "
            f"and labels 0 to {classes - 1}; use a larger test share or leave out class {absent}"
        )
    if scores.ndim == 2:
        return codes, [(1, scores)]
    wanted = [1] if classes == 2 else list(range(classes))
    return codes, [(k, scores[:, :, k]) for k in wanted]


def _structural(positive: Array, scores: Array) -> tuple[Array, Array]:
    """AUROC (draws, 1) and each case's deviation from it over its class's count (draws, cases), by ranks.

    Sun and Xu, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 2014.
    """
    above, below = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores, axis=1)
    own = np.empty_like(ranks)
    own[:, positive] = rankdata(scores[:, positive], axis=1)
    own[:, ~positive] = rankdata(scores[:, ~positive], axis=1)
    other = np.where(positive, (ranks - own) / below, 1 - (ranks - own) / above)  # share of the other class beaten
    area = other[:, positive].mean(axis=1, keepdims=True)
    return area, (other - area) / np.where(positive, above, below)


# ------------------------------------------------------------------------------------------- several tests


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values, in the order given; NaN stays NaN and does not count as a test.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian J. of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: int(np.sum(~np.isnan(p)))]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def smallest_p(draws: int) -> float:
    """The smallest two-sided p a sign flip over this many draws can reach: 5 draws, 0.0625."""
    return float(min(1.0, 2.0 ** (1 - draws)))


def sign_flip_note(count: int, noun: str = "draws") -> str:
    """The smallest p-value that a sign flip can reach, as a sentence for a table's note.

    Args:
        count: Draws, or pretraining runs where there are several.
        noun: What these are.
    """
    return f"a sign flip over {count} {noun} can never go below p = {smallest_p(count):.2g}"
