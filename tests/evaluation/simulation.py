"""Simulated studies, and how often an interval holds the truth in them.

COVERAGE=20000 .venv/bin/pytest tests/evaluation -k coverage -s      # the numbers in the docstrings
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

REPLICATES = int(os.environ.get("COVERAGE", "2000"))


def coverage(truth: float, draw: Callable[[np.random.Generator], tuple[float, float]], name: str) -> float:
    """The share of simulated studies whose interval (low, high) holds the truth, in percent."""
    generator = np.random.default_rng(20)
    held = 0
    for _ in range(REPLICATES):
        low, high = draw(generator)
        held += low <= truth <= high
    percent = 100 * held / REPLICATES
    print(f"{name}: {percent:.1f}%")
    return percent


def in_runs(generator: np.random.Generator, runs: int, patients: int, deviations: tuple[float, float]):
    """Effects (runs, patients) of pretraining runs: of each run, and of each run on each patient, with these deviations."""
    run, on_patient = deviations
    return run * generator.standard_normal((runs, 1)) + on_patient * generator.standard_normal((runs, patients))


def crossed(generator: np.random.Generator, draws: int, patients: int, deviations: tuple[float, float, float]):
    """Scores (draws, patients) of mean 0 with these deviations of draws, patients and the rest."""
    draw, patient, rest = deviations
    return (
        draw * generator.standard_normal((draws, 1))
        + patient * generator.standard_normal(patients)
        + rest * generator.standard_normal((draws, patients))
    )
