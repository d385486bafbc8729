"""Shared by methods with a teacher: a slowly moving average of the student that no gradient reaches.

The teacher moves once after each optimiser step, also where gradients are accumulated over several batches. It is part of
the checkpoint. lightly moves it (`update_momentum`) and gives the schedule (`cosine_schedule`).

Two deviations that all of these methods share. Momentum: 0.996 to 0.999 in the papers, for a hundred thousand steps and
more; after a thousand steps such a teacher is still half the random encoder that it began as, so the default is 0.99 (the
best in BYOL's own ablation, table 5a). Batch norm: both views pass together, see `two_views.py`, and statistics are
synchronised between devices, so that MoCo's shuffling is not needed.
"""

from __future__ import annotations

import copy

import torch
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.two_views import TwoViews, in_chunks


class StudentTeacher(TwoViews):
    """A student (encoder and head) and its teacher; subclasses call `make_teacher` once they have set `head`.

    Args:
        momentum: Share of itself that the teacher keeps at the first step; a half cosine leads to `last_momentum` at the last.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.

    Raises:
        MedsslError: `momentum` is not a share from 0 to 1.
    """

    stop_gradient = ("teacher",)
    last_momentum = 1.0

    def __init__(self, encoder: Encoder, momentum: float = 0.99, chunk: int = 0):
        super().__init__(encoder, chunk)
        if not 0 <= momentum <= 1:
            raise MedsslError(f"momentum is {momentum}: expected a share from 0 to 1, for example 0.99")
        self.momentum = momentum

    def make_teacher(self) -> None:
        self.teacher = copy.deepcopy(nn.Sequential(self.encoder, self.head))
        deactivate_requires_grad(self.teacher)

    @torch.no_grad()
    def targets(self, *views: Tensor) -> Tensor:
        """Views (B, C, *S) -> the teacher's projections (len(views) * B, D), in one pass."""
        return self.teacher[1](in_chunks(self.teacher[0], torch.cat(views), self.chunk))

    @property
    def momentum_now(self) -> float:
        steps = self.progress.total_steps
        return cosine_schedule(min(self.progress.step, steps), steps, self.momentum, self.last_momentum)

    def after_step(self) -> None:
        update_momentum(nn.Sequential(self.encoder, self.head), self.teacher, self.momentum_now)

    def monitored_values(self) -> dict[str, float]:
        return {"momentum": self.momentum_now}
