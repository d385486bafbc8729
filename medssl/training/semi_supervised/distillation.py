"""Distillation (Hinton et al. 2015, arXiv 1503.02531; Chen et al., SimCLRv2, 2020, arXiv 2006.10029, equation 3): a student
learns the teacher's probabilities on unlabelled scans, softened by a temperature, beside the labels."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from medssl.training.config import FinetuneConfig
from medssl.training.semi_supervised.base import SemiSupervised, SemiSupervisedModule, check_options
from medssl.training.semi_supervised.self_training import train_teachers
from medssl.training.supervised import TrainingData


class Distillation(SemiSupervised):
    """One teacher, trained on the labelled scans; or a fine-tuned model of any network, given as `teacher`.

    Args:
        temperature: Divides the logits of both.
        share: Share of the loss that is distillation; the rest is supervised.

    Example:
        >>> algorithm = Distillation(temperature=1.0)
    """

    trainings = 2

    def __init__(self, temperature: float = 1.0, share: float = 0.5):
        check_options("distillation", temperature=(temperature, 1e-3, math.inf), share=(share, 0, 1))
        self.temperature, self.share = temperature, share
        self.teacher: nn.Module | None = None

    def prepare(self, model: nn.Module, data: TrainingData, settings: FinetuneConfig, seed: int) -> None:
        if self.teacher is None:
            (self.teacher,) = train_teachers(model, data, settings, seed, 1)

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        assert self.teacher is not None, "prepare() made one"
        weak = module.weak(unlabelled)
        target = self.teacher.to(weak.device)(weak).detach()
        logits = module.model(module.strong(weak, unlabelled))
        own = softened_cross_entropy(logits, target, self.temperature)
        return (1 - self.share) * module.supervised_loss(labelled) + self.share * own


def softened_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """-sum p_teacher log p_student, both at the temperature, averaged: (B, classes, *S) each."""
    soft = (teacher_logits / temperature).softmax(1)
    return -(soft * (logits / temperature).log_softmax(1)).sum(1).mean()
