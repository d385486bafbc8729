"""DINO: from small crops of a scan, predict which prototypes a slowly moving teacher chooses for large ones.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv 2104.14294).

    medssl pretrain --data CACHE --method DINO --method.local_views 4

The run saves the teacher's encoder, as the authors do: it is better than the student's throughout their training. Left
out: the rising weight decay of the paper (0.04 to 0.4); `--weight-decay` is the same for all methods of a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightly.loss import DINOLoss
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.self_distillation import SelfDistillation
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View


class DINO(SelfDistillation):
    """Two large views and several small ones; the student sees all of them, the teacher the large ones.

    Args:
        prototypes: What student and teacher choose from (65,536 in the paper, for 1.3 million images).
        local_views: Small crops beside the two large ones (8 in the paper; 4 take about half the time of a step).
        local_share: Edge of a small crop as a share of the large crop's (96 / 224), rounded to what the encoder takes.
        momentum: Of the teacher at the first step (0.996 in the paper, see `shared/teacher.py`), rising to 1.
        teacher_temperature: Reached after the first tenth of the steps, from 0.04.
        student_temperature: Of the student's softmax.
        centre_momentum: Of the mean that is subtracted from the teacher's logits; with the temperature it prevents
            collapse.
        frozen: Share of the steps in which the prototypes do not change (the first of 100 epochs).
        hidden: Width of the head's hidden layers (2048 in the paper).
        bottleneck: Width of the head's last layer before the prototypes (256 in the paper).
        chunk: Samples that pass the encoder at a time, see `TwoViews`.
    """

    def __init__(
        self,
        encoder: Encoder,
        prototypes: int = 1024,
        local_views: int = 4,
        local_share: float = 0.43,
        momentum: float = 0.99,
        teacher_temperature: float = 0.07,
        student_temperature: float = 0.1,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        hidden: int = 512,
        bottleneck: int = 256,
        chunk: int = 0,
    ):
        super().__init__(
            encoder, prototypes, hidden, bottleneck, teacher_temperature, centre_momentum, frozen, momentum, chunk
        )
        if local_views < 0 or not 0 < local_share < 1:
            raise MedsslError(
                f"local_views is {local_views}, local_share is {local_share}: expected 0 or more, and a share between 0 and 1"
            )
        self.local_views, self.local_share, self.hidden = local_views, local_share, hidden
        self.student_temperature = student_temperature
        self.dino = DINOLoss(prototypes, student_temp=student_temperature, center_momentum=centre_momentum)

    @classmethod
    def examples(cls) -> tuple[dict[str, Any], ...]:
        return ({}, {"local_views": 0})

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return recipes.multi_crop(data_spec, size, self.local_size(size), self.local_views)

    def local_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The size of a small crop: a multiple of the encoder's stride, of two at least if it has instance norms."""
        fewest = 2 if any(isinstance(m, _InstanceNorm) for m in self.encoder.modules()) else 1
        strides = self.encoder.strides[-1]
        return tuple(min(n, max(fewest, round(self.local_share * n / s)) * s) for n, s in zip(size, strides))

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if self.local_views and self.local_size(crop) == tuple(crop):
            raise MedsslError(
                f"the crop {tuple(crop)} is too small for DINO's local views: expected a multiple of the encoder's stride "
                f"{self.encoder.strides[-1]} that is smaller; pass a larger --crop, or --method.local_views 0"
            )
        self.encoder.check_size(self.local_size(crop))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        large, small = batch["views"][:2], batch["views"][2:]
        targets = list(self.targets(*large).chunk(2))
        predictions = [part for views in (large, small) if views for part in self.project(*views).chunk(len(views))]
        self.dino.center_momentum = self.centre_momentum_now
        return self.dino(targets, predictions, teacher_temp=self.temperature_now)

    def monitored_values(self) -> dict[str, float]:
        return super().monitored_values() | {"centre": float(self.dino.center.square().mean().sqrt())}
