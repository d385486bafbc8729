"""The intervals cover what they promise, on simulated studies; the rest agrees with independent references.

COVERAGE=20000 .venv/bin/pytest tests/evaluation -k coverage -s      # the numbers in the docstrings
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from medssl.core.errors import MedsslError
from medssl.evaluation import intervals as stats
from medssl.evaluation.metrics import auroc
from tests.evaluation.simulation import coverage, crossed, in_runs

# ------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize("patients", [20, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("draws", [3, pytest.param(5, marks=pytest.mark.slow), 10])
@pytest.mark.parametrize("deviations", [(0.1, 1, 0.5), (0.3, 1, 0.5), (1, 1, 0.5), (0.3, 1, 1)])
@pytest.mark.long
def test_coverage_crossed(draws, patients, deviations):
    def interval(generator):
        result = stats.crossed_interval(crossed(generator, draws, patients, deviations))
        return result.low, result.high

    assert (
        93.5
        <= coverage(0, interval, f"{draws} draws, {patients} patients, {deviations}")
        <= (99.5 if draws < 5 else 98)
    )


@pytest.mark.long
def test_coverage_crossed_with_missing_cells():
    def interval(generator):
        scores = crossed(generator, 5, 30, (0.3, 1, 0.7))
        scores[generator.random(scores.shape) < 0.2] = np.nan
        result = stats.crossed_interval(scores)
        return result.low, result.high

    assert 93 <= coverage(0, interval, "5 draws, 30 patients, a fifth missing") <= 98


@pytest.mark.long
def test_coverage_of_patients_alone_falls_short():
    """The interval most papers print: a bootstrap over test patients of the mean over draws."""

    def naive(generator):
        by_patient = crossed(generator, 5, 60, (0.5, 1, 0.5)).mean(axis=0)
        resampled = by_patient[generator.integers(0, 60, (500, 60))].mean(axis=1)
        return tuple(np.quantile(resampled, [0.025, 0.975]))

    assert coverage(0, naive, "bootstrap over patients alone") < 80


def test_small_p_values_hold_with_few_draws():
    """p below 1% and 0.1% come as often where nothing differs, also where draws differ more than patients."""
    generator, p = np.random.default_rng(0), []
    for _ in range(4000):
        scores = crossed(generator, 3, 60, (0.6, 0.5, 1))
        fit = stats.fit_components(scores)
        assert fit is not None
        p.append(stats.spread_of([fit], None).p_value(scores.mean()))
    assert np.mean(np.array(p) < 0.05) < 0.06
    assert np.mean(np.array(p) < 0.01) < 0.016
    assert np.mean(np.array(p) < 0.001) < 0.003  # 1.1% with Satterthwaite's degrees of freedom


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_p_values_hold_over_pretraining_runs_and_do_not_where_runs_are_ignored(runs):
    """No difference, ten draws over a few runs with a deviation of 0.01: p as if draws were independent is far too small."""
    generator, behind, nested, ignored = np.random.default_rng(0), np.arange(10) % runs, [], []
    for _ in range(1500):
        scores = crossed(generator, 10, 60, (0.005, 0.02, 0.02)) + in_runs(generator, runs, 60, (0.01, 0.02))[behind]
        for values, table in ((nested, stats.run_means(scores, behind)), (ignored, scores)):
            fit = stats.fit_components(table)
            assert fit is not None
            values.append(stats.spread_of([fit], None).p_value(table.mean()))
    assert np.mean(np.array(nested) < 0.05) < 0.065
    assert np.mean(np.array(nested) < 0.01) < 0.018
    assert np.mean(np.array(ignored) < 0.05) > 0.08


def test_an_interval_over_pretraining_runs_is_that_of_their_means():
    scores = crossed(np.random.default_rng(3), 6, 9, (1, 1, 0.3))
    result = stats.crossed_interval(scores, pretraining_runs=["b", "a"] * 3)
    expected = stats.crossed_interval([scores[1::2].mean(axis=0), scores[::2].mean(axis=0)])
    assert (result.low, result.high, result.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert (result.draws, "two pretraining runs" in result.note) == (6, True)
    assert stats.crossed_interval(scores, pretraining_runs=["a"] * 6) == stats.crossed_interval(scores)
    assert stats.crossed_interval(scores, pretraining_runs=list("fbeacd")).p == pytest.approx(
        stats.crossed_interval(scores).p
    )


def test_a_case_that_counts_in_no_draw_of_a_run_stays_missing():
    scores = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, 4.0]])
    np.testing.assert_array_equal(stats.run_means(scores, [0, 0, 1]), [[2.0, np.nan], [2.0, 4.0]])


def test_auroc_over_pretraining_runs():
    """Runs that differ much widen the interval and the paired comparison; runs of one draw each change nothing."""
    labels, scores, groups = roc_study(np.random.default_rng(2), 6, 60, 1.0, 0.0)
    behind = np.arange(6) % 3
    shifted = scores + labels * np.array([-0.5, 0.0, 0.5])[behind][:, None]
    nested = stats.auroc_interval(labels, shifted, groups, pretraining_runs=behind)
    ignored = stats.auroc_interval(labels, shifted, groups)
    assert nested.mean == pytest.approx(ignored.mean)
    assert nested.high - nested.low > 1.2 * (ignored.high - ignored.low)
    assert stats.auroc_interval(labels, shifted, groups, pretraining_runs=range(6)) == ignored
    paired = [stats.paired_auroc(labels, shifted, scores, groups, pretraining_runs=each) for each in (behind, None)]
    assert paired[0].high - paired[0].low > 1.2 * (paired[1].high - paired[1].low)


def test_many_draws_give_students_t():
    """Where only draws differ, the pivotal quantity is Student's t with draws - 1 degrees of freedom."""
    scores = np.random.default_rng(1).standard_normal((6, 1)) + 1e-9 * np.random.default_rng(2).standard_normal((6, 50))
    result = stats.crossed_interval(scores)
    reference = scipy_stats.ttest_1samp(scores.mean(axis=1), 0)
    assert result.p == pytest.approx(reference.pvalue, rel=1e-3)
    interval = reference.confidence_interval()
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-3)


def roc_study(generator, draws, patients, distance, draw_deviation, rare=False):
    """Labels, scores (draws, cases), patients: some have two cases, of one class or both; draws differ.

    Half of the patients have the disease, or a sixth of them.
    """
    groups = np.concatenate([np.arange(patients), np.arange(patients // 2)])
    sick = np.arange(patients) % (6 if rare else 2) == 1
    labels = np.concatenate([sick, sick[: patients // 2] & (np.arange(patients // 2) % 4 < 2)]).astype(int)
    own = 0.6 * generator.standard_normal(patients)[groups] + 0.6 * generator.standard_normal(len(labels))
    skill = distance + draw_deviation * generator.standard_normal((draws, 1))
    return labels, own + skill * labels + 0.5 * generator.standard_normal((draws, len(labels))), groups


@lru_cache
def true_auroc(patients: int, distance: float, deviation: float, rare: bool) -> float:
    """The expected AUROC of a draw, over many draws and patients."""
    generator = np.random.default_rng(1)
    studies = (roc_study(generator, 20, patients, distance, deviation, rare) for _ in range(400))
    return float(np.mean([stats.auroc_by_patient(*study)[0].mean() for study in studies]))


@pytest.mark.parametrize(("distance", "deviation"), [(0.8, 0.1), pytest.param(1.6, 0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("draws", "patients", "rare"),
    [
        pytest.param(3, 60, False, marks=pytest.mark.slow),
        pytest.param(5, 40, False, marks=pytest.mark.slow),
        (10, 60, False),
        pytest.param(5, 60, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_coverage_auroc(draws, patients, rare, distance, deviation):
    truth = true_auroc(patients, distance, deviation, rare)

    def interval(generator):
        result = stats.auroc_interval(*roc_study(generator, draws, patients, distance, deviation, rare))
        return result.low, result.high

    name = f"AUROC {truth:.3f}, {draws} draws, {patients} patients, draw deviation {deviation}, rare {rare}"
    assert 93 <= coverage(truth, interval, name) <= 99


@pytest.mark.slow
def test_coverage_paired_auroc():
    """Two arms with the same case effects and their own draw effects: the true difference is zero."""

    def interval(generator):
        labels, a, groups = roc_study(generator, 5, 60, 1.0, 0.2)
        b = a + labels * 0.2 * generator.standard_normal((5, 1)) + 0.5 * generator.standard_normal(a.shape)
        a = a + labels * 0.2 * generator.standard_normal((5, 1)) + 0.5 * generator.standard_normal(a.shape)
        result = stats.paired_auroc(labels, a, b, groups)
        return result.low, result.high

    assert 93 <= coverage(0, interval, "paired AUROC, 5 draws, 60 patients") <= 98


# ---------------------------------------------------------------------------------- notes and errors ----


def test_one_draw_says_that_only_patients_vary():
    result = stats.crossed_interval([[0.1, 0.4, 0.2, 0.3]])
    reference = scipy_stats.t.interval(0.95, 3, 0.25, np.std([0.1, 0.4, 0.2, 0.3], ddof=1) / 2)
    assert (result.low, result.high) == pytest.approx(reference)
    assert "one draw" in result.note
    assert np.isnan(result.p)


@pytest.mark.parametrize("scores", [[[0.5], [0.7]], [[0.5, np.nan], [0.7, np.nan]], np.full((3, 4), np.nan)])
def test_fewer_than_two_patients_give_no_interval(scores):
    result = stats.crossed_interval(scores)
    assert np.isnan([result.low, result.high, result.p]).all()
    assert "no interval" in result.note


def test_equal_arms_differ_by_nothing():
    result = stats.crossed_interval(np.zeros((3, 8)))
    assert (result.low, result.high, result.p) == (0, 0, 1)
    assert "do not vary" in result.note


def test_interval_stays_within_the_scores_bounds():
    scores = [[0.98, 0.9, 0.99], [0.99, 0.6, 0.98]]
    assert stats.crossed_interval(scores).high > 1
    assert stats.crossed_interval(scores, bounds=(0, 1)).high == 1


def test_variance_components_are_those_of_the_textbook():
    """Mean squares by the sums of Searle's table against the least-squares ones, without missing cells."""
    scores = crossed(np.random.default_rng(3), 4, 9, (1, 1, 0.3))
    draw_square = 9 * np.var(scores.mean(axis=1), ddof=1)
    patient_square = 4 * np.var(scores.mean(axis=0), ddof=1)
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    rest_square = (rest**2).sum() / (3 * 8)
    expected = (draw_square + patient_square - rest_square) / 36
    assert stats.crossed_interval(scores).se ** 2 == pytest.approx(expected)


def test_missing_patient_is_as_if_it_had_not_been_there():
    scores = crossed(np.random.default_rng(3), 4, 9, (1, 1, 0.3))
    with_hole = np.insert(scores, 4, np.nan, axis=1)
    assert stats.crossed_interval(with_hole) == stats.crossed_interval(scores)


@pytest.mark.slow
def test_missing_cells_give_unbiased_components():
    """Over many data sets the squared standard error is the variance of the mean that it estimates."""
    generator, means, squares = np.random.default_rng(0), [], []
    missing = generator.random((5, 12)) < 0.3
    for _ in range(4000):
        scores = crossed(generator, 5, 12, (1, 1, 1))
        result = stats.crossed_interval(np.where(missing, np.nan, scores))
        means.append(result.mean)
        squares.append(result.se**2)
    assert np.mean(squares) == pytest.approx(np.var(means), rel=0.07)


def test_draws_without_a_common_patient_give_no_interval():
    hole = np.nan
    result = stats.crossed_interval([[1, 2, hole, hole], [hole, hole, 3, 4.5]])
    assert "share too few patients" in result.note


def test_patient_means_average_a_patients_scans():
    table, patients = stats.patient_means([[1, 3, 5, np.nan], [2, np.nan, 6, np.nan]], ["a", "a", "b", "c"])
    assert patients.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(table, [[2, 5, np.nan], [2, 6, np.nan]])


# ---------------------------------------------------------------------------------------------------- AUROC


def test_auroc_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    scores = np.round(generator.dirichlet([1, 1, 1], 60), 2) + np.eye(3)[labels] * 0.2  # with ties
    scores /= scores.sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert auroc(labels, scores) == pytest.approx(expected)
    values, _ = stats.auroc_by_patient(labels, np.stack([scores, scores[::-1]]), np.arange(60) // 2)
    reverse = roc_auc_score(labels, scores[::-1], multi_class="ovr", average="macro")
    assert values.mean(axis=1) == pytest.approx([expected, reverse])


def obuchowski_variance(labels, scores, groups) -> float:
    """Obuchowski 1997, equations 1 to 4, by plain loops; DeLong 1988 where every case is its own patient."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)

    def beats(i: int, j: int) -> float:
        return float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j])

    of_positive = {i: np.mean([beats(i, j) for j in negative]) for i in positive}
    of_negative = {j: np.mean([beats(i, j) for i in positive]) for j in negative}
    area = np.mean(list(of_positive.values()))
    patients = np.unique(groups)
    above = {p: sum(of_positive[i] - area for i in positive if groups[i] == p) for p in patients}
    below = {p: sum(of_negative[j] - area for j in negative if groups[j] == p) for p in patients}
    with_positive, with_negative = len(set(groups[positive])), len(set(groups[negative]))
    m, n = len(positive), len(negative)
    s10 = with_positive / ((with_positive - 1) * m) * sum(v**2 for v in above.values())
    s01 = with_negative / ((with_negative - 1) * n) * sum(v**2 for v in below.values())
    s11 = len(patients) / (len(patients) - 1) * sum(above[p] * below[p] for p in patients)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize(("clustered", "tolerance"), [(False, 1e-9), (True, 0.01)])
def test_variance_of_one_draw_is_delongs_and_obuchowskis(clustered, tolerance):
    generator = np.random.default_rng(5)
    labels = (np.arange(60) % 3 == 0).astype(int)
    scores = np.round(generator.standard_normal(60) + labels, 1)
    groups = np.arange(60) // 2 if clustered else np.arange(60)
    interval = stats.auroc_interval(labels, scores[None], groups)
    assert interval.se**2 == pytest.approx(obuchowski_variance(labels, scores, groups), rel=tolerance)


def test_degrees_of_freedom_follow_the_rare_class():
    """Satterthwaite's over DeLong's two components, each with its class's patients less one."""
    labels = np.r_[np.ones(5, int), np.zeros(95, int)]
    scores = np.random.default_rng(0).standard_normal(100) + labels
    beats = scores[:5, None] > scores[None, 5:]
    parts = np.var(beats.mean(axis=1), ddof=1) / 5, np.var(beats.mean(axis=0), ddof=1) / 95
    expected = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 94)
    assert stats.auroc_by_patient(labels, scores[None], np.arange(100))[1] == pytest.approx(expected)
    assert expected < 12


@pytest.mark.parametrize(("sick", "healthy"), [(5, 50), (23, 200)])
@pytest.mark.long
def test_coverage_of_auroc_near_one(sick, healthy):
    """AUROC 0.976 from few patients: Wald's interval on the logit scale covers 82 to 92%, all misses on one side."""
    labels, deviation = np.r_[np.ones(sick, int), np.zeros(healthy, int)], np.sqrt(2 * (0.7 + 0.3) + 0.3**2)
    distance, held, generator = scipy_stats.norm.ppf(0.976) * deviation, 0, np.random.default_rng(0)
    for _ in range(300):
        own = np.sqrt(0.7) * generator.standard_normal(sick + healthy)
        skill = distance + 0.3 * generator.standard_normal((10, 1))
        scores = own + np.sqrt(0.3) * generator.standard_normal((10, sick + healthy)) + skill * labels
        interval = stats.auroc_interval(labels, scores, np.arange(sick + healthy))
        held += interval.low <= 0.976 <= interval.high
    assert held / 300 >= 0.93


def test_class_without_a_case_is_named():
    with pytest.raises(MedsslError, match="leave out class \\[1\\]"):
        auroc([0, 0, 0], [0.1, 0.2, 0.3])
    with pytest.raises(MedsslError, match="2: 0 of 3"):
        stats.auroc_interval([0, 1, 1], np.ones((2, 3, 3)), ["a", "b", "c"])


def test_perfect_scores_do_not_get_an_interval_without_width():
    result = stats.auroc_interval([0] * 8 + [1] * 8, np.tile(np.arange(16.0), (3, 1)), np.arange(16))
    assert result.mean == result.high == 1
    assert result.low == pytest.approx(0.025 ** (1 / 8))
    assert "no error seen" in result.note


def test_one_patient_with_the_disease_gives_no_interval():
    labels = np.array([1, 1, 0, 0, 0])
    result = stats.auroc_interval(labels, labels + np.zeros((2, 5)), ["a", "a", "b", "c", "d"])
    assert result.mean == 1
    assert np.isnan(result.low)


def test_paired_auroc_is_the_difference_and_narrower_than_unpaired():
    labels, scores, groups = roc_study(np.random.default_rng(2), 5, 60, 1.0, 0.2)
    other = scores + 0.2 * np.random.default_rng(3).standard_normal(scores.shape)
    paired = stats.paired_auroc(labels, scores, other, groups)
    alone = stats.auroc_interval(labels, scores, groups), stats.auroc_interval(labels, other, groups)
    assert paired.mean == pytest.approx(alone[0].mean - alone[1].mean)
    assert paired.se < np.hypot(alone[0].se, alone[1].se) / 2


# ----------------------------------------------------------------------------------------------- several tests


def test_holm_on_the_textbook_example():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.02, np.nan, 0.6, 0.9]), [0.06, np.nan, 1, 1])


def test_sign_flip_over_five_draws():
    assert stats.smallest_p(5) == 0.0625
    assert stats.sign_flip_note(5) == "a sign flip over 5 draws can never go below p = 0.062"
