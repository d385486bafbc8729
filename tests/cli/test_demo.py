"""What the demo shows is no accident of its cohort."""

import pytest

from tests.benchmarks.demo_sign import SEEDS, gain


@pytest.mark.slow
def test_the_demos_gain_has_the_same_sign_in_other_cohorts() -> None:
    gains = [gain(seed) for seed in list(SEEDS)[:5]]
    assert sum(value > 0 for value in gains) >= 4, gains
