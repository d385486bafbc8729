"""Bidirectional copy-paste with a mean teacher (Bai et al. 2023, arXiv 2305.00673): a box of a labelled crop is pasted into
an unlabelled one and the reverse, and the label of the unlabelled part is the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.training.losses import soft_cross_entropy, soft_dice
from medssl.training.semi_supervised.base import (
    SemiSupervised,
    SemiSupervisedModule,
    check_options,
    probabilities,
    ramp_up,
)
from medssl.views.random import derive_keys, uniform


class CopyPaste(SemiSupervised):
    """Supervised loss plus Dice and cross-entropy of the two mixtures.

    Args:
        edge: Edge of the box as a share of the crop's; the paper has 2/3.
        weight: Weight of the unlabelled part of a mixture after it has risen, beside 1 for the labelled part.

    Example:
        >>> algorithm = CopyPaste(weight=0.5)
    """

    tasks = ("segmentation",)
    needs_average = True

    def __init__(self, edge: float = 2 / 3, weight: float = 0.5):
        check_options("copy-paste", edge=(edge, 0, 1), weight=(weight, 0, math.inf))
        self.edge, self.weight = edge, weight

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        params = module.view.draw(derive_keys(labelled["key"], 0))
        x, target = module.task.inputs(module.view, params, labelled)
        weak = module.weak(unlabelled)
        guessed = probabilities(module.teacher, weak).argmax(1, keepdim=True).to(target)
        strong = module.strong(weak, unlabelled)
        inside = boxes(labelled["key"], x.shape[2:], self.edge).to(x.device)
        rise = self.weight * ramp_up(module.progress)
        pasted_in = module.model(torch.where(inside, x, strong))
        pasted_out = module.model(torch.where(inside, strong, x))
        loss_in = mixture_loss(pasted_in, torch.where(inside, target, guessed), inside, rise)
        loss_out = mixture_loss(pasted_out, torch.where(inside, guessed, target), ~inside, rise)
        return module.task.loss(module.model(x), target) + loss_in + loss_out


def boxes(keys: Tensor, size: Sequence[int], edge: float) -> Tensor:
    """(B, 1, *size) bool: a box in each crop, anywhere, whose edges are `edge` of the crop's."""
    places = uniform(derive_keys(keys, 40), len(size))
    inside = torch.ones(len(keys), 1, *size, dtype=torch.bool)
    for axis, length in enumerate(size):
        wide = math.ceil(edge * length)
        start = (places[:, axis] * (length - wide + 1)).long()
        position = torch.arange(length)
        within = (position >= start[:, None]) & (position < start[:, None] + wide)
        inside &= within.view(-1, 1, *[length if i == axis else 1 for i in range(len(size))])
    return inside


def mixture_loss(logits: Tensor, target: Tensor, labelled: Tensor, weight: float) -> Tensor:
    """Half of Dice and cross-entropy each, of the labelled part plus `weight` times the other part.

    Args:
        logits: (B, classes, *S).
        target: Class numbers (B, 1, *S).
        labelled: Where the target is a reader's (B, 1, *S).
        weight: Of the part that is the teacher's.
    """
    numbers = target[:, 0].long()
    one_hot = F.one_hot(numbers, logits.shape[1]).movedim(-1, 1).to(logits)
    shares, parts = logits.softmax(1), []
    for part in (labelled[:, 0].to(logits), (~labelled[:, 0]).to(logits)):
        cross_entropy = soft_cross_entropy(logits, one_hot, part) * part.numel() / part.sum().clamp(min=1)
        parts.append((soft_dice(shares, one_hot, part) + cross_entropy) / 2)
    return parts[0] + weight * parts[1]
