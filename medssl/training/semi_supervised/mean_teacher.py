"""Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780): the student agrees with the average of its own weights."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from medssl.training.semi_supervised.base import (
    SemiSupervised,
    SemiSupervisedModule,
    check_options,
    probabilities,
    ramp_up,
)


class MeanTeacher(SemiSupervised):
    """Supervised loss plus the squared difference of the two predictions, of an unlabelled crop.

    The teacher is the average of the weights that `FinetuneConfig.averaging` keeps.

    Args:
        weight: Weight of the difference after it has risen, over the first 40% of the steps.

    Example:
        >>> algorithm = MeanTeacher(weight=10.0)
    """

    needs_average = True

    def __init__(self, weight: float = 10.0):
        check_options("mean-teacher", weight=(weight, 0, math.inf))
        self.weight = weight

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        weak = module.weak(unlabelled)
        logits = module.model(module.strong(weak, unlabelled))
        agreement = consistency(logits, probabilities(module.teacher, weak))
        return module.supervised_loss(labelled) + self.weight * ramp_up(module.progress) * agreement


def consistency(logits: Tensor, target: Tensor) -> Tensor:
    """The mean squared difference of probabilities: logits and target (B, classes, *S) -> a number."""
    return (logits.softmax(1) - target).square().mean()
