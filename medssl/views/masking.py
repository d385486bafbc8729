"""What is hidden from a model or spoilt for it: boxes cut out, voxels shuffled, patches masked.

    view = Compose([LocalShuffle(), InPainting()])
    mask = patch_mask(keys, size=(32, 32, 32), block=8, ratio=0.6, valid=batch["valid_views"][0])    # (B, 1, *size)

To keep a corruption off air and defaced voxels, take the image where they are:
`torch.where(valid > 0, view(x, params), x)`; patch masks take `valid` themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View
from medssl.views.kspace import expect
from medssl.views.random import derive_keys, uniform, uniform_like

Range = tuple[float, float]
MaskKind = Literal["random", "block", "tube", "high-frequency"]
CENTRES = 4  # of the regions that kind "block" hides


class _Boxes(View):
    """1..`count` boxes in each sample, each edge drawn from `edge` as a share of the image's, the same in all channels."""

    def __init__(self, count: int = 3, edge: Range = (0.1, 0.3), probability: float = 0.5):
        super().__init__()
        expect(f"{type(self).__name__}'s count", count, 1)
        expect(f"{type(self).__name__}'s edge", edge, 0.01, 1)
        self.count, self.edge, self.probability = count, edge, probability

    def parameters_of(self, keys: Tensor) -> Params:
        present = uniform(derive_keys(keys, 1), 1, 1, self.count + 1).long() > torch.arange(
            self.count, device=keys.device
        )
        edges = uniform(derive_keys(keys, 2), 3 * self.count, *self.edge).reshape(-1, self.count, 3)
        places = uniform(derive_keys(keys, 3), 3 * self.count).reshape(-1, self.count, 3)
        return {"edge": edges, "place": places, "present": present, "key": derive_keys(keys, 4)}

    def inside(self, x: Tensor, params: Params) -> Tensor:
        """(B, 1, *S) bool: the voxels in any of the boxes, which lie in the image as a whole."""
        within = params["present"].reshape(-1, self.count, *[1] * (x.ndim - 2)).float()
        for axis, size in enumerate(x.shape[2:]):
            length = (params["edge"][..., axis] * size).round().clamp(min=1)  # (B, count)
            start = (params["place"][..., axis] * (size - length + 1)).floor()
            after = torch.arange(size, device=x.device) - start[..., None]
            line = (after >= 0) & (after < length[..., None])
            within = within * line.reshape(*line.shape[:2], *[-1 if a == axis else 1 for a in range(x.ndim - 2)])
        return within.amax(1, keepdim=True) > 0


class Cutout(_Boxes):
    """Boxes of the image become `fill`. DeVries and Taylor 2017 (arXiv 1708.04552)."""

    def __init__(self, count: int = 3, edge: Range = (0.1, 0.3), fill: float = 0.0, probability: float = 0.5):
        super().__init__(count, edge, probability)
        self.fill = fill

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x.masked_fill(self.inside(x, params), self.fill)


class InPainting(_Boxes):
    """Boxes of the image become noise, uniform on 0..1. Zhou et al., Models Genesis, Medical Image Analysis 2021."""

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(self.inside(x, params), uniform_like(x, params["key"]), x)


class OutPainting(_Boxes):
    """All but the boxes becomes noise, uniform on 0..1. Zhou et al., Models Genesis, Medical Image Analysis 2021."""

    def __init__(self, count: int = 3, edge: Range = (0.4, 0.6), probability: float = 0.5):
        super().__init__(count, edge, probability)

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(self.inside(x, params), x, uniform_like(x, params["key"]))


class LocalShuffle(View):
    """The voxels of small blocks change places within their block, in a share of the blocks drawn from 0..`most`.

    block: voxels of a block's edge. Zhou et al., Models Genesis, Medical Image Analysis 2021: there 10,000 boxes of random
    size, one after the other; here blocks side by side, all at once, each by one of 16 orders of its sample.
    """

    orders = 16

    def __init__(self, most: float = 0.6, block: int = 4, probability: float = 0.5):
        super().__init__()
        expect("LocalShuffle's most", most, 0, 1)
        expect("LocalShuffle's block", block, 2)
        self.most, self.block, self.probability = most, block, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"share": uniform(derive_keys(keys, 1), 1, 0, self.most)[:, 0], "key": derive_keys(keys, 2)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        whole = [n // self.block * self.block for n in x.shape[2:]]  # what is left at the ends stays as it is
        corner: tuple[Any, ...] = (..., *(slice(n) for n in whole))
        shuffled = x.clone()
        shuffled[corner] = self.shuffled(x[corner], params)
        return shuffled

    def shuffled(self, x: Tensor, params: Params) -> Tensor:
        key, dims = params["key"], x.ndim - 2
        blocks = [n // self.block for n in x.shape[2:]]
        split = x.reshape(*x.shape[:2], *(n for b in blocks for n in (b, self.block)))
        to_blocks = (0, 1, *range(2, 2 + 2 * dims, 2), *range(3, 2 + 2 * dims, 2))
        parts = split.permute(to_blocks)  # (B, C, *blocks, *block)
        flat = parts.flatten(2 + dims).flatten(2, 1 + dims)  # (B, C, blocks, voxels)
        count, voxels = flat.shape[2:]
        orders = uniform(derive_keys(key, 1), self.orders * voxels).reshape(-1, self.orders, voxels).argsort(2)
        orders = torch.cat([torch.arange(voxels, device=x.device).expand(len(x), 1, -1), orders], 1)  # first: unchanged
        chosen = 1 + uniform(derive_keys(key, 2), count, 0, self.orders).long()
        chosen = chosen * (uniform(derive_keys(key, 3), count) < params["share"][:, None])
        index = orders.gather(1, chosen[..., None].expand(-1, -1, voxels))[:, None].expand_as(flat)
        back = sorted(range(len(to_blocks)), key=to_blocks.__getitem__)
        return flat.gather(3, index).reshape(parts.shape).permute(back).reshape(x.shape)


class PatchMask(View):
    """The blocks that `patch_mask` hides become `fill`; what is hidden is `hidden(x, params)` (B, 1, *S)."""

    def __init__(
        self, ratio: float = 0.6, block: int = 8, kind: MaskKind = "random", fill: float = 0.0, probability: float = 1.0
    ):
        super().__init__()
        expect("PatchMask's block", block, 1)
        expect("PatchMask's ratio", ratio, 0.01, 0.99)
        self.ratio, self.block, self.kind, self.fill, self.probability = ratio, block, kind, fill, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"key": derive_keys(keys, 1)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x.masked_fill(self.hidden(x, params) > 0, self.fill)

    def hidden(self, x: Tensor, params: Params) -> Tensor:
        return patch_mask(params["key"], x.shape[2:], self.block, self.ratio, self.kind, image=x)


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
    high-frequency: the more of `image` (B, C, *S) varies within a block, the earlier it tends to come: drawn without replacement
    with its energy above the block's mean as weight (Efraimidis and Spirakis, Inf. Process. Lett. 2006).
    """
    if kind not in get_args(MaskKind):
        raise MedsslError(f"a mask of kind {kind!r}: expected one of {', '.join(get_args(MaskKind))}")
    count, dims = math.prod(blocks), len(blocks)
    if kind == "block":
        score = nearest_centre(derive_keys(keys, 1), blocks) + 1e-3 * uniform(keys, count)
    elif kind == "tube":
        if dims != 3:
            raise MedsslError(
                f"a mask of kind 'tube' came with {dims} axes: expected slices, 3 axes; use 'random' or 'block'"
            )
        in_plane = uniform(keys, count // blocks[-1])
        score = in_plane.repeat_interleave(blocks[-1], 1)
    else:
        score = -torch.log1p(-uniform(keys, count))  # an exponential race: the first at its end is hidden first
    if kind == "high-frequency":
        if image is None:
            raise MedsslError("a mask of kind 'high-frequency' came without `image`: hand in the view it is to hide")
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
    stretch = uniform(derive_keys(keys, 1), CENTRES * len(blocks), -0.5, 0.5).exp().reshape(centres.shape)
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
