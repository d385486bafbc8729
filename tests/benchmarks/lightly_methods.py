"""Pretraining methods made of lightly's parts, wired as in its published examples, on an encoder of ours.

    theirs = RIVALS["BYOL"](copy.deepcopy(encoder), ours=BYOL(encoder), size=(32, 32))
    loss = theirs.loss(batch)                         # on the batch's own `views`

Sizes, temperatures and momenta are those of our method, so that what differs is the code: how views pass the encoder, when
a teacher moves, how masks are drawn, what the loss sees. What lightly's examples do otherwise than ours: each view passes
the encoder on its own (ours in one batch, whose statistics batch norms share); MoCo's teacher slows down to a standstill
(ours keeps its pace) and a scan's earlier keys are among its negatives; iBOT masks half of the views, 10 to 50% of each
(ours all, 30%); SimMIM masks single patches and predicts them with a linear layer; air counts as any patch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    IBOTPatchLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    VICRegLoss,
)
from lightly.models import utils
from lightly.models.modules import (
    AIMPredictionHead,
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    MaskedVisionTransformerDecoderTIMM,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.utils.scheduler import cosine_schedule, linear_warmup_schedule
from torch import Tensor, nn

from medssl.encoders import Encoder
from medssl.methods.base import TrainingProgress


class Rival(nn.Module):
    """What a training needs of a method: a loss, the hooks around an optimiser step, and the encoder that it ends with.

    Args:
        encoder: What is pretrained.
        ours: Our method, whose sizes and temperatures are taken over.
        size: Pixels of a view along each axis.
    """

    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__()
        self.backbone: Any = encoder
        self.progress = TrainingProgress()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """A scalar from the batch's `views`, a list of (B, C, *S)."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Called when the gradients are complete."""

    def after_step(self) -> None:
        """Called when the weights have changed."""

    @property
    def final_encoder(self) -> Encoder:
        return self.backbone


class LightlySimCLR(Rival):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, ours.projection)
        self.criterion = NTXentLoss(temperature=ours.temperature)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        first, second = (self.head(self.backbone(x)) for x in batch["views"])
        return self.criterion(first, second)


class LightlyBarlowTwins(LightlySimCLR):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        Rival.__init__(self, encoder, ours, size)
        self.head = BarlowTwinsProjectionHead(encoder.out_dim, ours.projection, ours.projection)
        self.criterion = BarlowTwinsLoss(ours.redundancy)


class LightlyVICReg(LightlySimCLR):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        Rival.__init__(self, encoder, ours, size)
        self.head = VICRegProjectionHead(encoder.out_dim, ours.projection, ours.projection)
        self.criterion = VICRegLoss(ours.invariance, ours.variance, ours.covariance)


class LightlySimSiam(Rival):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.head = SimSiamProjectionHead(encoder.out_dim, ours.projection, ours.projection)
        self.predictor = SimSiamPredictionHead(ours.projection, ours.hidden, ours.projection)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        z = [self.head(self.backbone(x)) for x in batch["views"]]
        p = [self.predictor(each) for each in z]
        return 0.5 * (self.criterion(p[0], z[1].detach()) + self.criterion(p[1], z[0].detach()))


class WithTeacher(Rival):
    """A teacher of encoder and head, whose momentum rises to 1 by lightly's schedule; subclasses call `make_teacher`."""

    head: Any
    teacher_head: Any

    def make_teacher(self, momentum: float) -> None:
        self.first_momentum = momentum
        self.teacher_backbone, self.teacher_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        utils.deactivate_requires_grad(self.teacher_backbone)
        utils.deactivate_requires_grad(self.teacher_head)

    @torch.no_grad()
    def target(self, x: Tensor) -> Tensor:
        return self.teacher_head(self.teacher_backbone(x)).detach()

    def after_step(self) -> None:
        momentum = cosine_schedule(self.progress.step, self.progress.total_steps, self.first_momentum, 1.0)
        utils.update_momentum(self.backbone, self.teacher_backbone, m=momentum)
        utils.update_momentum(self.head, self.teacher_head, m=momentum)


class LightlyMoCo(WithTeacher):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.head = MoCoProjectionHead(encoder.out_dim, ours.hidden, ours.projection)
        self.make_teacher(ours.momentum)
        self.criterion = NTXentLoss(ours.temperature, memory_bank_size=(ours.queue, ours.projection))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        query_view, key_view = batch["views"]
        return self.criterion(self.head(self.backbone(query_view)), self.target(key_view))


class LightlyBYOL(WithTeacher):
    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.head = BYOLProjectionHead(encoder.out_dim, ours.hidden, ours.projection)
        self.predictor = BYOLPredictionHead(ours.projection, ours.hidden, ours.projection)
        self.make_teacher(ours.momentum)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        predicted = [self.predictor(self.head(self.backbone(x))) for x in batch["views"]]
        targets = [self.target(x) for x in batch["views"]]
        return 0.5 * (self.criterion(predicted[0], targets[1]) + self.criterion(predicted[1], targets[0]))


class LightlyDINO(WithTeacher):
    """The teacher's head begins as the student's, as in the paper; scored is the teacher's encoder, as of ours."""

    hidden_width = "hidden"  # what our method calls it

    def __init__(self, encoder: Encoder, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.temperature, self.frozen, self.first_momentum = ours.teacher_temperature, ours.frozen, ours.momentum
        widths = (encoder.out_dim, getattr(ours, self.hidden_width), ours.bottleneck, ours.prototypes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about lightly's weight norm
            self.head, self.teacher_head = DINOProjectionHead(*widths), DINOProjectionHead(*widths)
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher_backbone = copy.deepcopy(encoder)
        utils.deactivate_requires_grad(self.teacher_backbone)
        utils.deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(
            ours.prototypes, student_temp=ours.student_temperature, center_momentum=ours.centre_momentum
        )

    @property
    def final_encoder(self) -> Encoder:
        return self.teacher_backbone

    @property
    def temperature_now(self) -> float:
        warmup = max(1, self.progress.total_steps // 10)
        return linear_warmup_schedule(self.progress.step, warmup, 0.04, self.temperature)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        views = batch["views"]
        targets, predicted = [self.target(x) for x in views[:2]], [self.head(self.backbone(x)) for x in views]
        return self.criterion(targets, predicted, teacher_temp=self.temperature_now)

    def before_step(self) -> None:
        self.head.freeze_last_layer = round(self.frozen * self.progress.total_steps)
        self.head.cancel_last_layer_gradients(self.progress.step)


class LightlyIBOT(LightlyDINO):
    """Two views as in ours, in which a learned patch stands for those that are masked."""

    hidden_width = "hidden_width"

    def __init__(self, encoder: Any, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.patch = encoder.strides[-1]
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_channels, *self.patch))
        self.of_patches = IBOTPatchLoss(
            ours.prototypes, student_temp=ours.student_temperature, center_momentum=ours.centre_momentum
        )

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = torch.cat(batch["views"])
        grid = self.backbone.grid(x.shape[2:])
        mask = utils.random_block_mask((len(x), *grid))
        hidden = mask[:, None].repeat_interleave(self.patch[0], 2).repeat_interleave(self.patch[1], 3)
        tokens = self.backbone.tokens(torch.where(hidden, self.mask_token.repeat(1, 1, *grid), x))
        with torch.no_grad():
            true_tokens = self.teacher_backbone.tokens(x)
            views, patches = (self.teacher_head(t) for t in (true_tokens.mean(1), true_tokens[mask.flatten(1)]))
        temperature = self.temperature_now
        of_views = self.criterion(views.chunk(2), self.head(tokens.mean(1)).chunk(2), teacher_temp=temperature)
        predicted = self.head(tokens[mask.flatten(1)])
        return of_views + self.of_patches(patches, predicted, mask, teacher_temp=temperature)


class LightlyMAE(Rival):
    """lightly's decoder and masks, without the class token that our encoder has not; the targets as in ours."""

    def __init__(self, encoder: Any, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.patch, self.mask_ratio, self.normalise = encoder.strides[-1][0], ours.mask_ratio, ours.normalise
        self.embed = nn.Linear(encoder.out_dim, ours.decoder_width)
        patches = torch.Size(encoder.grid(size)).numel()
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            patches, ours.decoder_width, ours.decoder_depth, ours.decoder_heads, num_prefix_tokens=0
        )
        self.predict = nn.Linear(ours.decoder_width, encoder.in_channels * self.patch**2)
        self.criterion = nn.MSELoss()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        shape = (len(x), self.decoder.sequence_length)
        keep, masked = utils.random_token_mask(shape, self.mask_ratio, mask_class_token=True)
        encoded = self.embed(self.backbone.tokens(x, keep))
        tokens = utils.set_at_index(utils.repeat_token(self.decoder.mask_token, shape), keep, encoded)
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), masked))
        return self.criterion(predicted, utils.get_at_index(self.targets(x), masked))

    def targets(self, x: Tensor) -> Tensor:
        patches = utils.patchify(x, self.patch)
        return utils.normalize_mean_var(patches) if self.normalise else patches


class LightlySimMIM(Rival):
    """A learned patch stands for the masked ones, whose pixels a linear layer predicts."""

    def __init__(self, encoder: Any, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.patch, self.mask_ratio = encoder.strides[-1], ours.mask_ratio
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_channels, *self.patch))
        self.decoder = nn.Linear(encoder.out_dim, encoder.in_channels * self.patch[0] ** 2)
        self.criterion = nn.L1Loss()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        grid = self.backbone.grid(x.shape[2:])
        _, masked = utils.random_token_mask((len(x), grid[0] * grid[1]), self.mask_ratio, mask_class_token=True)
        hidden = torch.zeros(len(x), grid[0] * grid[1], dtype=torch.bool).scatter(1, masked, True).reshape(-1, 1, *grid)
        hidden = hidden.repeat_interleave(self.patch[0], 2).repeat_interleave(self.patch[1], 3)
        tokens = self.backbone.tokens(torch.where(hidden, self.mask_token.repeat(1, 1, *grid), x))
        predicted = self.decoder(utils.get_at_index(tokens, masked))
        return self.criterion(predicted, utils.get_at_index(utils.patchify(x, self.patch[0]), masked))


class LightlyAIM(Rival):
    def __init__(self, encoder: Any, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        self.patch = encoder.strides[-1][0]
        self.head = AIMPredictionHead(
            encoder.out_dim, encoder.in_channels * self.patch**2, ours.head_width, ours.head_depth
        )

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        target = utils.normalize_mean_var(utils.patchify(x, self.patch))
        size = target.shape[:2]
        after = utils.random_prefix_mask(size, max_prefix_length=size[1] - 1)  # (B, N), true beyond the prefix
        attend = torch.ones(size[1], size[1], dtype=torch.bool).tril() | ~after[:, None]
        predicted = self.head(self.backbone.tokens(x, attend=attend))[:, :-1]
        return (predicted - target[:, 1:]).square().mean(2)[after[:, 1:]].mean()


RIVALS: dict[str, type[Rival]] = {
    "SimCLR": LightlySimCLR,
    "MoCo": LightlyMoCo,
    "BYOL": LightlyBYOL,
    "SimSiam": LightlySimSiam,
    "BarlowTwins": LightlyBarlowTwins,
    "VICReg": LightlyVICReg,
    "DINO": LightlyDINO,
    "MAE": LightlyMAE,
    "IBOT": LightlyIBOT,
    "SimMIM": LightlySimMIM,
    "AIM": LightlyAIM,
}
