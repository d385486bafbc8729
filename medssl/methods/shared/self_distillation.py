"""Shared by DINO and iBOT: a student learns which prototypes its teacher chooses, by way of the same head.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv 2104.14294). The schedules are
DINO's, and iBOT takes them over: the teacher's temperature rises over the first tenth of the steps, and the prototypes
do not change in the first hundredth.
"""

from __future__ import annotations

import warnings
from typing import Any

from lightly.models.modules import DINOProjectionHead
from lightly.utils.scheduler import linear_warmup_schedule
from torch import nn
from torch.nn.utils import parametrizations

from medssl.encoders.base import Encoder
from medssl.methods.shared.teacher import StudentTeacher

FIRST_TEMPERATURE = 0.04  # of the teacher, at the first step


class SelfDistillation(StudentTeacher):
    """A student and a teacher that both choose among prototypes; fine-tuning takes the teacher's encoder.

    Args:
        prototypes: How many there are to choose from.
        hidden: Width of the head's hidden layers.
        bottleneck: Width of the head's last layer before the prototypes.
        teacher_temperature: Reached after the first tenth of the steps.
        centre_momentum: Share of itself that the centre of the teacher's logits keeps at a step.
        frozen: Share of the steps in which the prototypes do not change.
        momentum: Of the teacher at the first step, see `StudentTeacher`.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.
    """

    head: DINOProjectionHead

    def __init__(
        self,
        encoder: Encoder,
        prototypes: int,
        hidden: int,
        bottleneck: int,
        teacher_temperature: float,
        centre_momentum: float,
        frozen: float,
        momentum: float,
        chunk: int = 0,
    ):
        super().__init__(encoder, momentum, chunk)
        self.prototypes, self.bottleneck, self.frozen = prototypes, bottleneck, frozen
        self.teacher_temperature, self.centre_momentum = teacher_temperature, centre_momentum
        self.head = prototype_head(encoder.out_dim, hidden, bottleneck, prototypes)
        self.make_teacher()

    @property
    def final_encoder(self) -> Encoder:
        encoder: Any = self.teacher[0]
        return encoder

    @property
    def temperature_now(self) -> float:
        """The teacher's temperature at this step."""
        warmup = max(1, self.progress.total_steps // 10)
        first = min(FIRST_TEMPERATURE, self.teacher_temperature)
        return linear_warmup_schedule(self.progress.step, warmup, first, self.teacher_temperature)

    @property
    def centre_momentum_now(self) -> float:
        """The centre moves with every batch: where a step accumulates several, all of them together move it once."""
        return self.centre_momentum ** (1 / self.progress.batches_per_step)

    def before_step(self) -> None:
        self.head.freeze_last_layer = round(self.frozen * self.progress.total_steps)
        self.head.cancel_last_layer_gradients(self.progress.step)

    def monitored_values(self) -> dict[str, float]:
        return super().monitored_values() | {"teacher_temperature": self.temperature_now}


def prototype_head(features: int, hidden: int, bottleneck: int, prototypes: int) -> DINOProjectionHead:
    """lightly's head, its last layer's weight norm in the form that `copy.deepcopy` can copy.

    Args:
        features: Length of the encoder's vector.
        hidden: Width of the hidden layers.
        bottleneck: Width of the last layer before the prototypes.
        prototypes: How many there are to choose from.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old form
        head = DINOProjectionHead(features, hidden, bottleneck, prototypes)
    layer = parametrizations.weight_norm(nn.utils.remove_weight_norm(head.last_layer))
    layer.parametrizations.weight.original0.requires_grad_(False)  # length 1, as the authors' norm_last_layer
    head.last_layer = layer
    return head
