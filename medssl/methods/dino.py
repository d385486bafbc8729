"""DINO: from small crops of a scan, say what a slowly moving teacher says of large ones.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv 2104.14294).

    medssl pretrain --data CACHE --method DINO --method.local_views 4

The run keeps the teacher's encoder, as the authors do: it is better than the student's throughout their training. Left
out: the rising weight decay of the paper (0.04 to 0.4); `--weight-decay` is what all methods of a comparison share.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.utils.scheduler import linear_warmup_schedule
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrizations

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.teacher import StudentTeacher
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View


class DINO(StudentTeacher):
    """prototypes: what student and teacher choose from (65,536 in the paper, for 1.3 million images).

    local_views: small crops beside the two large ones (8 in the paper; 4 leave the time of a step at about the half).
    local_share: their edge as a share of the crop's (96 / 224), rounded to what the encoder takes.
    momentum: of the teacher at first (0.996 in the paper, see `teacher.py`), rising to 1.
    teacher_temperature: rises from 0.04 to this over the first tenth of the steps. centre_momentum: of the mean that is
    taken from the teacher's logits, which with the temperature keeps it from collapsing. frozen: share of the steps in
    which the prototypes stay as they are (the first of 100 epochs).
    hidden, bottleneck: widths of the head (2048 and 256 in the paper).
    """

    head: DINOProjectionHead

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
        super().__init__(encoder, momentum, chunk)
        if local_views < 0 or not 0 < local_share < 1:
            raise MedsslError(
                f"local_views is {local_views}, local_share is {local_share}: expected 0 or more, and a share between 0 and 1"
            )
        self.prototypes, self.local_views, self.local_share = prototypes, local_views, local_share
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.centre_momentum, self.frozen, self.hidden, self.bottleneck = centre_momentum, frozen, hidden, bottleneck
        self.head = dino_head(encoder.out_dim, hidden, bottleneck, prototypes)
        self.make_teacher()
        self.dino = DINOLoss(prototypes, student_temp=student_temperature, center_momentum=centre_momentum)

    @property
    def kept(self) -> Encoder:
        encoder: Any = self.teacher[0]
        return encoder

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return recipes.multi_crop(data_spec, size, self.local_size(size), self.local_views)

    def local_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The small crops': a multiple of the encoder's stride; two at least where a norm needs more than one voxel."""
        least = 2 if any(isinstance(m, _InstanceNorm) for m in self.encoder.modules()) else 1
        strides = self.encoder.strides[-1]
        return tuple(min(n, max(least, round(self.local_share * n / s)) * s) for n, s in zip(size, strides))

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
        said = list(self.targets(*large).chunk(2))
        answers = [part for views in (large, small) if views for part in self.project(*views).chunk(len(views))]
        return self.dino(said, answers, teacher_temp=self.temperature_now)

    @property
    def temperature_now(self) -> float:
        """The teacher's."""
        warmup = max(1, self.optimise["steps"] // 10)
        return linear_warmup_schedule(
            self.global_step, warmup, min(0.04, self.teacher_temperature), self.teacher_temperature
        )

    def watch(self) -> dict[str, float]:
        centre = float(self.dino.center.square().mean().sqrt())
        return super().watch() | {"teacher_temperature": self.temperature_now, "centre": centre}

    def on_train_start(self) -> None:
        parts = (
            self.trainer.accumulate_grad_batches
        )  # the centre moves with every batch: in parts, a step's worth a step
        self.dino.center_momentum = self.centre_momentum ** (1 / parts)
        self.head.freeze_last_layer = round(self.frozen * self.optimise["steps"])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.head.cancel_last_layer_gradients(self.global_step)


def dino_head(features: int, hidden: int, bottleneck: int, prototypes: int) -> DINOProjectionHead:
    """lightly's head with the weight norm of its last layer in a form that can be copied, to a teacher or for a trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old form
        head = DINOProjectionHead(features, hidden, bottleneck, prototypes)
    layer = parametrizations.weight_norm(nn.utils.remove_weight_norm(head.last_layer))
    layer.parametrizations.weight.original0.requires_grad_(False)  # length 1, as the authors' norm_last_layer
    head.last_layer = layer
    return head
