"""Right-angle turns: the 4 of a square, the 24 of a cube. Voxels change places, none is interpolated.

    view = RightAngle()
    params = view.draw(keys)                               # params["turn"]: 0..3 or 0..23, 0 is as it was
    y = view(x, params)                                    # (B, C, *S), all edges equal

Mirrored copies are no turns and are left out. Used as a pretext by Gidaris et al., ICLR 2018 (arXiv 1803.07728) in 2D
and Taleb et al., NeurIPS 2020 (arXiv 2006.03829) in 3D.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View
from medssl.views.random import uniform

Turn = tuple[tuple[int, ...], tuple[int, ...]]  # the order of the axes, the axes reversed after that


class RightAngle(View):
    """A right-angle turn drawn evenly from all; `turn` is its number in `orientations`."""

    def __init__(self, axes: int = 3, probability: float = 1.0):
        super().__init__()
        if axes not in (2, 3):
            raise MedsslError(f"axes is {axes}: expected 2 or 3")
        self.axes, self.dims, self.probability = axes, (axes,), probability

    @classmethod
    def example(cls, dims: int) -> View:
        return cls(dims)

    def parameters_of(self, keys: Tensor) -> Params:
        return {"turn": (uniform(keys, 1)[:, 0] * len(orientations(self.axes))).long()}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return turned(x, params["turn"])

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        return turned(mask, params["turn"])


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """(B, C, *S) with equal edges, each sample by its own number of `orientations`: one gather, no loop over samples."""
    size, dims = x.shape[2:], x.ndim - 2
    if len(set(size)) > 1:
        raise MedsslError(f"a crop of {tuple(size)} has unequal edges: right-angle turns need equal ones")
    signed = torch.tensor([_steps(how) for how in orientations(dims)], device=x.device)[turn]  # (B, d, 2)
    n = size[0]
    place = torch.arange(n, device=x.device)
    index = torch.zeros(len(x), *[1] * dims, dtype=torch.int64, device=x.device)
    for axis in range(dims):
        step, back = (t.reshape(-1, 1) for t in signed[:, axis].unbind(1))
        along = torch.where(back > 0, n - 1 - place, place) * n**step  # (B, n)
        index = index + along.reshape(len(x), *[n if a == axis else 1 for a in range(dims)])
    return x.flatten(2).gather(2, index.reshape(len(x), 1, -1).expand(-1, x.shape[1], -1)).reshape(x.shape)


def orientations(dims: int) -> list[Turn]:
    """All right-angle turns of a square (4) or a cube (24), the unturned one first."""
    turns = []
    for order in itertools.permutations(range(dims)):
        parity = sum(a > b for a, b in itertools.combinations(order, 2))
        for flips in itertools.product((0, 1), repeat=dims):
            if (parity + sum(flips)) % 2 == 0:  # determinant +1: a turn, no mirror image
                turns.append((order, tuple(i for i in range(dims) if flips[i])))
    return turns


def _steps(how: Turn) -> list[tuple[int, int]]:
    """For each axis of the result: the power of n that one step along it is in the source, and whether it runs back."""
    order, reversed_axes = how
    return [(len(order) - 1 - source, int(axis in reversed_axes)) for axis, source in enumerate(order)]
