"""SparK: masked modelling for convolutions. Masked regions stay empty through every layer, and a U-Net fills them in.

Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, ICLR 2023 (arXiv
2301.03580); S3D, its volumetric use: Wald et al., Revisiting MAE pre-training for 3D medical image segmentation, CVPR
2025 (arXiv 2410.23132).

    medssl pretrain --data CACHE --encoder ResidualUNet --method SparK --crop 48 48 48

A plain convolution lets the edge of the mask leak into what is visible, further with every layer, and its norms count the holes.
Here what lies in a masked block is set to 0 after each convolution and pooling, and norms see the visible places alone,
which is what a submanifold sparse convolution computes, without its library. Deviations: blocks are as large as the
encoder's own coarsest stride (32 in the paper); the decoder is the one that segmentation will use; air and padding do not
count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.decoder import Decoder
from medssl.encoders.normalized import NormalizedInput
from medssl.encoders.tokens import from_patches
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.masked_mean import masked_mean
from medssl.methods.shared.patches import check_mask_kind, patches_and_body, targets
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.masking import MaskKind, patch_mask
from medssl.views.random import derive_keys

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
MIXERS = (_ConvNd, _MaxPoolNd, _AvgPoolNd)


class SparK(Method):
    """The mean squared error of the masked blocks.

    Args:
        mask_ratio: Share of the blocks that is masked.
        mask_kind: How they are chosen, see `medssl.views.masking.masking_order`.
        normalise: Whether to predict each block with mean 0 and variance 1, as the paper does.
    """

    decoder: Decoder

    def __init__(
        self, encoder: Encoder, mask_ratio: float = 0.6, mask_kind: MaskKind = "random", normalise: bool = True
    ):
        super().__init__(encoder)
        check_convolutional(encoder)
        if not 0 < mask_ratio < 1:
            raise MedsslError(f"mask_ratio is {mask_ratio}: expected a share between 0 and 1")
        self.mask_ratio, self.mask_kind, self.normalise = mask_ratio, mask_kind, normalise
        self.block = encoder.strides[-1]
        self.mask_token = nn.ParameterList(0.02 * torch.randn(1, c, *[1] * encoder.dims) for c in encoder.channels)
        self.decoder = Decoder(encoder, encoder.in_channels)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, visible = batch["views"][0], self.visible_of(batch)
        truth, counted = patches_and_body(x, batch["valid_views"][0] * (1 - visible), self.block)
        body = patches_and_body(x, batch["valid_views"][0], self.block)[1]
        predicted, _ = patches_and_body(self.predict(x, visible), visible, self.block)
        return masked_mean((predicted - targets(truth, body, self.normalise)[0]).square(), counted)

    def visible_of(self, batch: dict[str, Any]) -> Tensor:
        """(B, 1, *S), 1 where visible: the same number of blocks in each sample, chosen by its key."""
        x = batch["views"][0]
        keys = derive_keys(batch["key"], salts.MASK)
        return 1 - patch_mask(keys, x.shape[2:], self.block, self.mask_ratio, self.mask_kind, image=x).to(x.dtype)

    def predict(self, x: Tensor, visible: Tensor) -> Tensor:
        """Every voxel (B, C, *S), predicted from the visible ones; normalised if `normalise` is set.

        Args:
            x: (B, C, *S).
            visible: (B, 1, *S), 1 where visible.
        """
        with visible_only(self.encoder, visible):
            pyramid = self.encoder.features(x * visible)
        return self.decoder(
            [torch.where(mask_at_level(visible, p) > 0, p, h.to(p.dtype)) for p, h in zip(pyramid, self.mask_token)]
        )

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """As in the paper's figures a normalised block is shown with the level and contrast of the true one."""
        x, visible = batch["views"][0], self.visible_of(batch)
        truth, body = patches_and_body(x, batch["valid_views"][0], self.block)
        _, mean, deviation = targets(truth, body, self.normalise)
        predicted, _ = patches_and_body(self.predict(x, visible), visible, self.block)
        grid = [n // b for n, b in zip(x.shape[2:], self.block)]
        whole = from_patches(predicted * deviation + mean, self.block, grid)
        return {"source": x, "corrupted": x * visible, "restored": torch.where(visible > 0, x, whole.to(x.dtype))}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        check_mask_kind(self.mask_kind, crop)
        count = torch.Size(n // b for n, b in zip(crop, self.block)).numel()
        if not 0 < round(self.mask_ratio * count) < count:
            raise MedsslError(
                f"the crop {tuple(crop)} holds {count} blocks of {self.block} voxels, the encoder's coarsest stride, of which "
                f"mask_ratio {self.mask_ratio} masks {round(self.mask_ratio * count)}: expected some masked and some visible; pass "
                f"a larger --crop or an encoder of fewer levels"
            )
        check_every_layer_has_a_place_for_each_block(self.encoder, crop)


@contextmanager
def visible_only(encoder: nn.Module, visible: Tensor) -> Iterator[None]:
    """Within this context, the encoder's layers neither read nor fill what is masked.

    Args:
        encoder: Convolutions, pools and norms only, see `check_convolutional`.
        visible: (B, 1, *S), 1 where visible, in blocks that every stride of the encoder divides; the same number of voxels
            in each sample.
    """
    shapes: dict[nn.Module, torch.Size] = {}

    def gather(module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        x = given[0]
        shapes[module] = x.shape
        values = x.flatten(2).gather(2, visible_places(visible, x).expand(-1, x.shape[1], -1))
        return values.reshape(
            *values.shape, *[1] * (x.ndim - 3)
        )  # (B, C, visible, 1, ...): as many dims as the norm expects

    def scatter(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        shape = shapes.pop(module)
        empty = out.new_zeros(shape)
        where = visible_places(visible, empty).expand(-1, shape[1], -1)
        return empty.flatten(2).scatter(2, where, out.flatten(2)).reshape(shape)

    def empty(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        return out * mask_at_level(visible, out)

    hooks: list[Any] = []
    for module in encoder.modules():
        if isinstance(module, NORMS):
            hooks += [module.register_forward_pre_hook(gather), module.register_forward_hook(scatter)]
        elif isinstance(module, MIXERS):
            hooks.append(module.register_forward_hook(empty))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mask_at_level(visible: Tensor, x: Tensor) -> Tensor:
    """The mask on the grid of a level, (B, 1, *S of x).

    Args:
        visible: (B, 1, *S), 1 where visible.
        x: A map of the encoder (B, C, *S of the level).
    """
    return F.interpolate(visible, size=x.shape[2:], mode="nearest").to(x.dtype)


def visible_places(visible: Tensor, x: Tensor) -> Tensor:
    """(B, 1, count) int64: the numbers of the visible places on the grid of a level.

    Args:
        visible: (B, 1, *S), 1 where visible, the same number of voxels in each sample.
        x: A map of the encoder (B, C, *S of the level).
    """
    return mask_at_level(visible, x).flatten(1).nonzero()[:, 1].reshape(len(x), 1, -1)


def check_convolutional(encoder: Encoder) -> None:
    """Raise MedsslError for an encoder with layers that `visible_only` cannot keep from reading what is masked."""
    for module in encoder.modules():
        if isinstance(module, NormalizedInput) and (module.axes != "RAS" or module.enlarge > 1):
            raise MedsslError(
                f"SparK came with weights whose axes are {module.axes}, enlarged {module.enlarge} times, where its masks would lie "
                "elsewhere: expected RAS, not enlarged; pass --method SimMIM, or another encoder"
            )
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, NORMS + MIXERS):
            raise MedsslError(
                f"SparK came with a {type(encoder).__name__}, which has a {type(module).__name__}: expected convolutions with "
                f"batch, instance or group norms alone; pass --encoder ResidualUNet, or for this encoder --method SimMIM"
            )


def check_every_layer_has_a_place_for_each_block(encoder: Encoder, crop: Sequence[int]) -> None:
    """Raise MedsslError where a layer's map cannot be masked block by block, as in squeeze-and-excitation.

    Args:
        encoder: It runs once, on an empty crop, in evaluation mode.
        crop: Voxels of the crop along each axis.
    """
    grid, wrong = [n // s for n, s in zip(crop, encoder.strides[-1])], list[str]()

    def look(module: nn.Module, _: Any, out: Tensor) -> None:
        if out.ndim != 2 + encoder.dims or any(n % blocks for n, blocks in zip(out.shape[2:], grid)):
            wrong.append(f"a {type(module).__name__} gives a map of {tuple(out.shape[2:])}")

    modes = {module: module.training for module in encoder.modules()}
    hooks = [module.register_forward_hook(look) for module in encoder.modules() if isinstance(module, MIXERS)]
    try:
        with torch.no_grad():
            encoder.eval().features(next(encoder.parameters()).new_zeros(1, encoder.in_channels, *crop))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if wrong:
        raise MedsslError(
            f"SparK came with a {type(encoder).__name__}, in which {wrong[0]} for a crop of {tuple(crop)}: expected layers that keep a "
            f"place for each of the {tuple(grid)} blocks; pass --encoder ResidualUNet, or for this encoder --method SimMIM"
        )
