"""Losses that tasks and semi-supervised algorithms share.

soft_cross_entropy(logits, probabilities, weight) + soft_dice(logits.softmax(1), probabilities, weight)
"""

from __future__ import annotations

from torch import Tensor

SMOOTH = 1e-5  # as in MONAI: an absent structure that is not predicted has a Dice of 1


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The cross-entropy with class probabilities, each place with its weight, over the number of places.

    Args:
        logits: (B, classes, *S).
        target: Probabilities of the same shape.
        weight: (B, *S).
    """
    return -(weight * (target * logits.log_softmax(1)).sum(1)).mean()


def soft_dice(shares: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """One minus the Dice of the structures, over the batch as one scan; class 0, the background, does not count.

    Args:
        shares: Predicted probabilities (B, classes, *S).
        target: Probabilities of the same shape.
        weight: Of each place (B, *S).
    """
    axes = [0, *range(2, shares.ndim)]
    overlap = (weight[:, None] * shares * target).sum(axes)[1:]
    sizes = (weight[:, None] * (shares + target)).sum(axes)[1:]
    return 1 - ((2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()
