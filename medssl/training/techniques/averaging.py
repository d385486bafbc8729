"""A moving average of a model's weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv 1703.01780).

average = Average(model, decay=0.99)
average.update(model)          # after every optimiser step
average.model                  # predicts as the mean of the last hundred steps or so
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """Weights and running statistics of a model, averaged over its steps.

    Args:
        model: The model; its present state is the first average.
        decay: Share of the old average that is kept at each step (EMA decay). The first steps keep less, (1 + t) / (10 + t), so that
            a short training is not dominated by its start.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.steps = copy.deepcopy(model).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present state."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for own, new in zip(self.model.state_dict().values(), model.state_dict().values()):
            if own.is_floating_point():
                own.lerp_(new.to(own.device), 1 - keep)
            else:
                own.copy_(new)
