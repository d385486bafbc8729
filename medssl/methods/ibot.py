"""iBOT: a teacher that sees the whole scan says what each hidden patch is, and what the scan is.

Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022 (arXiv 2111.07832); the patch loss as in
DINOv2 (Oquab et al. 2023, arXiv 2304.07193).

    medssl pretrain --data CACHE --encoder ViT --method IBOT --crop 48 48 48

DINO's loss between two large views, the student's with compact regions hidden, and the same loss patch by patch where the
student saw nothing; student and teacher share one head over both, as in the paper. The run keeps the teacher's encoder.
Deviations: no small crops, which DINO has; in every view the same share is hidden, where the paper draws 0.1 to 0.5 and
leaves half of the views whole; the mean of the patches stands in for a class token; patches of air or padding do not
count. Settings not explained here are DINO's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss
from lightly.models.modules import DINOProjectionHead
from lightly.utils.scheduler import linear_warmup_schedule
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder, TokenEncoder
from medssl.encoders.vit import to_patches
from medssl.methods.dino import dino_head
from medssl.methods.shared.patches import check_hides, with_tokens
from medssl.methods.shared.teacher import StudentTeacher
from medssl.views.masking import patch_mask
from medssl.views.random import derive_keys


class IBOT(StudentTeacher):
    """mask_ratio: share of the patches hidden from the student. patch_weight: of the loss of patches against DINO's (1)."""

    encoder: TokenEncoder
    head: DINOProjectionHead

    def __init__(
        self,
        encoder: Encoder,
        mask_ratio: float = 0.3,
        patch_weight: float = 1.0,
        prototypes: int = 1024,
        momentum: float = 0.99,
        teacher_temperature: float = 0.07,
        student_temperature: float = 0.1,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        hidden_width: int = 512,
        bottleneck: int = 256,
    ):
        super().__init__(with_tokens(encoder, "IBOT"), momentum)
        if not 0 < mask_ratio < 1 or patch_weight < 0:
            raise MedsslError(
                f"mask_ratio is {mask_ratio}, patch_weight {patch_weight}: expected a share between 0 and 1, and 0 or more"
            )
        self.mask_ratio, self.patch_weight, self.prototypes = mask_ratio, patch_weight, prototypes
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.centre_momentum, self.frozen = centre_momentum, frozen
        self.hidden_width, self.bottleneck = hidden_width, bottleneck
        self.head = dino_head(encoder.out_dim, hidden_width, bottleneck, prototypes)
        self.make_teacher()
        self.patch = encoder.strides[-1]
        self.hidden = nn.Parameter(torch.zeros(1, encoder.in_channels, *self.patch))  # its embedding is a mask token
        self.dino = DINOLoss(prototypes, student_temp=student_temperature, center_momentum=centre_momentum)
        self.ibot = IBOTPatchLoss(prototypes, student_temp=student_temperature, center_momentum=centre_momentum)

    @property
    def kept(self) -> Encoder:
        encoder: Any = self.teacher[0]
        return encoder

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, mask = torch.cat(batch["views"]), self.mask_of(batch)
        counted = self.counted(mask, torch.cat(batch["valid_views"]))
        said, said_of_patches = self.answers(self.teacher, x, counted)
        answered, of_patches = self.answers(nn.Sequential(self.encoder, self.head), self.covered(x, mask), counted)
        now = self.temperature_now
        loss = self.dino(list(said.chunk(2)), list(answered.chunk(2)), teacher_temp=now)
        if self.patch_weight and counted.any():
            patches = self.ibot(said_of_patches, of_patches, counted[:, None], teacher_temp=now)
            loss = loss + self.patch_weight * patches
        return loss

    def answers(self, pair: nn.Sequential, x: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder and head on (2B, C, *S) -> logits of each view (2B, K), and of its counted patches (M, K)."""
        encoder: Any = pair[0]
        tokens = encoder.tokens(x)
        both = pair[1](torch.cat([tokens.mean(1), tokens[counted]]))
        return both[: len(x)], both[len(x) :]

    def mask_of(self, batch: dict[str, Any]) -> Tensor:
        """(2B, 1, *S), 1 where hidden from the student: compact regions, other ones in each view."""
        size = batch["views"][0].shape[2:]
        keys = torch.cat([derive_keys(batch["key"], 501 + i) for i in range(2)])
        return patch_mask(keys, size, self.patch, self.mask_ratio, "block")

    def counted(self, mask: Tensor, body: Tensor) -> Tensor:
        """(2B, N) bool: hidden patches of which half or more is body."""
        return (to_patches(mask, self.patch).mean(2) > 0) & (to_patches(body, self.patch).mean(2) >= 0.5)

    def covered(self, x: Tensor, mask: Tensor) -> Tensor:
        """The views with the learned patch in place of what is hidden."""
        grid = self.encoder.grid(x.shape[2:])
        return torch.where(mask > 0, self.hidden.repeat(1, 1, *grid), x)

    @property
    def temperature_now(self) -> float:
        """The teacher's."""
        warmup = max(1, self.optimise["steps"] // 10)
        first = min(0.04, self.teacher_temperature)
        return linear_warmup_schedule(self.global_step, warmup, first, self.teacher_temperature)

    def watch(self) -> dict[str, float]:
        return super().watch() | {"teacher_temperature": self.temperature_now}

    def on_train_start(self) -> None:
        parts = (
            self.trainer.accumulate_grad_batches
        )  # the centres move with every batch: in parts, a step's worth a step
        self.dino.center_momentum = self.ibot.center.momentum = self.centre_momentum ** (1 / parts)
        self.head.freeze_last_layer = round(self.frozen * self.optimise["steps"])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.head.cancel_last_layer_gradients(self.global_step)

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_hides(self.encoder, crop, self.mask_ratio)
