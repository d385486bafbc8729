"""Self-training (Lee 2013; Xie et al., Noisy Student, 2020, arXiv 1911.04252): teachers learn from the labelled scans, and
a student from the labels and from the teachers' soft predictions on the unlabelled scans."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.evaluation.representation import evenly
from medssl.training.config import FinetuneConfig
from medssl.training.semi_supervised.base import SemiSupervised, SemiSupervisedModule, check_options, probabilities
from medssl.training.supervised import TrainingData, train_model

CHECKED_SCANS = 32  # unlabelled scans on which the teachers must predict more than one class


class SelfTraining(SemiSupervised):
    """Several teachers of different seeds, from the same start as the student; certain predictions weigh more.

    Args:
        teachers: How many; each costs a training.
        weight: Weight of the unlabelled loss.

    Example:
        >>> algorithm = SelfTraining(teachers=3)
    """

    def __init__(self, teachers: int = 2, weight: float = 1.0):
        check_options("self-training", teachers=(teachers, 1, 100), weight=(weight, 0, math.inf))
        if int(teachers) != teachers:
            raise MedsslError(f"teachers of self-training is {teachers}: expected a whole number")
        self.teachers, self.weight = int(teachers), weight
        self.trainings = 1 + self.teachers
        self.trained: list[nn.Module] = []

    def prepare(self, model: nn.Module, data: TrainingData, settings: FinetuneConfig, seed: int) -> None:
        self.trained = train_teachers(model, data, settings, seed, self.teachers)

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        weak = module.weak(unlabelled)
        soft = mean_prediction(self.trained, weak)
        logits = module.model(module.strong(weak, unlabelled))
        own = module.task.soft_loss(logits, soft, certainty(soft))
        return module.supervised_loss(labelled) + self.weight * own


def certainty(soft: Tensor) -> Tensor:
    """One minus the entropy over its maximum, 0 to 1: (B, classes, *S) probabilities -> (B, *S)."""
    entropy = -(soft * soft.clamp(min=1e-12).log()).sum(1)
    return 1 - entropy / math.log(soft.shape[1])


def mean_prediction(teachers: list[nn.Module], x: Tensor) -> Tensor:
    """The teachers' mean probabilities: (B, C, *S) -> (B, classes, *S)."""
    return torch.stack([probabilities(teacher.to(x.device), x) for teacher in teachers]).mean(0)


def train_teachers(
    model: nn.Module, data: TrainingData, settings: FinetuneConfig, seed: int, count: int
) -> list[nn.Module]:
    """Train copies of a model on the labelled scans, each with a seed of its own.

    Raises:
        MedsslError: On unlabelled scans one of them predicts one class only, so there is nothing to learn from them.
    """
    teachers = []
    for number in range(count):
        teacher: Any = copy.deepcopy(model)
        train_model(teacher, data, settings, seed + 7919 * (number + 1))
        teachers.append(teacher.eval().requires_grad_(False))
    scans = evenly(data.unlabelled, CHECKED_SCANS)  # the manifest may be in the order of the classes
    for teacher in teachers:
        predictions = data.task.predict(teacher, data.cache, scans, data.size, settings.precision)
        if len(data.task.predicted_classes(predictions)) < 2:
            raise MedsslError(
                f"a teacher predicts one class only on {len(scans)} unlabelled scans, after {len(data.training)} labelled: "
                "expected two or more; label scans of the other classes, or train for more steps"
            )
    return teachers
