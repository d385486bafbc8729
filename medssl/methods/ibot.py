"""iBOT: a teacher that sees the whole scan says what each masked patch is, and what the scan is.

Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022 (arXiv 2111.07832); the patch loss as in
DINOv2 (Oquab et al. 2023, arXiv 2304.07193).

    medssl pretrain --data CACHE --encoder ViT --method IBOT --crop 48 48 48

DINO's loss between two large views, the student's with compact regions masked, and the same loss for each patch that was
masked; student and teacher share one head for both, as in the paper. The run saves the teacher's encoder. Deviations: no
small crops, which DINO has; in every view the same share is masked, where the paper draws 0.1 to 0.5 and leaves half of
the views whole; the mean of the patches stands in for a class token; patches of air or padding do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss
from lightly.models.modules.center import Center, center_momentum
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder, to_patches
from medssl.methods.shared import salts
from medssl.methods.shared.devices import sum_over_devices
from medssl.methods.shared.patches import check_masks_some, with_tokens
from medssl.methods.shared.self_distillation import SelfDistillation
from medssl.views.masking import patch_mask
from medssl.views.random import derive_keys


class IBOT(SelfDistillation):
    """Two views, one with masked patches, and prototypes for both; experimental: it was not shown to learn features.

    On the phantom a probe of its encoder fell from 0.919 to 0.912 in 100 steps (AUROC, mean of three seeds) and stayed where it
    was in 300; its loss is lightly's to 1e-5. See the documents, "Does every method learn?".

    Args:
        mask_ratio: Share of the patches that is masked for the student.
        patch_weight: Weight of the loss of patches, relative to the loss of views.
        prototypes: As in DINO, as are all settings below.
        momentum: Of the teacher at the first step.
        teacher_temperature: Reached after the first tenth of the steps.
        student_temperature: Of the student's softmax.
        centre_momentum: Of the means that are subtracted from the teacher's logits.
        frozen: Share of the steps in which the prototypes do not change.
        hidden_width: Width of the head's hidden layers.
        bottleneck: Width of the head's last layer before the prototypes.
    """

    encoder: TokenEncoder
    experimental = True

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
        super().__init__(
            with_tokens(encoder, "IBOT"),
            prototypes,
            hidden_width,
            bottleneck,
            teacher_temperature,
            centre_momentum,
            frozen,
            momentum,
        )
        if not 0 < mask_ratio < 1 or patch_weight < 0:
            raise MedsslError(
                f"mask_ratio is {mask_ratio}, patch_weight {patch_weight}: expected a share between 0 and 1, and 0 or more"
            )
        self.mask_ratio, self.patch_weight, self.hidden_width = mask_ratio, patch_weight, hidden_width
        self.student_temperature = student_temperature
        self.patch = encoder.strides[-1]
        self.mask_token = nn.Parameter(
            torch.zeros(1, encoder.in_channels, *self.patch)
        )  # its embedding is a mask token
        self.dino = DINOLoss(prototypes, student_temp=student_temperature, center_momentum=centre_momentum)
        self.ibot = IBOTPatchLoss(prototypes, student_temp=student_temperature)
        self.ibot.center = PatchCentre((1, prototypes), momentum=centre_momentum)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, mask = torch.cat(batch["views"]), self.mask_of(batch)
        counted = self.counted(mask, torch.cat(batch["valid_views"]))
        of_views, of_patches = self.logits(self.teacher, x, counted)
        student = nn.Sequential(self.encoder, self.head)
        predicted_views, predicted_patches = self.logits(student, self.masked(x, mask), counted)
        temperature = self.temperature_now
        self.dino.center_momentum = self.ibot.center.momentum = self.centre_momentum_now
        loss = self.dino(list(of_views.chunk(2)), list(predicted_views.chunk(2)), teacher_temp=temperature)
        if self.patch_weight:
            patches = self.ibot(of_patches, predicted_patches, counted[:, None], teacher_temp=temperature)
            loss = loss + self.patch_weight * patches
        return loss

    def logits(self, network: nn.Sequential, x: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of each view (2B, K), and of its counted patches (M, K).

        Args:
            network: Encoder and head, of the student or of the teacher.
            x: (2B, C, *S), both views of each scan.
            counted: (2B, N) bool, the M patches to take.
        """
        encoder: Any = network[0]
        tokens = encoder.tokens(x)
        logits = network[1](torch.cat([tokens.mean(1), tokens[counted]]))
        return logits[: len(x)], logits[len(x) :]

    def mask_of(self, batch: dict[str, Any]) -> Tensor:
        """(2B, 1, *S), 1 where masked for the student: compact regions, different ones in each view."""
        size = batch["views"][0].shape[2:]
        keys = torch.cat([derive_keys(batch["key"], salts.MASK + i) for i in range(2)])
        return patch_mask(keys, size, self.patch, self.mask_ratio, "block")

    def counted(self, mask: Tensor, body: Tensor) -> Tensor:
        """(2B, N) bool: masked patches of which half or more is body.

        Args:
            mask: (2B, 1, *S), 1 where masked.
            body: (2B, 1, *S), 1 where there is body.
        """
        return (to_patches(mask, self.patch).mean(2) > 0) & (to_patches(body, self.patch).mean(2) >= 0.5)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """The views (2B, C, *S) with the learned patch in place of what is masked.

        Args:
            x: (2B, C, *S).
            mask: (2B, 1, *S), 1 where masked.
        """
        grid = self.encoder.grid(x.shape[2:])
        return torch.where(mask > 0, self.mask_token.repeat(1, 1, *grid), x)

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_masks_some(self.encoder, crop, self.mask_ratio)


class PatchCentre(Center):
    """The moving mean of the teacher's logits over the counted patches of all devices.

    Devices count different numbers of patches, and one may count none, so lightly's mean of their means would not do.
    """

    center: Tensor

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the centre.

        Args:
            x: (M, K), the logits of this device's patches; M may be 0.
        """
        total = sum_over_devices(x.float().sum(0, keepdim=True))
        count = sum_over_devices(torch.tensor(len(x), device=x.device))
        moved = center_momentum(self.center, total / count.clamp(min=1), self.momentum)
        self.center = torch.where(count > 0, moved, self.center)
