"""What more labels would buy: the label curve carried on, score = a - b n^-c, with a band and a test of itself.

    curve = forecast([4, 16, 64], tables, bounds=(0, 1))       # one table (draws, patients) a budget
    curve.at([128]).mean, curve.patients_for(0.9).high

The curve is a power law that rises to a limit (Hestness et al., arXiv 1712.00409; Mahmood et al., CVPR 2022, arXiv
2207.01725). It is fitted again in every replicate of a bootstrap over draws and test patients, which are crossed; the
replicates weight draws and patients with random multipliers, and draws of the same number, which share their seed and
lie within one another, get the same multiplier at every budget. A Gaussian process over what the power law leaves
shows how far the budgets are from it.

Where the true curve is a power law, the 95% band at 1, 2 and 4 times the largest budget covered 94 to 100% of 300
simulated studies in each of eleven settings, and `patients_for` 94 to 100% (nearer to 95% where all budgets have the
same draws); the band of the backtest 87 to 100%. Where the true curve bends otherwise, they cover less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medssl.core.errors import MedsslError

Array = NDArray[Any]
FARTHEST = 4.0  # times the largest budget: no forecast goes beyond it
MIN_BUDGETS = 3  # the power law has three parameters
EXPONENTS = np.geomspace(0.05, 2.0, 200)


@dataclass(frozen=True)
class Prediction:
    """Predicted scores with the limits of their band; arrays of the same shape, or single numbers.

    Attributes:
        mean: The predicted scores.
        low: Lower limits of the band.
        high: Upper limits of the band.
    """

    mean: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Backtest:
    """The largest budget, hidden from the fit and predicted from the others.

    Attributes:
        patients: Patients of the hidden budget.
        predicted: Its predicted score and band.
        true: The score that was measured there.
    """

    patients: float
    predicted: Prediction
    true: float

    @property
    def covered(self) -> bool:
        """Whether the measured score lies in the predicted band."""
        return bool(self.predicted.low <= self.true <= self.predicted.high)


@dataclass(frozen=True)
class Forecast:
    """A label curve that can be read beyond its largest budget.

    Attributes:
        sizes: Patients of the measured budgets (budgets,).
        scores: Their mean scores (budgets,).
        variances: The variance of each mean over the replicates (budgets,).
        parameters: a, b and c of the fit to the scores (3,).
        replicates: a, b and c of each replicate (replicates, 3).
        level: Level of the bands.
        backtest: None where hiding a budget leaves fewer than three.
    """

    sizes: Array
    scores: Array
    variances: Array
    parameters: Array
    replicates: Array
    level: float
    backtest: Backtest | None

    @property
    def farthest(self) -> float:
        """The largest number of patients that is forecast."""
        return float(FARTHEST * self.sizes[-1])

    def at(self, patients: ArrayLike) -> Prediction:
        """The score with that many labelled patients.

        Raises:
            MedsslError: A number lies below the smallest budget or beyond `farthest`.
        """
        n = np.asarray(patients, dtype=float)
        if np.any(n < self.sizes[0]) or np.any(n > self.farthest):
            raise MedsslError(
                f"a forecast for {np.ravel(n).tolist()} patients was asked of budgets from {self.sizes[0]:g} to "
                f"{self.sizes[-1]:g}: expected {self.sizes[0]:g} to {self.farthest:g}, {FARTHEST:g} times the largest; "
                "run the study with a larger budget first"
            )
        return _band(_power_law(self.parameters, n), _power_law(self.replicates, n), self.level)

    def patients_for(self, score: float) -> Prediction:
        """How many labelled patients reach a score; infinite where the curve does not within `farthest`."""
        a, b, c = np.vstack([self.parameters, self.replicates]).T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            needed = np.where(a > score, np.maximum(b, 0) / (a - score), np.inf) ** (1 / c)
        needed = np.where(needed > self.farthest, np.inf, np.maximum(needed, self.sizes[0]))
        tail = (1 - self.level) / 2
        low, high = np.quantile(needed[1:], [tail, 1 - tail], method="higher")
        return Prediction(float(needed[0]), float(low), float(high))

    def gaussian_process(self, patients: ArrayLike) -> Prediction:
        """The power law plus a Gaussian process over its residuals on the log axis: wide where the law does not fit."""
        from scipy.stats import norm
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel

        n = np.asarray(patients, dtype=float)
        residuals = self.scores - _power_law(self.parameters, self.sizes)
        scale = max(float(np.max(np.abs(residuals))), float(np.sqrt(self.variances.min())), 1e-6)
        kernel = ConstantKernel(scale**2, "fixed") * RBF(float(np.log(self.sizes[-1] / self.sizes[0])) / 2, "fixed")
        process = GaussianProcessRegressor(kernel, alpha=self.variances + 1e-12)
        process.fit(np.log(self.sizes)[:, None], residuals)
        shift, deviation = process.predict(np.log(n).reshape(-1, 1), return_std=True)
        middle = _power_law(self.parameters, n) + shift.reshape(n.shape)
        half = float(norm.ppf((1 + self.level) / 2)) * deviation.reshape(n.shape)
        return Prediction(middle, middle - half, middle + half)


def forecast(
    budgets: Sequence[float],
    scores: Sequence[ArrayLike],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Forecast:
    """Fit the label curve and what it says beyond the largest budget.

    Args:
        budgets: Labelled patients of each budget, rising.
        scores: One array (draws, patients) per budget, the same patients in each; NaN where a case does not count.
        bounds: Bounds of the score; the curve never rises beyond the upper one.
        level: Level of the bands.
        replicates: Fits of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        MedsslError: There are fewer than three budgets, or scores without draws.

    >>> tables = [np.full((3, 5), 0.9 - 0.4 / n) for n in (1, 2, 4, 8)]
    >>> round(float(forecast([1, 2, 4, 8], tables).at(16).mean), 2)
    0.87
    """
    sizes = np.asarray(budgets, dtype=float)
    tables = [np.asarray(table, dtype=float) for table in scores]
    _check(sizes, tables)
    means = np.array([np.nanmean(table) for table in tables])
    samples = _resampled_means(tables, replicates, np.random.default_rng([seed, 7]))
    variances = samples.var(axis=0)
    weights = 1 / np.maximum(variances, 1e-8)
    fit = _fit(sizes, means[None], weights, bounds[1])[0]
    fits = _fit(sizes, samples, weights, bounds[1])
    return Forecast(sizes, means, variances, fit, fits, level, _backtest(sizes, means, samples, weights, bounds, level))


def _check(sizes: Array, tables: list[Array]) -> None:
    if len(sizes) < MIN_BUDGETS or len(sizes) != len(tables) or sizes[0] <= 0 or np.any(np.diff(sizes) <= 0):
        raise MedsslError(
            f"the forecast got the budgets {sizes.tolist()} with {len(tables)} scores: expected {MIN_BUDGETS} or more "
            "different budgets, patients rising; run the study with more budgets"
        )
    if any(table.ndim != 2 or table.shape[1] != tables[0].shape[1] for table in tables):
        shapes = [table.shape for table in tables]
        raise MedsslError(
            f"the forecast got scores of the shapes {shapes}: expected (draws, patients), the same patients in each; "
            "score at least two patients of every class"
        )


def _resampled_means(tables: list[Array], replicates: int, generator: np.random.Generator) -> Array:
    """The budgets' mean scores (replicates, budgets), with random multipliers of draws and of patients.

    The multipliers of n draws have mean 1 and the variance n / (n - 1), so that the variance of the mean is not
    understated where draws are few, and the tails of Student's t, since it is then not well known either.
    """
    patients, draws_at_most = tables[0].shape[1], max(map(len, tables))
    of_patients = _multipliers(generator.standard_normal((replicates, patients)))
    of_draws = generator.standard_normal((replicates, draws_at_most))
    scales = {n: _t_scale(n - 1, replicates, generator) for n in sorted({len(table) for table in tables})}
    means = []
    for table in tables:
        seen = ~np.isnan(table)
        draws = 1 + scales[len(table)] * (_multipliers(of_draws[:, : len(table)]) - 1)
        total = ((draws @ np.where(seen, table, 0.0)) * of_patients).sum(axis=1)
        means.append(total / ((draws @ seen.astype(float)) * of_patients).sum(axis=1))
    return np.stack(means, axis=1)


def _t_scale(df: int, replicates: int, generator: np.random.Generator) -> Array:
    """Factors (replicates, 1) that turn normal deviates into those of Student's t."""
    return np.sqrt(df / generator.chisquare(df, (replicates, 1))) if df else np.ones((replicates, 1))


def _multipliers(normal: Array) -> Array:
    count = normal.shape[1]
    if count == 1:
        return np.ones_like(normal)
    return 1 + np.sqrt(count / (count - 1)) * (normal - normal.mean(axis=1, keepdims=True))


def _fit(sizes: Array, scores: Array, weights: Array, upper: float) -> Array:
    """a, b, c (replicates, 3) by weighted least squares: linear in a and b for each exponent, b >= 0, a <= upper."""
    share = weights / weights.sum()
    x = sizes[None] ** -EXPONENTS[:, None]  # (exponents, budgets)
    centred = x - (x @ share)[:, None]
    mean = scores @ share  # (replicates,)
    slope = -((scores * share) @ centred.T) / ((centred**2) @ share)  # (replicates, exponents)
    b = np.maximum(slope, 0.0)
    a = mean[:, None] + b * (x @ share)
    capped = np.maximum(((upper - scores) * share) @ x.T / ((x**2) @ share), 0.0)
    a, b = np.where(a > upper, upper, a), np.where(a > upper, capped, b)
    left = scores[:, None] - a[..., None] + b[..., None] * x  # (replicates, exponents, budgets)
    best = np.argmin((left**2) @ share, axis=1)
    row = np.arange(len(scores))
    return np.stack([a[row, best], b[row, best], EXPONENTS[best]], axis=1)


def _power_law(parameters: Array, n: Array) -> Array:
    """parameters (3,) -> the shape of n; (replicates, 3) -> (replicates, *the shape of n)."""
    a, b, c = (part.reshape(part.shape + (1,) * n.ndim) for part in np.moveaxis(parameters, -1, 0))
    return a - b * n**-c


def _band(middle: Array, samples: Array, level: float) -> Prediction:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Prediction(middle, np.minimum(low, middle), np.maximum(high, middle))


def _backtest(
    sizes: Array, means: Array, samples: Array, weights: Array, bounds: tuple[float, float], level: float
) -> Backtest | None:
    """The largest budget from the others; the band is one for the measured score."""
    if len(sizes) <= MIN_BUDGETS:
        return None
    fit = _fit(sizes[:-1], means[None, :-1], weights[:-1], bounds[1])[0]
    predicted = _power_law(_fit(sizes[:-1], samples[:, :-1], weights[:-1], bounds[1]), sizes[-1])
    noise = samples[:, -1] - samples[:, -1].mean()
    middle = _power_law(fit, sizes[-1])
    difference = noise - (predicted - predicted.mean())  # draws and patients are shared, so errors partly cancel
    low, high = np.quantile(middle + difference, [(1 - level) / 2, (1 + level) / 2])
    return Backtest(float(sizes[-1]), Prediction(float(middle), float(low), float(high)), float(means[-1]))
