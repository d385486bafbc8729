"""What the methods that predict patches share: their targets, voxel by voxel, and the error over what counts.

target, mean, deviation = targets(patches, counted)
loss = mean_square(predicted, target, counted)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder, to_patches


def with_tokens(encoder: Encoder, method: str) -> TokenEncoder:
    """The encoder, if it can encode single patches. Raises MedsslError if it cannot."""
    if not isinstance(encoder, TokenEncoder):
        raise MedsslError(
            f"{method} came with a {type(encoder).__name__}: expected an encoder of patches; pass --encoder ViT, or for "
            f"this encoder --method SparK or --method SimMIM"
        )
    return encoder


def check_hides(encoder: TokenEncoder, crop: Sequence[int], mask_ratio: float) -> None:
    """Raise MedsslError unless some of the crop's patches are hidden and some are seen."""
    count = torch.Size(encoder.grid(crop)).numel()
    hidden = round(mask_ratio * count)
    if not 0 < hidden < count:
        raise MedsslError(
            f"the crop {tuple(crop)} holds {count} patches of {encoder.strides[-1]} voxels, of which mask_ratio {mask_ratio} "
            f"hides {hidden}: expected some hidden and some seen; pass a larger --crop or a smaller --encoder.patch"
        )


def patches_and_body(x: Tensor, body: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, C, *S) and (B, 1, *S), 1 where there is body -> both as (B, N, C * voxels of a patch)."""
    return to_patches(x, patch), to_patches(body.to(x.dtype).expand_as(x), patch)


def targets(patches: Tensor, counted: Tensor, normalise: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What is to be predicted of each patch, and the mean and deviation that turn it back into voxels.

    (B, N, P) -> (B, N, P) and twice (B, N, 1). Normalised, a patch has mean 0 and variance 1 over its counted voxels (He
    et al. 2022, section 4.1: contrast within the patch matters, not its level), with their code's unbiased variance.
    """
    if not normalise:
        return patches, torch.zeros_like(patches[..., :1]), torch.ones_like(patches[..., :1])
    count = counted.sum(-1, keepdim=True)
    mean = (patches * counted).sum(-1, keepdim=True) / count.clamp(min=1)
    variance = ((patches - mean).square() * counted).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    deviation = (variance + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


def mean_square(found: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """The mean squared error over the voxels where `counted` is 1; 0 where there is none."""
    return ((found - truth).square() * counted).sum() / counted.sum().clamp(min=1)
