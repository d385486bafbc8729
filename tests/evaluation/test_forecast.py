"""The label curve carried on: it finds a known curve, covers what it promises, and refuses what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation.forecast import forecast
from tests.evaluation.simulation import crossed

SIZES, DRAWS = [2, 8, 32, 128], (10, 10, 5, 3)


def truth(n):
    return 0.9 - 0.5 * np.asarray(n, float) ** -0.6


def measured(generator, curve=truth):
    patients = 0.08 * generator.standard_normal(40)
    return [curve(n) + patients + crossed(generator, d, 40, (0.04, 0.0, 0.05)) for n, d in zip(SIZES, DRAWS)]


def exact(curve=truth):
    return [np.full((3, 5), curve(n)) for n in SIZES]


def test_a_power_law_without_noise_is_carried_on_exactly():
    computed = forecast(SIZES, exact())
    assert computed.at([256, 512]).mean == pytest.approx(truth([256, 512]), abs=1e-3)
    assert computed.patients_for(float(truth(300))).mean == pytest.approx(300, rel=0.1)
    assert computed.backtest is not None
    assert computed.backtest.predicted.mean == pytest.approx(truth(128), abs=2e-3)


@pytest.mark.long
def test_coverage_of_the_band_and_of_the_patients_needed():
    hits = np.zeros(4)
    for seed in range(200):
        computed = forecast(SIZES, measured(np.random.default_rng(seed)), replicates=400)
        for k, factor in enumerate((1, 2, 4)):
            band = computed.at(factor * 128)
            hits[k] += band.low <= truth(factor * 128) <= band.high
        needed = computed.patients_for(float(truth(256)))
        hits[3] += needed.low <= 256 <= needed.high
    assert np.all(hits / 200 >= 0.93), hits / 200  # conservative where budgets differ in draws
    assert np.all(hits / 200 <= 0.995), hits / 200


def test_the_curve_stays_within_the_score_and_never_falls():
    rising = forecast(SIZES, exact(lambda n: 1.0 - 0.1 * np.asarray(n, float) ** -0.3))
    assert np.all(rising.at([128, 256, 512]).high <= 1)
    falling = forecast(SIZES, exact(lambda n: 0.7 - 0.01 * np.log(n)))
    assert np.ptp(falling.at([2, 128, 512]).mean) == pytest.approx(0, abs=1e-9)


def test_the_backtest_shows_where_the_law_does_not_hold():
    def jump(n):
        return 0.6 if n < 100 else 0.9

    computed = forecast(SIZES, measured(np.random.default_rng(0), jump))
    assert computed.backtest is not None
    assert not computed.backtest.covered
    wide, law = computed.gaussian_process([512.0]), computed.at([512.0])
    assert wide.high[0] - wide.low[0] > law.high[0] - law.low[0]


def test_missing_cases_are_left_out():
    tables = measured(np.random.default_rng(1))
    tables[0][:, :4] = np.nan
    assert np.isfinite(forecast(SIZES, tables).at(256).low)


def test_no_forecast_from_two_budgets_or_beyond_four_times_the_data():
    with pytest.raises(MedsslError, match="3 or more"):
        forecast(SIZES[:2], exact()[:2])
    with pytest.raises(MedsslError, match="at least two patients"):
        forecast(SIZES, [np.array(0.5)] * 4)
    computed = forecast(SIZES, exact())
    with pytest.raises(MedsslError, match="2 to 512"):
        computed.at(513)
    assert computed.patients_for(0.95).mean == np.inf
    assert forecast(SIZES[:3], exact()[:3]).backtest is None
