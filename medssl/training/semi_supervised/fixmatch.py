"""FixMatch (Sohn et al. 2020, arXiv 2001.07685): a confident prediction on weak changes is the label after strong ones.

In segmentation every voxel is a sample of its own, as in UniMatch (Yang et al. 2023, arXiv 2208.09910).
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medssl.training.semi_supervised.base import SemiSupervised, SemiSupervisedModule, check_options, ramp_up


class FixMatch(SemiSupervised):
    """Supervised loss plus the cross-entropy with the model's own confident predictions.

    Args:
        threshold: Probability from which a prediction is a label. The paper has 0.95, for thousands of times the steps.
        weight: Weight of the unlabelled loss.

    Example:
        >>> algorithm = FixMatch(threshold=0.9)
    """

    def __init__(self, threshold: float = 0.9, weight: float = 1.0):
        check_options("fixmatch", threshold=(threshold, 0, 1), weight=(weight, 0, math.inf))
        self.threshold, self.weight = threshold, weight

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        weak = module.weak(unlabelled)
        guessed = module.guess(weak)
        logits = module.model(module.strong(weak, unlabelled))
        own = confident_cross_entropy(logits, guessed, self.threshold)
        return module.supervised_loss(labelled) + self.weight * ramp_up(module.progress) * own


def confident_cross_entropy(logits: Tensor, guessed: Tensor, threshold: float) -> Tensor:
    """The cross-entropy with the most likely class where it is likely enough, over all places: (B, classes, *S) each."""
    confidence, label = guessed.max(1)
    return (F.cross_entropy(logits, label, reduction="none") * (confidence >= threshold)).mean()
