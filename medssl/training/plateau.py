"""When a pretraining run has learned what it can: a patience on the watched representation, and the learning rate that goes with it.

    plateau = Plateau(patience=4, steps=3000)
    plateau.observe(value=20.1, step=150)
    plateau.rate(step)                            # 1.0 until `decay_from`, then down to 0 at `end`

A cosine schedule is only right for the length it was drawn for. So a run that may stop early keeps its rate after the warm-up
until the watched measure has not improved for `patience` checks, or until just enough steps are left, and then lowers it
linearly to 0 within a fifth of the steps so far: Hägele et al., Scaling laws and compute-optimal training beyond fixed
training durations, NeurIPS 2024 (arXiv 2405.18392), who find that such a decay over 20% of the steps equals a cosine schedule
of the same length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY_SHARE = 0.2  # steps of the falling rate, as a share of the steps before it
MIN_GAIN = 0.01  # by which a measure has to exceed its best so far, as a share of that, to count as improved


@dataclass
class Plateau:
    """The state of the stop rule; it is part of a checkpoint.

    Attributes:
        patience: Checks in a row without improvement after which the rate falls and the run ends.
        steps: Steps of the run at most.
        best: Highest value seen.
        best_step: Step at which it was seen.
        checks_without_gain: Checks since then.
        decay_from: Step from which the learning rate falls.
    """

    patience: int
    steps: int
    best: float = -math.inf
    best_step: int = 0
    checks_without_gain: int = 0
    decay_from: int = 0

    def __post_init__(self) -> None:
        self.decay_from = self.decay_from or math.ceil(self.steps / (1 + DECAY_SHARE))

    @property
    def end(self) -> int:
        """Step after which the run ends."""
        return min(self.steps, self.decay_from + max(1, round(DECAY_SHARE * self.decay_from)))

    @property
    def reached(self) -> bool:
        """Whether the measure has stopped improving."""
        return self.checks_without_gain >= self.patience

    def observe(self, value: float, step: int) -> None:
        """Note one check of the watched measure.

        Args:
            value: The measure; higher is better.
            step: Step at which it was taken.
        """
        if step >= self.decay_from:
            return  # the rate falls already, so nothing is left to decide
        if value > self.best + MIN_GAIN * abs(self.best) or not math.isfinite(self.best):
            self.best, self.best_step, self.checks_without_gain = value, step, 0
        else:
            self.checks_without_gain += 1

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of its peak, apart from the warm-up."""
        if step < self.decay_from:
            return 1.0
        return max(0.0, (self.end - step) / max(1, self.end - self.decay_from))
