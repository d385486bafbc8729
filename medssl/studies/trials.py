"""Trials: in each cell every arm tries the same number of settings, on the cell's own labelled patients alone.

    tried = try_settings(settings_to_try(recipe, pretrained=True, count=4, seed=0), folds, score)
    best(tried).settings

The settings are a seeded sample of a small grid around the recipe, the recipe first: learning rate (each in turn), the
encoder's share of it, and length. The share means nothing for an encoder that is not pretrained or stays frozen; such an arm tries rates in
between instead, so that no arm has more trials. The lengths are the same in every arm, and so is the compute.

A setting's score is that of a cross-validation grouped by patient, in which no patient outside of the budget takes part: the
mean over the folds of the score by which a checkpoint is chosen too. Folds need patients; a budget with few takes the
recipe, which was fixed beforehand on other data (`configs/LOG.md`). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from medssl.core.errors import Diverged, MedsslError
from medssl.training.config import FinetuneConfig

FOLDS = 3
MIN_PATIENTS = 10  # of a budget: below, a fold has three or fewer, whose score is mostly chance
RATES = (1.0, 3.0, 1 / 3)  # times the recipe's learning rate
SHARES = (1.0, 0.3, 0.1)  # times the encoder's share of it
RATES_BETWEEN = (1.0, 3 ** (1 / 3), 3 ** (-1 / 3))  # in place of SHARES: with RATES, nine different rates
LENGTHS = (1.0, 2.0, 0.5)  # times the steps
MOST = len(RATES) * len(SHARES) * len(LENGTHS)
Folds = list[set[str]]
Score = Callable[[FinetuneConfig, set[str]], float]  # settings, patients held out -> score, NaN where there is none


@dataclass(frozen=True)
class Trial:
    """One setting with its score; NaN where the training diverged or no fold has a score."""

    settings: FinetuneConfig
    score: float

    def to_record(self) -> dict[str, Any]:
        """What the settings of trials differ in, and the score, as a cell's record keeps them."""
        names = ("lr", "encoder_share", "steps")
        return {name: getattr(self.settings, name) for name in names} | {"score": self.score}


def check_count(count: int) -> None:
    """Raise MedsslError where a study cannot have this number of trials.

    Args:
        count: Of `--trials`; 0 for the recipe alone.
    """
    if count != 0 and not 2 <= count <= MOST:
        raise MedsslError(f"trials is {count}: expected 0 for the fixed recipe, or 2 to {MOST}")


def settings_to_try(recipe: FinetuneConfig, pretrained: bool, count: int, seed: int) -> list[FinetuneConfig]:
    """The settings of the trials of one arm, the recipe first.

    Args:
        recipe: The arm's settings, with the steps of the cell.
        pretrained: Whether the arm starts from a pretrained encoder.
        count: How many.
        seed: Seed of the sample of the grid.

    >>> [round(each.lr, 5) for each in settings_to_try(FinetuneConfig(), True, 4, 0)]
    [0.001, 0.003, 0.00033, 0.001]
    """
    return [_around(recipe, pretrained, *place) for place in _grid(seed)[:count]]


def _grid(seed: int) -> list[tuple[float, int, float]]:
    """Rate, level of the share and length of every trial: the recipe, then the rates in turn, so that few trials try each."""
    generator, others = np.random.default_rng([seed, 5]), list(product(range(len(SHARES)), LENGTHS))
    of_rate = [[(rate, *others[number]) for number in generator.permutation(len(others))] for rate in RATES]
    recipe = (RATES[0], 0, LENGTHS[0])
    of_rate[0].remove(recipe)
    of_rate[0].append(recipe)  # it is first, so that its rate comes last in each turn
    ordered = [place for turn in zip(*of_rate[1:], of_rate[0]) for place in turn]
    return [recipe, *(place for place in ordered if place != recipe)]


def _around(recipe: FinetuneConfig, pretrained: bool, rate: float, level: int, length: float) -> FinetuneConfig:
    uses_share = pretrained and recipe.encoder_share > 0
    lr = recipe.lr * rate * (1.0 if uses_share else RATES_BETWEEN[level])
    share = recipe.encoder_share * (SHARES[level] if uses_share else 1.0)
    return replace(recipe, lr=lr, encoder_share=share, steps=max(1, round(recipe.steps * length)))


def folds_of(seen: Mapping[str, Iterable[int]], seed: int) -> Folds:
    """The patients dealt into folds, each class or structure in proportion.

    Args:
        seen: Patient of the budget -> the classes or structures labelled in them.
        seed: Seed of the deal.
    """
    patients = sorted(seen)
    shuffled = [patients[number] for number in np.random.default_rng([seed, 6]).permutation(len(patients))]
    dealt = sorted(shuffled, key=lambda patient: tuple(sorted(seen[patient])))
    return [set(dealt[start::FOLDS]) for start in range(FOLDS)]


def why_no_trials(seen: Mapping[str, Iterable[int]], seed: int) -> str:
    """Why a budget takes the recipe; empty where trials are possible.

    Args:
        seen: Patient of the budget -> the classes or structures labelled in them.
        seed: Seed of the folds.
    """
    if len(seen) < MIN_PATIENTS:
        return f"{len(seen)} labelled patients, and trials need {MIN_PATIENTS}"
    classes = {code for codes in seen.values() for code in codes}
    if any({code for patient in fold for code in seen[patient]} != classes for fold in folds_of(seen, seed)):
        return f"a fold of {FOLDS} would have no patient of some class"
    return ""


def try_settings(settings: Sequence[FinetuneConfig], folds: Folds, score: Score) -> list[Trial]:
    """Score every setting by cross-validation.

    Args:
        settings: As from `settings_to_try`.
        folds: As from `folds_of`.
        score: Trains with settings on all patients of the folds but those held out, and scores these.
    """
    return [Trial(each, _mean([_score_or_nan(score, each, held_out) for held_out in folds])) for each in settings]


def _score_or_nan(score: Score, settings: FinetuneConfig, held_out: set[str]) -> float:
    try:
        return score(settings, held_out)
    except Diverged:
        return float("nan")


def _mean(scores: Sequence[float]) -> float:
    """NaN where a fold has no score: a mean over other folds cannot be compared."""
    return float(np.mean(scores))


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score, the earlier of equal ones; the recipe, which is first, where none has a score.

    Args:
        trials: As from `try_settings`.
    """
    return max(trials, key=lambda trial: trial.score if np.isfinite(trial.score) else float("-inf"))


def samples_in_trials(settings: Sequence[FinetuneConfig], trainings: int = 1) -> int:
    """How many labelled samples the trials of a cell pass, over all folds.

    Args:
        settings: As from `settings_to_try`.
        trainings: How many trainings of its settings' length the arm is made of.
    """
    return FOLDS * trainings * sum(each.samples for each in settings)
