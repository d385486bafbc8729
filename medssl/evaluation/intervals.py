"""What a comparison can claim: intervals over draws x patients, paired tests, labels saved.

A score in a study varies with the draw (which patients were labelled, which seed) and with the test
patient. Both are samples, and every draw meets every patient, so they are crossed random effects: an
interval over patients alone pretends that another draw would have given the same model. Scores come as
one array (draws, patients), NaN where a case does not count; AUROC is brought to that same form.

    python -c "import numpy; from medssl.evaluation.intervals import crossed_interval; \
               print(crossed_interval(numpy.random.default_rng(0).normal(0.8, 0.1, (5, 40))))"

Searle, Casella, McCulloch, "Variance Components" (1992); Satterthwaite, "An approximate distribution of
estimates of variance components", Biometrics 1946; DeLong et al., Biometrics 1988; Obuchowski, "Nonparametric
analysis of clustered ROC curve data", Biometrics 1997; Fieller, "Some problems in interval
estimation", JRSS B 1954.

How often the nominal 95% covers stands with each interval; to measure it again:

    COVERAGE=20000 pytest tests/evaluation -k coverage -s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, expit, logit, stdtr, stdtrit
from scipy.stats import rankdata

from medssl.core.errors import MedsslError

Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A mean over draws and test patients, its t interval, and what stands behind it.

    `p` is two-sided against 0, so it means something for differences only. `note` says where the
    interval leaves something out; it is empty when draws and patients are both in it.
    """

    mean: float
    low: float
    high: float
    se: float
    df: float
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
    bounds: tuple[float, float] = (-np.inf, np.inf),
    note: str = "",
) -> Interval:
    """The mean of scores (draws, patients) with an interval for new draws and new patients.

    Two-way random effects y = mean + draw + patient + rest, components by the analysis of variance,
    negative ones set to zero (which can only widen the interval), t quantile at Satterthwaite's degrees of
    freedom. Plain Satterthwaite covers 92% with 3 draws: where the draw mean square is small by chance, it
    shrinks the variance and raises the degrees of freedom at once. So those are taken at the upper 75%
    bound of each mean square, where that gives fewer.

    NaN cells are left out: the mean is over the cells that count, each with the same weight; components come
    from the least-squares draw and patient effects (Henderson's method 3), which is the same thing when no
    cell is missing. `patient_df` replaces patients - 1 (AUROC has fewer). `bounds` are those of the score
    (Dice: 0, 1), beyond which the interval does not go. One draw: the interval is over patients alone and the
    note says so. One patient: no interval.

    Coverage of the 95% interval, 20000 replicates of normal scores, 20 and 60 patients, draw deviations of
    0.1 to 1 patient deviation: 3 draws 95.0-96.5%, 5 draws 94.9-95.6%, 10 draws 95.0-95.3%; 2 draws
    93.7-97.6%; 5 draws with a fifth of the cells missing 95.2%. It is wider than it need be (98-99%) where
    neither patients nor draws differ, and too narrow for skewed scores (exponential: 92% with 3 draws, 94%
    with 10). A rare failure that no draw has shown cannot be in it: where one draw in ten loses 27 points, it
    covers 67-79%. A bootstrap over patients alone covers 66% with 5 draws (in the test).

    >>> round(crossed_interval([[0.8, 0.9, 0.7], [0.7, 0.9, 0.6]]).mean, 4)
    0.7667
    """
    interval = combined_interval([np.asarray(scores, dtype=float)], [1.0], level, patient_df, note)
    return within_bounds(interval, bounds)


def within_bounds(interval: Interval, bounds: tuple[float, float]) -> Interval:
    """The interval cut off at the bounds of the score; one without limits stays as it is."""
    if np.isnan(interval.low):
        return interval
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))


def combined_interval(
    tables: Sequence[Array], weights: Sequence[float], level: float, patient_df: float | None, note: str = ""
) -> Interval:
    """The weighted sum of the means of tables (draws, patients): one table, or the budgets of a label curve.

    Tables share the patients. Those with the same number of draws share the draws, and are summed first.
    """
    groups: dict[int, Array] = {}
    for table, weight in zip(tables, weights, strict=True):
        if table.ndim != 2 or table.shape[1] != tables[0].shape[1]:
            shapes = [table.shape for table in tables]
            raise MedsslError(f"scores have shapes {shapes}: expected (draws, patients), the same patients in each")
        groups[len(table)] = groups.get(len(table), 0.0) + weight * table
    mean = float(sum(w * np.mean(t[~np.isnan(t)]) if (~np.isnan(t)).any() else np.nan for w, t in zip(weights, tables)))
    count = np.all([~np.isnan(table).all(axis=0) for table in groups.values()], axis=0)  # (patients,)
    cleaned = [table[:, count] for table in groups.values()]
    cleaned = [table[~np.isnan(table).all(axis=1)] for table in cleaned]
    draws, patients = min(map(len, cleaned)), int(count.sum())
    if patients < 2:
        return no_interval(mean, draws, patients, f"{patients} test patient(s) count: no interval")
    fits = [_fit(table) for table in cleaned]
    if any(fit is None for fit in fits):
        return no_interval(mean, draws, patients, "draws share too few patients: no interval")
    variance, freedom = _variance([fit for fit in fits if fit is not None], patient_df)
    limits = {
        1: "one draw: the interval is over patients alone, how another draw would do is not in it",
        2: "two draws: how draws differ rests on one number",
    }
    return _t_interval(mean, variance, freedom, level, (draws, patients), join_notes(note, limits.get(draws, "")))


@dataclass(frozen=True)
class _Fit:
    """Draw and patient effects of one table, and what the variance of its mean needs of them."""

    patient: Array  # (patients,) effects
    patient_weight: float
    patient_noise: float  # of the variance over patients, the share that is rest
    draw: _Part | None
    rest: float  # its part in the variance of the mean
    rest_df: int


class _Part(NamedTuple):
    """A mean square times its weight in the variance of the mean; `noise` of it belongs to the rest."""

    square: float
    noise: float
    df: float


def _fit(table: Array) -> _Fit | None:
    """Least-squares effects of (draws, patients) with NaN; None where they cannot be told apart."""
    seen = ~np.isnan(table)
    filled = np.where(seen, table, 0.0)
    draws, patients = table.shape
    per_draw, per_patient, cells = seen.sum(axis=1), seen.sum(axis=0), int(seen.sum())
    patient_weight = float(np.sum((per_patient / cells) ** 2))
    if draws == 1:
        return _Fit(table[0], patient_weight, 0.0, None, 0.0, 1)
    share = seen / per_patient  # (draws, patients)
    laplacian = np.diag(per_draw) - share @ seen.T  # (draws, draws), patients projected out
    eigenvalues, vectors = np.linalg.eigh(laplacian)
    if eigenvalues[1] < 1e-9 * patients:  # draws fall apart into groups without a common patient
        return None
    inverse = (vectors[:, 1:] / eigenvalues[1:]) @ vectors[:, 1:].T
    draw = inverse @ (filled.sum(axis=1) - share @ filled.sum(axis=0))
    patient = filled.sum(axis=0) / per_patient - draw @ share
    rest_df = cells - draws - patients + 1
    rest = float(np.sum(np.where(seen, table - draw[:, None] - patient, 0.0) ** 2) / max(rest_df, 1))
    centred = share - share.mean(axis=1, keepdims=True)
    patient_noise = (1 / per_patient).sum() * (1 - 1 / patients) + np.sum(centred * (inverse @ centred))
    draw_weight = float(np.sum((per_draw / cells) ** 2))
    draw_noise = float(np.trace(inverse)) / (draws - 1) * rest
    part = _Part(draw_weight * float(np.var(draw, ddof=1)), draw_weight * draw_noise, draws - 1)
    return _Fit(
        patient,
        patient_weight,
        float(patient_noise) / (patients - 1) * rest,
        part,
        rest / cells,
        max(rest_df, 1),
    )


def _variance(fits: list[_Fit], patient_df: float | None, bound: float = 0.75) -> tuple[float, float]:
    """The variance of the summed mean, and its degrees of freedom (see crossed_interval)."""
    effects = np.sum([fit.patient for fit in fits], axis=0)
    weight = max(fit.patient_weight for fit in fits)
    noise = weight * sum(fit.patient_noise for fit in fits)
    patient = _Part(weight * float(np.var(effects, ddof=1)), noise, patient_df or len(effects) - 1)
    parts = [patient, *(fit.draw for fit in fits if fit.draw)]
    rest, rest_df = sum(fit.rest for fit in fits), min(fit.rest_df for fit in fits)
    true = [max(part.square - part.noise, 0.0) for part in parts]
    true[0] += rest
    variance, fewest = sum(true), min(part.df for part in parts)
    if variance <= 0:
        return 0.0, fewest
    left = rest - sum(part.noise for part in parts)
    below = sum(part.square**2 / part.df for part in parts) + left**2 / rest_df
    candidates = [variance**2 / below]
    for k, part in enumerate(parts):
        upper = part.square * part.df / chdtri(part.df, bound)  # of the expected mean square
        guess = [*true]
        guess[k] = max(upper - part.noise, 0.0) + (rest if k == 0 else 0.0)
        candidates.append(sum(guess) ** 2 / sum(value**2 / part.df for value, part in zip(guess, parts)))
    return variance, max(min(candidates), fewest)


def _t_interval(mean: float, variance: float, df: float, level: float, counts: tuple[int, int], note: str) -> Interval:
    se = float(np.sqrt(variance))
    half = float(stdtrit(df, (1 + level) / 2)) * se
    if se > 0:
        p = float(2 * stdtr(df, -abs(mean) / se))
    else:
        p, note = (
            (1.0 if mean == 0 else np.nan),
            join_notes(note, "the scores do not vary at all: the interval has no width"),
        )
    return Interval(mean, mean - half, mean + half, se, float(df), p, counts[0], counts[1], note)


def no_interval(mean: float, draws: int, patients: int, note: str) -> Interval:
    return Interval(mean, np.nan, np.nan, np.nan, np.nan, np.nan, draws, patients, note)


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def patient_means(scores: ArrayLike, groups: ArrayLike) -> tuple[Array, Array]:
    """Scores (draws, scans) averaged over each patient's scans: (draws, patients), and the patients' names.

    NaN scans are left out; a patient whose scans are all NaN stays NaN.
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


def auroc_interval(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, level: float = 0.95) -> Interval:
    """AUROC over draws with an interval for new draws and new patients.

    scores (draws, cases) for labels 0/1, or (draws, cases, classes) for the macro one-vs-rest; groups
    (cases,) name the patients. `auroc_by_patient` goes through `crossed_interval`, then the interval is
    formed on the logit scale, so that it stays below 1 and covers for AUROCs near it. `p` is against 0.5.
    Where no draw made an error, the lower end is the exact binomial bound for the smallest class.

    Coverage of the 95% interval, 20000 replicates, AUROC 0.71 and 0.87, clustered patients: 3 draws
    96.1-96.4%, 5 draws 95.3-96.0%, 10 draws 95.1-95.5%; a sixth diseased 94.0-95.2%; `paired_auroc` 95.6%.

    >>> auroc_interval([0, 0, 1, 1], [[0.1, 0.4, 0.35, 0.8]], ["a", "b", "c", "d"]).mean
    0.75
    """
    values, freedom = auroc_by_patient(labels, scores, groups)
    if not freedom:
        return _one_patient_class(values)
    plain = crossed_interval(values, level, patient_df=freedom)
    if plain.se == 0 and plain.mean == 1:
        codes, owner = np.asarray(labels), np.asarray(groups)
        smallest = min(len(np.unique(owner[codes == k])) for k in np.unique(codes))
        low = ((1 - level) / 2) ** (1 / smallest)
        return replace(plain, low=float(low), p=np.nan, note=join_notes(plain.note, "no error seen: binomial bound"))
    if not 0 < plain.mean < 1 or plain.se == 0:
        return plain
    centre, slope = logit(plain.mean), plain.mean * (1 - plain.mean)
    half = stdtrit(plain.df, (1 + level) / 2) * plain.se / slope
    p = float(2 * stdtr(plain.df, -abs(centre) * slope / plain.se))
    return replace(plain, low=float(expit(centre - half)), high=float(expit(centre + half)), p=p)


def paired_auroc(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, groups: ArrayLike, level: float = 0.95
) -> Interval:
    """AUROC of arm a minus arm b, same draws, same cases, with its interval and p-value."""
    a, freedom_a = auroc_by_patient(labels, scores_a, groups)
    b, freedom_b = auroc_by_patient(labels, scores_b, groups)
    if a.shape != b.shape:
        raise MedsslError(f"arms have shapes {a.shape} and {b.shape}: expected the same draws and patients")
    freedom = min(freedom_a, freedom_b)
    if not freedom:
        return _one_patient_class(a - b)
    return crossed_interval(a - b, level, patient_df=freedom, bounds=(-1.0, 1.0))


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
        raise MedsslError("a score is NaN: expected a number for every test case; read the record of that cell")
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


def sign_flip_note(draws: int) -> str:
    """The smallest p-value that a sign flip over the draws can reach, as a sentence for a table's note."""
    return f"a sign flip over {draws} draws can never go below p = {smallest_p(draws):.2g}"
