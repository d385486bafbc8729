"""What is hidden from a model or spoilt for it: patch masks.

mask = patch_mask(keys, size=(32, 32, 32), block=8, ratio=0.6, valid=batch["valid_views"][0])    # (B, 1, *size)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.errors import MedsslError
from medssl.views.base import mix, uniform

MaskKind = Literal["random", "block", "tube", "detail"]
CENTRES = 4  # of the regions that kind "block" hides


def patch_mask(
    keys: Tensor,
    size: Sequence[int],
    block: int | Sequence[int],
    ratio: float,
    kind: MaskKind = "random",
    valid: Tensor | None = None,
    least_valid: float = 0.5,
    image: Tensor | None = None,
) -> Tensor:
    """(B, 1, *size) float, 1 where hidden: of each sample the share `ratio` of its blocks, to the block, by its key alone.

    block: voxels of a block's edge, one number or one an axis; they divide `size`.
    valid: (B, 1, *size), body rather than air, padding or defaced: a block of which less than `least_valid` is valid is
    never hidden, and the ratio is of the others. Without it every sample has the same number hidden.
    kind, image: see `hiding_order`.
    """
    blocks = blocks_of(size, block)
    if not 0 < ratio < 1:
        raise MedsslError(f"the mask's ratio is {ratio}: expected a share between 0 and 1")
    depth = blocks[-1] if kind == "tube" else 1  # what is hidden together
    order = hiding_order(keys, blocks, kind, image)[:, ::depth] // depth
    inside = torch.ones(len(keys), math.prod(blocks), dtype=torch.bool, device=keys.device)
    if valid is not None:
        inside = pooled(valid.float(), blocks).flatten(1) >= least_valid
        order = (order + order.shape[1] * ~tubes(inside, depth)).argsort(1).argsort(1)
    count = tubes(inside, depth).sum(1, keepdim=True)
    hidden = (order < (ratio * count.double()).round()).repeat_interleave(depth, 1) & inside
    return spread(hidden.float().reshape(len(keys), 1, *blocks), size)


def tubes(inside: Tensor, depth: int) -> Tensor:
    """(B, blocks) -> (B, blocks / depth): whether anything of a tube is inside."""
    return inside.unflatten(1, (-1, depth)).any(2)


def hiding_order(keys: Tensor, blocks: Sequence[int], kind: MaskKind = "random", image: Tensor | None = None) -> Tensor:
    """(B, blocks) int64: the place of each block in the order in which the blocks of a sample are hidden, from 0 on.

    random: every block alike (He et al., MAE, CVPR 2022; Xie et al., SimMIM, CVPR 2022).
    block: a few compact regions (after Bao et al., BEiT, ICLR 2022; here what is nearest to a few random centres, in
    boxes of random proportions, so that the number hidden is exact).
    tube: the same blocks in every slice, along the last axis (Tong et al., VideoMAE, NeurIPS 2022).
    detail: the more of `image` (B, C, *S) varies within a block, the earlier it tends to come: drawn without replacement
    with its energy above the block's mean as weight (Efraimidis and Spirakis, Inf. Process. Lett. 2006).
    """
    count, dims = math.prod(blocks), len(blocks)
    if kind == "block":
        score = nearest_centre(mix(keys, 1), blocks) + 1e-3 * uniform(keys, count)
    elif kind == "tube":
        if dims != 3:
            raise MedsslError(
                f"a mask of kind 'tube' came with {dims} axes: expected slices, 3 axes; use 'random' or 'block'"
            )
        in_plane = uniform(keys, count // blocks[-1])
        score = in_plane.repeat_interleave(blocks[-1], 1)
    else:
        score = -torch.log1p(-uniform(keys, count))  # an exponential race: the first at its end is hidden first
    if kind == "detail":
        if image is None:
            raise MedsslError("a mask of kind 'detail' came without `image`: hand in the view it is to hide")
        wide = image.float()
        energy = (pooled(wide.square(), blocks) - pooled(wide, blocks).square()).mean(1).clamp(min=0).flatten(1)
        score = score / (energy + 1e-3 * energy.mean(1, keepdim=True) + 1e-12)
    return score.argsort(dim=1, stable=True).argsort(dim=1)


def nearest_centre(keys: Tensor, blocks: Sequence[int]) -> Tensor:
    """(B, blocks): the distance of each block to the nearest of `CENTRES` random ones, in boxes of random proportions."""
    steps = [torch.arange(n, device=keys.device) for n in blocks]
    places = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)  # (d, blocks)
    edge = torch.tensor(blocks, device=keys.device)[:, None]
    centres = uniform(keys, CENTRES * len(blocks)).reshape(len(keys), CENTRES, len(blocks), 1) * edge - 0.5
    stretch = uniform(mix(keys, 1), CENTRES * len(blocks), -0.5, 0.5).exp().reshape(centres.shape)
    return ((places - centres).abs() * stretch).amax(2).amin(1)


def blocks_of(size: Sequence[int], block: int | Sequence[int]) -> tuple[int, ...]:
    """How many blocks lie along each axis."""
    edges = (block,) * len(size) if isinstance(block, int) else tuple(block)
    if len(edges) != len(size) or any(e < 1 or n % e for n, e in zip(size, edges)):
        raise MedsslError(f"a crop of {tuple(size)} came with blocks of {edges} voxels: expected blocks that divide it")
    return tuple(n // e for n, e in zip(size, edges))


def pooled(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, C, *blocks): the mean of each block."""
    edges = [n // b for n, b in zip(x.shape[2:], blocks)]
    return F.avg_pool2d(x, edges) if x.ndim == 4 else F.avg_pool3d(x, edges)


def spread(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *blocks) -> (B, C, *size): each block's value at all of its voxels."""
    return F.interpolate(values, size=tuple(size), mode="nearest")
