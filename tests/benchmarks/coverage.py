"""How often the intervals cover, and how often p-values fall below their level where nothing differs.

    python tests/benchmarks/coverage.py            # about 10 minutes on one core
    python tests/benchmarks/coverage.py --quick
    python tests/benchmarks/coverage.py --only runs     # or draws, auroc, curves

Everything is simulated with the shipped code. A study has draws x test patients with normal effects; AUROC comes from
binormal scores of which seven tenths are the case's own; Dice of 33 patients loses its structure in some draws. The last
line is JSON: for each goal the worst number over the settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from scipy.stats import norm

from medssl.evaluation.intervals import auroc_interval, crossed_interval, holm
from medssl.evaluation.label_curves import area_under_label_curve, labels_saved
from medssl.evaluation.variance import fit_components, run_means, spread_of
from tests.evaluation.simulation import crossed, in_runs

SEED = 20
LEVELS = (0.05, 0.01, 0.001)


def p_values(draws: int, patients: int, deviations: tuple[float, float, float], count: int) -> np.ndarray:
    """p-values (count,) of a mean that is zero."""
    generator, values = np.random.default_rng(SEED), []
    for _ in range(count):
        values.append(_p_value(crossed(generator, draws, patients, deviations)))
    return np.array(values)


def type_one_errors(count: int, quick: bool) -> Iterator[tuple[str, list[float]]]:
    """Per setting the shares of p-values below each level, in percent."""
    deviations = [(0.0, 0.5, 1.0), (0.1, 0.5, 1.0), (0.3, 0.5, 1.0), (1.0, 0.5, 1.0), (0.3, 2.0, 1.0)]
    for draws, patients, spread in product((2, 3, 5, 10), (60,) if quick else (20, 60, 200), deviations):
        p = p_values(draws, patients, spread, count)
        yield f"{draws} draws, {patients} patients, {spread}", [100 * float(np.mean(p < level)) for level in LEVELS]


RUN_EFFECTS = (  # deviations of the run, the run on a patient, the draw, the patient, the rest
    (0.01, 0.0, 0.0, 0.05, 0.03),
    (0.01, 0.0, 0.01, 0.05, 0.03),
    (0.01, 0.0, 0.03, 0.05, 0.03),
    (0.01, 0.02, 0.005, 0.02, 0.02),
    (0.0, 0.0, 0.01, 0.05, 0.03),
)


def over_pretraining_runs(count: int, quick: bool) -> Iterator[tuple[str, list[float], list[float]]]:
    """Ten draws over several pretraining runs: shares of p-values below each level, and those of a test that ignores runs."""
    for number, patients, effects in product((2, 3, 5, 10), (60,) if quick else (20, 60, 200), RUN_EFFECTS):
        generator, behind, values = np.random.default_rng(SEED), np.arange(10) % number, []
        for _ in range(count):
            scores = crossed(generator, 10, patients, effects[2:])
            scores = scores + in_runs(generator, number, patients, effects[:2])[behind]
            values.append([_p_value(run_means(scores, behind)), _p_value(scores)])
        below = 100 * np.mean(np.array(values)[..., None] < LEVELS, axis=0)
        yield f"{number} runs, {patients} patients, {effects}", *below.tolist()


def _p_value(scores: np.ndarray) -> float:
    fit = fit_components(scores)
    assert fit is not None
    return spread_of([fit], None).p_value(float(scores.mean()))


def family_wise_error(count: int) -> float:
    """Percent of studies in which Holm's correction over five comparisons finds a difference; three draws."""
    p = np.stack([p_values(3, 200, (0.3, 0.5, 1.0), 5 * count)]).reshape(count, 5)
    return 100 * float(np.mean([holm(row).min() < 0.05 for row in p]))


def auroc_coverage(draws: int, sick: int, healthy: int, truth: float, deviation: float, count: int) -> float:
    """Percent of intervals that hold the AUROC."""
    generator, held = np.random.default_rng(SEED), 0
    labels = np.r_[np.ones(sick, int), np.zeros(healthy, int)]
    distance = float(norm.ppf(truth)) * np.sqrt(2 + deviation**2)
    for _ in range(count):
        own = np.sqrt(0.7) * generator.standard_normal(len(labels))
        skill = distance + deviation * generator.standard_normal((draws, 1))
        scores = own + np.sqrt(0.3) * generator.standard_normal((draws, len(labels))) + skill * labels
        interval = auroc_interval(labels, scores, np.arange(len(labels)))
        held += interval.low <= truth <= interval.high
    return 100 * held / count


def auroc_settings(quick: bool) -> Iterator[tuple[int, int, int, float, float]]:
    sizes = [(5, 50), (23, 200)] if quick else [(5, 50), (10, 10), (23, 23), (23, 200), (100, 100), (500, 500)]
    draws, truths = ((10,), (0.976,)) if quick else ((3, 5, 10), (0.6, 0.8, 0.9, 0.976, 0.995))
    for count, (sick, healthy), truth, deviation in product(draws, sizes, truths, (0.1, 0.4)):
        yield count, sick, healthy, truth, deviation


def rare_failures(rate: float, count: int) -> tuple[float, float]:
    """Percent of intervals that hold the mean of ten draws of Dice, and of studies that show a lost structure."""
    generator, held, shown = np.random.default_rng(SEED), 0, 0
    truth = 0.8 * (1 - rate)
    for _ in range(count):
        scores = 0.8 + crossed(generator, 10, 33, (0.01, 0.05, 0.03))
        lost = generator.random(10) < rate
        scores[lost] = 0.0
        interval = crossed_interval(scores, bounds=(0, 1))
        held += interval.low <= truth <= interval.high
        shown += lost.any()
    return 100 * held / count, 100 * shown / count


def curve_tables(generator: np.random.Generator) -> list[np.ndarray]:
    """Scores (10 draws, 60 patients) at 1, 10 and 100 patients, whose means are 0.5, 0.7 and 0.9, and of another arm at 0.7."""
    seed, patients = 0.03 * generator.standard_normal((10, 1)), 0.1 * generator.standard_normal(60)
    return [m + seed + patients + crossed(generator, 10, 60, (0.02, 0.05, 0.05)) for m in (0.5, 0.7, 0.9, 0.7)]


def saved_coverage(count: int) -> float:
    """Percent of intervals that hold the labels saved, which are 10 patients."""
    generator, held = np.random.default_rng(SEED), 0
    for _ in range(count):
        *tables, other = curve_tables(generator)
        found = labels_saved([1, 10, 100], tables, other, points=2)
        held += found.low <= 10 <= found.high
    return 100 * held / count


def area_coverage(count: int) -> float:
    """Percent of intervals that hold the area under the label curve, which is 0.7."""
    generator, held = np.random.default_rng(SEED), 0
    for _ in range(count):
        interval = area_under_label_curve([1, 10, 100], curve_tables(generator)[:3])
        held += interval.low <= 0.7 <= interval.high
    return 100 * held / count


def _percents(shares: list[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares) + "%"


Figures = dict[str, float]  # what the last line of the output says


def show_draws(count: int, quick: bool) -> Figures:
    """Prints how often p-values over draws fall below each level; returns the largest shares."""
    worst = [0.0] * len(LEVELS)
    for name, shares in type_one_errors(count, quick):
        print(f"p below 5, 1, 0.1%: {name}: {_percents(shares)}", flush=True)
        worst = [max(pair) for pair in zip(worst, shares)]
    family = family_wise_error(count // 5)
    print(f"five comparisons of three draws, Holm at 5%: {family:.1f}%", flush=True)
    return {f"p_{level:g}_percent": round(share, 2) for level, share in zip(LEVELS, worst)} | {
        "holm_percent": round(family, 1)
    }


def show_runs(count: int, quick: bool) -> Figures:
    """Prints the same over pretraining runs."""
    worst = [0.0] * len(LEVELS)
    for name, shares, ignored in over_pretraining_runs(count, quick):
        as_one = f"as if draws were independent {_percents(ignored)}"
        print(f"p below 5, 1, 0.1%: {name}: {_percents(shares)}; {as_one}", flush=True)
        worst = [max(pair) for pair in zip(worst, shares)]
    return {f"runs_p_{level:g}_percent": round(share, 2) for level, share in zip(LEVELS, worst)}


def show_auroc(count: int, quick: bool) -> Figures:
    """Prints how often intervals of AUROC cover; returns the least and the most."""
    covered = {}
    for setting in auroc_settings(quick):
        covered[setting] = auroc_coverage(*setting, count)
        shown = "AUROC: {} draws, {} + {} patients, {}, draw deviation {}".format(*setting)
        print(f"{shown}: {covered[setting]:.1f}%", flush=True)
    least, most = min(covered.values()), max(covered.values())
    return {"auroc_least_percent": round(least, 1), "auroc_most_percent": round(most, 1)}


def show_curves(count: int, quick: bool) -> Figures:
    """Prints how often intervals of Dice with lost structures, and of label curves, cover."""
    for rate in (0.1, 0.3):
        held, shown = rare_failures(rate, count)
        noted = f"a lost structure is noted in {shown:.1f}%"
        print(f"Dice, {rate:.0%} of draws lose the structure: covers {held:.1f}%; {noted}", flush=True)
    saved, area = saved_coverage(count // 4), area_coverage(4 * count)
    print(f"labels saved {saved:.1f}%, area under the label curve {area:.1f}%")
    return {}


PARTS: dict[str, Callable[[int, bool], Figures]] = {
    "draws": show_draws,
    "runs": show_runs,
    "auroc": show_auroc,
    "curves": show_curves,
}
OF_INTERVALS = ("auroc", "curves")
GOALS = {"p_0.05": 5.5, "p_0.01": 1.3, "p_0.001": 0.2, "holm": 5.5, "auroc_least": 93.0, "auroc_most": 97.0}  # percent


def _goal(name: str) -> float:
    return GOALS[name.removeprefix("runs_").removesuffix("_percent")]


def _met(name: str, value: float) -> bool:
    return value >= _goal(name) if "least" in name else value <= _goal(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer settings and replicates, within a minute")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts of it")
    given = parser.parse_args()
    of_p, of_intervals = (500, 100) if given.quick else (10000, 400)
    print(f"seed {SEED}, {of_p} replicates for p-values, {of_intervals} for intervals; deviations: draw, patient, rest")
    ratios: Figures = {}
    for part in given.only:
        ratios |= PARTS[part](of_intervals if part in OF_INTERVALS else of_p, given.quick)
    goals = {name: _goal(name) for name in ratios}
    met = all(_met(name, value) for name, value in ratios.items())
    print(json.dumps({"ratios": ratios, "goals": goals, "met": met}))


if __name__ == "__main__":
    main()
