"""Right-angle turns: the 4 of a square, the 24 of a cube. Voxels change places; none is interpolated.

    view = RightAngle(axes=3)
    params = view.draw(keys)                               # params["turn"]: 0..23 (0..3 in 2D), 0 leaves the scan as it is
    y = view(x, params)                                    # (B, C, *S), all edges equal

Mirror images are not turns and are left out. Used as a pretext by Gidaris et al., ICLR 2018 (arXiv 1803.07728) in 2D
and Taleb et al., NeurIPS 2020 (arXiv 2006.03829) in 3D.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View
from medssl.views.random import uniform

Turn = tuple[tuple[int, ...], tuple[int, ...]]  # the order of the axes, then the axes that are reversed after that


class RightAngle(View):
    """A right-angle turn, drawn evenly from all; `turn` is its number in `orientations`.

    Args:
        axes: The number of spatial axes, 2 or 3.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = RightAngle(axes=3)
    """

    def __init__(self, axes: int = 3, probability: float = 1.0):
        super().__init__()
        if axes not in (2, 3):
            raise MedsslError(f"axes is {axes}: expected 2 or 3")
        self.axes, self.dims, self.probability = axes, (axes,), probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(dims),)

    def parameters_of(self, keys: Tensor) -> Params:
        return {"turn": (uniform(keys, 1)[:, 0] * len(orientations(self.axes))).long()}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return turn_batch(x, params["turn"])

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        return turn_batch(mask, params["turn"])


def turn_batch(x: Tensor, turn: Tensor) -> Tensor:
    """Each sample turned by its own right-angle turn, in one gather.

    Args:
        x: (B, C, *S) with equal edges.
        turn: (B,) int64, numbers of `orientations`.
    """
    size, dims = x.shape[2:], x.ndim - 2
    if len(set(size)) > 1:
        raise MedsslError(f"a crop of {tuple(size)} has unequal edges: right-angle turns need equal ones")
    steps = torch.tensor([_source_steps(one) for one in orientations(dims)], device=x.device)[turn]  # (B, d, 2)
    n = size[0]
    place = torch.arange(n, device=x.device)
    index = torch.zeros(len(x), *[1] * dims, dtype=torch.int64, device=x.device)
    for axis in range(dims):
        power, backwards = (t.reshape(-1, 1) for t in steps[:, axis].unbind(1))
        along = torch.where(backwards > 0, n - 1 - place, place) * n**power  # (B, n)
        index = index + along.reshape(len(x), *[n if a == axis else 1 for a in range(dims)])
    return x.flatten(2).gather(2, index.reshape(len(x), 1, -1).expand(-1, x.shape[1], -1)).reshape(x.shape)


def orientations(dims: int) -> list[Turn]:
    """All right-angle turns of a square (4) or a cube (24), the one that changes nothing first."""
    turns = []
    for order in itertools.permutations(range(dims)):
        parity = sum(a > b for a, b in itertools.combinations(order, 2))
        for flips in itertools.product((0, 1), repeat=dims):
            if (parity + sum(flips)) % 2 == 0:  # determinant +1: a turn, no mirror image
                turns.append((order, tuple(i for i in range(dims) if flips[i])))
    return turns


def _source_steps(turn: Turn) -> list[tuple[int, int]]:
    """For each axis of the result: one step along it is n to this power in the source; whether it runs backwards."""
    order, reversed_axes = turn
    return [(len(order) - 1 - source, int(axis in reversed_axes)) for axis, source in enumerate(order)]
