"""MixMatch (Berthelot et al. 2019, arXiv 1905.02249): sharpened guesses for unlabelled images, and everything mixed."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.training.semi_supervised.base import SemiSupervised, SemiSupervisedModule, check_options, ramp_up
from medssl.views.random import derive_keys, uniform


class MixMatch(SemiSupervised):
    """Cross-entropy of mixed labelled images plus the squared error of mixed unlabelled ones.

    Args:
        temperature: Of the sharpening; below 1.
        alpha: Of the beta distribution that the shares are drawn from.
        weight: Weight of the unlabelled loss after it has risen; the paper has 75 and more, for long trainings.

    Example:
        >>> algorithm = MixMatch(temperature=0.5)
    """

    tasks = ("classification",)

    def __init__(self, temperature: float = 0.5, alpha: float = 0.75, weight: float = 10.0):
        above = 1e-3
        check_options(
            "mixmatch",
            temperature=(temperature, above, 1),
            alpha=(alpha, above, math.inf),
            weight=(weight, 0, math.inf),
        )
        self.temperature, self.alpha, self.weight = temperature, alpha, weight

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        params = module.view.draw(derive_keys(labelled["key"], 0))
        x, target = module.task.inputs(module.view, params, labelled)
        views = [module.weak(unlabelled, k) for k in range(2)]
        guessed = sharpen(torch.stack([module.guess(view) for view in views]).mean(0), self.temperature)
        inputs = torch.cat([x, *views])
        targets = torch.cat([F.one_hot(target, module.task.outputs).to(guessed), guessed, guessed])
        keys = derive_keys(torch.cat([labelled["key"], unlabelled["key"], derive_keys(unlabelled["key"], 31)]), 30)
        share = mixing_shares(keys, self.alpha).to(inputs)
        order = uniform(derive_keys(keys, 2), 1)[:, 0].argsort().to(inputs.device)
        logits = module.model(mix(inputs, inputs[order], share))
        mixed = mix(targets, targets[order], share)
        count = len(x)
        rise = self.weight * ramp_up(module.progress)
        return mixmatch_loss(logits[:count], mixed[:count], logits[count:], mixed[count:], rise)


def sharpen(guessed: Tensor, temperature: float) -> Tensor:
    """(B, classes) probabilities to the power of 1 / temperature, so that they sum to 1 again."""
    powers = guessed ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def mixing_shares(keys: Tensor, alpha: float) -> Tensor:
    """(B,) shares max(l, 1 - l) of l from a beta distribution of `alpha` twice, decided by the keys alone (Jöhnk 1964)."""
    tries = uniform(keys, 64).double() ** (1 / alpha)
    first, second = tries[:, :32], tries[:, 32:]
    accepted = (first + second <= 1).float().argmax(1, keepdim=True)
    first, second = first.gather(1, accepted), second.gather(1, accepted)
    share = (first / (first + second).clamp(min=1e-12))[:, 0]
    return torch.maximum(share, 1 - share).float()


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """`share` (B,) of a and the rest of b, of the same shape (B, ...)."""
    share = share.view(-1, *[1] * (a.ndim - 1))
    return share * a + (1 - share) * b


def mixmatch_loss(logits: Tensor, target: Tensor, unlabelled: Tensor, guessed: Tensor, weight: float) -> Tensor:
    """Cross-entropy of the labelled plus `weight` times the mean squared error of the unlabelled; (B, classes) each."""
    labelled_loss = -(target * logits.log_softmax(1)).sum(1).mean()
    return labelled_loss + weight * (unlabelled.softmax(1) - guessed).square().mean()
