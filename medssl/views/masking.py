"""Parts of a scan masked or damaged: boxes cut out or painted over, voxels shuffled, patches masked.

    view = Compose([LocalShuffle(), InPainting()])
    mask = patch_mask(keys, size=(32, 32, 32), block=8, ratio=0.6, valid=batch["valid_views"][0])    # (B, 1, *size)

To keep damage away from air and defaced voxels, take the original there: `torch.where(valid > 0, view(x, params), x)`.
Patch masks take `valid` themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, Range, View, broadcast_along, check_range
from medssl.views.random import derive_keys, uniform, uniform_like

MaskKind = Literal["random", "block", "tube", "high-frequency"]
CENTRES = 4  # of the regions that kind "block" masks


class _Boxes(View):
    """1 to `count` boxes in each sample, each edge a share of the image's drawn from `edge`, the same in all channels."""

    def __init__(self, count: int = 3, edge: Range = (0.1, 0.3), probability: float = 0.5):
        super().__init__()
        check_range(f"{type(self).__name__}'s count", count, 1)
        check_range(f"{type(self).__name__}'s edge", edge, 0.01, 1)
        self.count, self.edge, self.probability = count, edge, probability

    def parameters_of(self, keys: Tensor) -> Params:
        numbers = torch.arange(self.count, device=keys.device)
        present = uniform(derive_keys(keys, 1), 1, 1, self.count + 1).long() > numbers
        edges = uniform(derive_keys(keys, 2), 3 * self.count, *self.edge).reshape(-1, self.count, 3)
        places = uniform(derive_keys(keys, 3), 3 * self.count).reshape(-1, self.count, 3)
        return {"edge": edges, "place": places, "present": present, "key": derive_keys(keys, 4)}

    def inside(self, x: Tensor, params: Params) -> Tensor:
        """(B, 1, *S) bool: the voxels in any of the boxes, which lie in the image as a whole."""
        size = torch.tensor(x.shape[2:], device=x.device)
        edge, place = params["edge"][..., : len(size)], params["place"][..., : len(size)]  # (B, count, d)
        lengths = (edge * size).round().clamp(min=1)
        first = (place * (size - lengths + 1)).floor()
        present = params["present"].reshape(*params["present"].shape, *[1] * len(size))
        return (box_mask(first, lengths, x.shape[2:]) & present).any(1, keepdim=True)


class Cutout(_Boxes):
    """Boxes of the image become one value. DeVries and Taylor 2017 (arXiv 1708.04552).

    Args:
        count: A sample gets 1 to count boxes.
        edge: Range of a box's edges, as a share of the image's.
        fill: The value in the boxes.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Cutout(count=3, edge=(0.1, 0.3), fill=0.0)
    """

    def __init__(self, count: int = 3, edge: Range = (0.1, 0.3), fill: float = 0.0, probability: float = 0.5):
        super().__init__(count, edge, probability)
        self.fill = fill

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x.masked_fill(self.inside(x, params), self.fill)


class InPainting(_Boxes):
    """Boxes of the image become noise, uniform on 0..1. Zhou et al., Models Genesis, Medical Image Analysis 2021.

    Args:
        count: A sample gets 1 to count boxes.
        edge: Range of a box's edges, as a share of the image's.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = InPainting(count=3, edge=(0.1, 0.3))
    """

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(self.inside(x, params), uniform_like(x, params["key"]), x)


class OutPainting(_Boxes):
    """All but some boxes becomes noise, uniform on 0..1. Zhou et al., Models Genesis, Medical Image Analysis 2021.

    Args:
        count: 1 to count boxes of a sample stay as they are.
        edge: Range of a box's edges, as a share of the image's.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = OutPainting(count=3, edge=(0.4, 0.6))
    """

    def __init__(self, count: int = 3, edge: Range = (0.4, 0.6), probability: float = 0.5):
        super().__init__(count, edge, probability)

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(self.inside(x, params), x, uniform_like(x, params["key"]))


class LocalShuffle(View):
    """Voxels change places within small blocks. Zhou et al., Models Genesis, Medical Image Analysis 2021.

    The paper shuffles 10,000 windows one after the other. Here the scan is divided into blocks of one random size a
    sample, each edge 1 to a tenth of the crop's (or to 2), and every block is shuffled.

    Args:
        probability: Chance that a sample gets the view.

    Example:
        >>> view = LocalShuffle(probability=0.5)
    """

    def __init__(self, probability: float = 0.5):
        super().__init__()
        self.probability = probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"key": derive_keys(keys, 1)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return shuffle_blocks(x, params["key"])


class PatchMask(View):
    """Masked blocks become one value, see `patch_mask`.

    Args:
        ratio: Share of the blocks that is masked.
        block: Voxels of a block's edge; it divides the image's.
        kind: How blocks are chosen, see `masking_order`.
        fill: The value in the masked blocks.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = PatchMask(ratio=0.6, block=8, kind="block")
    """

    def __init__(
        self, ratio: float = 0.6, block: int = 8, kind: MaskKind = "random", fill: float = 0.0, probability: float = 1.0
    ):
        super().__init__()
        check_range("PatchMask's block", block, 1)
        check_range("PatchMask's ratio", ratio, 0.01, 0.99)
        self.ratio, self.block, self.kind, self.fill, self.probability = ratio, block, kind, fill, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(0.5, 4, "high-frequency"), cls(block=4, kind="block"))

    def parameters_of(self, keys: Tensor) -> Params:
        return {"key": derive_keys(keys, 1)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x.masked_fill(self.patch_mask(x, params) > 0, self.fill)

    def patch_mask(self, x: Tensor, params: Params) -> Tensor:
        """(B, 1, *S): 1 where x is masked.

        Args:
            x: (B, C, *S).
            params: What `draw` returned for these samples.
        """
        return patch_mask(params["key"], x.shape[2:], self.block, self.ratio, self.kind, image=x)


def patch_mask(
    keys: Tensor,
    size: Sequence[int],
    block: int | Sequence[int],
    ratio: float,
    kind: MaskKind = "random",
    valid: Tensor | None = None,
    min_valid: float = 0.5,
    image: Tensor | None = None,
) -> Tensor:
    """Random masks of whole blocks, each sample's from its key alone.

    Args:
        keys: (B,) int64.
        size: Voxels of the crop, one number per axis.
        block: Voxels of a block's edge, one number or one per axis; they divide `size`.
        ratio: Share of a sample's blocks that is masked, exact to the block.
        kind: How blocks are chosen, see `masking_order`.
        valid: (B, 1, *size), 1 in body, 0 in air, padding or defaced voxels. The ratio then is of the valid blocks, and
            others are never masked. Without it every sample has the same number of masked blocks.
        min_valid: Share of a block's voxels that must be valid for the block to be valid.
        image: (B, C, *size), for kind "high-frequency".

    Returns:
        (B, 1, *size) float, 1 where masked.
    """
    blocks = blocks_of(size, block)
    if not 0 < ratio < 1:
        raise MedsslError(f"the mask's ratio is {ratio}: expected a share between 0 and 1")
    depth = blocks[-1] if kind == "tube" else 1  # blocks that are masked together
    order = masking_order(keys, blocks, kind, image)[:, ::depth] // depth
    inside = torch.ones(len(keys), math.prod(blocks), dtype=torch.bool, device=keys.device)
    if valid is not None:
        inside = block_means(valid.float(), blocks).flatten(1) >= min_valid
        order = (order + order.shape[1] * ~any_in_tube(inside, depth)).argsort(1).argsort(1)
    count = any_in_tube(inside, depth).sum(1, keepdim=True)
    masked = (order < (ratio * count.double()).round()).repeat_interleave(depth, 1) & inside
    return expand_blocks(masked.float().reshape(len(keys), 1, *blocks), size)


def masking_order(
    keys: Tensor, blocks: Sequence[int], kind: MaskKind = "random", image: Tensor | None = None
) -> Tensor:
    """The order in which the blocks of a sample are masked.

    Args:
        keys: (B,) int64.
        blocks: Blocks along each axis.
        kind: How they are ordered:
            "random": all blocks are equally likely (He et al., MAE, CVPR 2022; Xie et al., SimMIM, CVPR 2022).
            "block": a few compact regions (after Bao et al., BEiT, ICLR 2022; here the blocks nearest to a few random
            centres, in boxes of random proportions, so that the number masked is exact).
            "tube": the same blocks in every slice along the last axis (Tong et al., VideoMAE, NeurIPS 2022).
            "high-frequency": blocks in which `image` varies more tend to come first, drawn without replacement with the
            variance as weight (Efraimidis and Spirakis, Inf. Process. Lett. 2006).
        image: (B, C, *S), for kind "high-frequency".

    Returns:
        (B, number of blocks) int64: each block's place in the order, from 0 on.
    """
    if kind not in get_args(MaskKind):
        raise MedsslError(f"a mask of kind {kind!r}: expected one of {', '.join(get_args(MaskKind))}")
    count = math.prod(blocks)
    if kind == "block":
        score = nearest_centre(derive_keys(keys, 1), blocks) + 1e-3 * uniform(keys, count)
    elif kind == "tube":
        if len(blocks) != 3:
            raise MedsslError(
                f"a mask of kind 'tube' came with {len(blocks)} axes: expected slices, 3 axes; use 'random' or 'block'"
            )
        score = uniform(keys, count // blocks[-1]).repeat_interleave(blocks[-1], 1)
    else:
        score = -torch.log1p(-uniform(keys, count))  # an exponential race: the first to finish is masked first
    if kind == "high-frequency":
        score = score / _variance_weights(image, blocks)
    return score.argsort(dim=1, stable=True).argsort(dim=1)


def _variance_weights(image: Tensor | None, blocks: Sequence[int]) -> Tensor:
    """(B, number of blocks): the variance within each block, and a little of the mean variance."""
    if image is None:
        raise MedsslError("a mask of kind 'high-frequency' came without `image`: pass the view that it is to mask")
    x = image.float()
    variance = (block_means(x.square(), blocks) - block_means(x, blocks).square()).mean(1).clamp(min=0).flatten(1)
    return variance + 1e-3 * variance.mean(1, keepdim=True) + 1e-12


def nearest_centre(keys: Tensor, blocks: Sequence[int]) -> Tensor:
    """(B, blocks): the distance of each block to the nearest of `CENTRES` random ones, in boxes of random proportions.

    Args:
        keys: (B,) int64, one per sample.
        blocks: Blocks along each axis.
    """
    steps = [torch.arange(n, device=keys.device) for n in blocks]
    places = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)  # (d, blocks)
    edge = torch.tensor(blocks, device=keys.device)[:, None]
    centres = uniform(keys, CENTRES * len(blocks)).reshape(len(keys), CENTRES, len(blocks), 1) * edge - 0.5
    stretch = uniform(derive_keys(keys, 1), CENTRES * len(blocks), -0.5, 0.5).exp().reshape(centres.shape)
    return ((places - centres).abs() * stretch).amax(2).amin(1)


def blocks_of(size: Sequence[int], block: int | Sequence[int]) -> tuple[int, ...]:
    """How many blocks lie along each axis.

    Args:
        size: Voxels of the crop along each axis.
        block: Voxels of a block's edge, one number or one per axis.
    """
    edges = (block,) * len(size) if isinstance(block, int) else tuple(block)
    if len(edges) != len(size) or any(e < 1 or n % e for n, e in zip(size, edges)):
        raise MedsslError(f"a crop of {tuple(size)} came with blocks of {edges} voxels: expected blocks that divide it")
    return tuple(n // e for n, e in zip(size, edges))


def any_in_tube(inside: Tensor, depth: int) -> Tensor:
    """(B, blocks) -> (B, blocks / depth): whether any block of a tube is inside.

    Args:
        inside: (B, blocks) bool, the last axis fastest.
        depth: Blocks of a tube, along the last axis.
    """
    return inside.unflatten(1, (-1, depth)).any(2)


def block_means(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """The mean of each block, (B, C, *blocks).

    Args:
        x: (B, C, *S).
        blocks: Blocks along each axis.
    """
    edges = [n // b for n, b in zip(x.shape[2:], blocks)]
    return F.avg_pool2d(x, edges) if x.ndim == 4 else F.avg_pool3d(x, edges)


def expand_blocks(values: Tensor, size: Sequence[int]) -> Tensor:
    """Each block's value at all of its voxels, (B, C, *size).

    Args:
        values: (B, C, *blocks).
        size: Voxels of the crop along each axis.
    """
    return F.interpolate(values, size=tuple(size), mode="nearest")


def box_mask(first: Tensor, lengths: Tensor, size: Sequence[int]) -> Tensor:
    """The voxels whose middle lies in a box, (..., *size) bool.

    Args:
        first: (..., d) the box's corner nearest to 0, in voxels.
        lengths: (..., d) its edges, in voxels.
        size: Voxels of the crop along each axis.
    """
    inside = torch.ones(*first.shape[:-1], *size, dtype=torch.bool, device=first.device)
    for axis, n in enumerate(size):
        middle = torch.arange(n, device=first.device) + 0.5
        within = (middle >= first[..., axis, None]) & (middle < (first + lengths)[..., axis, None])
        inside = inside & within.reshape(*within.shape[:-1], *[n if a == axis else 1 for a in range(len(size))])
    return inside


def random_box(keys: Tensor, size: Sequence[int], edge: Range) -> Tensor:
    """One random box in each sample, (B, *size) bool.

    Args:
        keys: (B,) int64, one per sample.
        size: Voxels of the crop along each axis.
        edge: Range of the box's edges, as shares of the crop's.
    """
    drawn = uniform(keys, 2 * len(size))
    whole = torch.tensor(size, device=keys.device)
    lengths = (edge[0] + (edge[1] - edge[0]) * drawn[:, : len(size)]) * whole
    return box_mask(drawn[:, len(size) :] * (whole - lengths), lengths, size)


def shuffle_blocks(x: Tensor, keys: Tensor) -> Tensor:
    """Voxels shuffled within the blocks of `block_numbers`, the same way in all channels.

    Args:
        x: (B, C, *S).
        keys: (B,) int64, one per sample.
    """
    block = block_numbers(derive_keys(keys, 0), x.shape[2:]).flatten(1)
    shuffled = uniform(derive_keys(keys, 1), block.shape[1]).argsort(1)
    source = shuffled.gather(1, block.gather(1, shuffled).argsort(dim=1, stable=True))  # by block, in random order
    target = block.argsort(dim=1, stable=True)  # by block, in their own order
    flat = x.flatten(2)
    moved = flat.gather(2, source[:, None].expand_as(flat))
    return flat.scatter(2, target[:, None].expand_as(flat), moved).reshape(x.shape)


def block_numbers(keys: Tensor, size: Sequence[int]) -> Tensor:
    """(B, *size) int64: which block each voxel is in, with blocks of one size and offset per sample.

    Their edges are 1 to a tenth of the crop's, or to 2 where that is larger.

    Args:
        keys: (B,) int64, one per sample.
        size: Voxels of the crop along each axis.
    """
    dims = len(size)
    drawn = uniform(keys, 2 * dims)
    numbers = torch.zeros(len(keys), 1, *size, dtype=torch.int64, device=keys.device)
    for axis, n in enumerate(size):
        edge = 1 + (drawn[:, axis] * max(2, n // 10)).long()
        offset = (drawn[:, dims + axis] * edge).long()
        along = (torch.arange(n, device=keys.device) + offset[:, None]) // edge[:, None]
        numbers = numbers * (n + 1) + broadcast_along(along, numbers, axis)
    return numbers[:, 0]
