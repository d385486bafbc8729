"""The probe that a cell of mode `chosen` takes: label propagation or a linear probe, chosen within the labelled patients.

    choose({"p1": [0], "p2": [1], ...}, seed=0, score=lambda probe, held_out: ...)     # ("linear", {"propagation": 0.97, ...})

Labels that spread over features gain where few are labelled and do harm where many are. A cross-validation grouped by patient tells
which is the case from some tens of patients on; with fewer its folds are mostly chance, and propagation is taken. The least
number of patients was set on validation patients (`configs/LOG.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from medssl.studies.arms import Mode
from medssl.studies.trials import folds_of, why_no_trials

CANDIDATES: tuple[Mode, Mode] = ("propagation", "linear")  # the first is taken where there is nothing to choose by
MIN_PATIENTS = 30


def choose(
    seen: Mapping[str, Iterable[int]], seed: int, score: Callable[[Mode, set[str]], float]
) -> tuple[Mode, dict[Mode, float]]:
    """Return the mode of the probe, and the score of each candidate; no scores where propagation is taken without a choice.

    Args:
        seen: Patient of the budget -> the classes labelled in them.
        seed: Seed of the folds.
        score: Mode of a probe, and the patients held out -> its score on them; higher is better.
    """
    if len(seen) < MIN_PATIENTS or why_no_trials(seen, seed):
        return CANDIDATES[0], {}
    folds = folds_of(seen, seed)
    scores = {probe: float(np.mean([score(probe, held_out) for held_out in folds])) for probe in CANDIDATES}
    return max(scores, key=lambda probe: scores[probe]), scores
