"""Shared by methods that predict patches or masked blocks: the targets, and the checks of encoder and crop.

target, mean, deviation = targets(patches, counted)
loss = masked_mean((predicted - target).square(), counted)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder, to_patches
from medssl.views.masking import MaskKind


def with_tokens(encoder: Encoder, method: str) -> TokenEncoder:
    """The encoder, if it can encode single patches; raises MedsslError if it cannot.

    Args:
        encoder: The encoder that came in.
        method: Name of the method, for the message.
    """
    if not isinstance(encoder, TokenEncoder) or not encoder.encodes_patches:
        raise MedsslError(
            f"{method} came with a {type(encoder).__name__}: expected an encoder of patches; pass --encoder ViT, or for "
            f"this encoder --method SparK or --method SimMIM"
        )
    return encoder


def check_masks_some(encoder: TokenEncoder, crop: Sequence[int], mask_ratio: float) -> None:
    """Raise MedsslError unless some of the crop's patches are masked and some are visible.

    Args:
        encoder: Whose patches the crop is divided into.
        crop: Voxels of the crop along each axis.
        mask_ratio: Share of the patches that is masked.
    """
    count = torch.Size(encoder.grid(crop)).numel()
    masked = round(mask_ratio * count)
    if not 0 < masked < count:
        raise MedsslError(
            f"the crop {tuple(crop)} holds {count} patches of {encoder.strides[-1]} voxels, of which mask_ratio {mask_ratio} "
            f"masks {masked}: expected some masked and some visible; pass a larger --crop or a smaller --encoder.patch"
        )


def check_mask_kind(kind: MaskKind, crop: Sequence[int]) -> None:
    """Raise MedsslError for tubes in slices: they need an axis to run along.

    Args:
        kind: How patches are chosen, see `medssl.views.masking.masking_order`.
        crop: Voxels of the crop along each axis.
    """
    if kind == "tube" and len(crop) != 3:
        raise MedsslError(
            f'mask_kind is "tube" and the crop is {tuple(crop)}: expected 3 axes; pass --method.mask_kind random'
        )


def check_blocks(crop: Sequence[int], block: int, kind: str) -> None:
    """Raise MedsslError unless the crop divides into two or more blocks along each axis.

    Args:
        crop: Voxels of the crop along each axis.
        block: Voxels of a block's edge.
        kind: What the blocks are called in the message.
    """
    if any(n % block or n == block for n in crop):
        nearest = " ".join(str(max(2, round(n / block)) * block) for n in crop)
        raise MedsslError(
            f"the crop {tuple(crop)} does not divide into {kind} of {block} voxels: the nearest that does is "
            f"--crop {nearest}, or choose another --method.mask_block"
        )


def patches_and_body(x: Tensor, body: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The voxels of each patch, and which of them show body: both (B, N, C * voxels of a patch).

    Args:
        x: (B, C, *S).
        body: (B, 1, *S), 1 where there is body.
        patch: Voxels of a patch along each axis.
    """
    return to_patches(x, patch), to_patches(body.to(x.dtype).expand_as(x), patch)


def targets(patches: Tensor, counted: Tensor, normalise: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The targets of a prediction of patches, normalised as in He et al. 2022 (arXiv 2111.06377), section 4.1.

    Args:
        patches: (B, N, P), the voxels of each patch.
        counted: (B, N, P), 1 where a voxel counts.
        normalise: Whether each patch gets mean 0 and variance 1 over its counted voxels, with the unbiased variance of
            the authors' code: the contrast within a patch matters, not its level.

    Returns:
        The targets (B, N, P), and the mean and the deviation (B, N, 1) that turn a prediction back into voxels.
    """
    if not normalise:
        return patches, torch.zeros_like(patches[..., :1]), torch.ones_like(patches[..., :1])
    count = counted.sum(-1, keepdim=True)
    mean = (patches * counted).sum(-1, keepdim=True) / count.clamp(min=1)
    variance = ((patches - mean).square() * counted).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    deviation = (variance + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation
