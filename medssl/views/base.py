"""A view: one change to a batch of scans, drawn apart from being applied, where the batch lies.

One int64 key a sample says everything: `params = view.draw(keys)`, then `view(x, params)`. The same key gives the same
view whatever the batch split, worker count or device order, and a mask gets the same move as its image.

    view = Compose([Gamma(), Noise()])
    params = view.draw(make_keys(seed=0, parts=(torch.arange(8),)))
    y = view(x, params)                                    # (B, C, *S) -> (B, C, *crop)

A view of your own is one subclass with `parameters_of` and `apply`, in any file; `check_view` proves it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Params = dict[str, Any]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def mix(keys: Tensor, salt: Tensor | int) -> Tensor:
    """New int64 keys from old ones and a number (splitmix64; Steele et al., OOPSLA 2014)."""
    z = keys + (salt + 1) * torch.tensor(_GOLDEN, device=keys.device)
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX_1
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def make_keys(seed: int, parts: Sequence[Tensor | int]) -> Tensor:
    """(B,) keys from a seed and what tells the samples apart (step, scan, view), each (B,) or a number."""
    device = next((p.device for p in parts if isinstance(p, Tensor)), None)
    keys = torch.tensor([seed], dtype=torch.int64, device=device)
    for part in parts:
        keys = mix(keys, part)
    return mix(keys, 0)


def uniform(keys: Tensor, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(B, count) float32 in [low, high), a function of the keys alone."""
    numbers = torch.arange(1, count + 1, device=keys.device)
    bits = (mix(keys[:, None], numbers) >> 40) & 0xFFFFFF  # the top 24 bits: what a float32 holds
    return low + (high - low) * bits.float() / 2**24


def normal_like(x: Tensor, keys: Tensor) -> Tensor:
    """Standard normal noise of x's shape, sample b from keys[b] alone."""
    noise = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    generator = torch.Generator(device=x.device)
    for row, key in zip(noise, keys.tolist()):
        generator.manual_seed(key)
        row.normal_(generator=generator)
    return noise.to(x.dtype)


class View(nn.Module, ABC):
    """Base of all views; subclasses say what they draw and how they apply it, for any number of axes.

    probability: the chance that a sample gets the view at all.
    """

    probability: float = 1.0

    def draw(self, keys: Tensor) -> Params:
        """Parameters for a batch, from one int64 key a sample, (B,); every tensor in them has B rows."""
        params = self.parameters_of(keys)
        if self.probability < 1:
            params["on"] = uniform(mix(keys, 977), 1)[:, 0] < self.probability
        return params

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, *S) -> (B, C, *crop)."""
        changed = self.apply_to(x, params)
        return torch.where(rows(params["on"], x), changed, x) if "on" in params else changed

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        """The same move for a mask (B, 1, *S) with the same parameters; only moves in space change it."""
        return mask

    @abstractmethod
    def parameters_of(self, keys: Tensor) -> Params: ...

    @abstractmethod
    def apply_to(self, x: Tensor, params: Params) -> Tensor: ...


class Compose(View):
    """Views one after the other, each with keys of its own."""

    def __init__(self, views: Sequence[View]):
        super().__init__()
        self.views = nn.ModuleList(views)

    def parameters_of(self, keys: Tensor) -> Params:
        return {str(i): view.draw(mix(keys, i)) for i, view in enumerate(self._each())}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self._each()):
            x = view(x, params[str(i)])
        return x

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self._each()):
            mask = view.mask(mask, params[str(i)])
        return mask

    def _each(self) -> list[View]:
        return list(self.views)  # type: ignore[arg-type]


def rows(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to meet x (B, C, *S)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def check_view(view: View, dims: int, size: Sequence[int] | None = None, channels: int = 1) -> None:
    """Raise AssertionError unless `view` keeps the contract: replayable, batch-free, finite, mask-safe."""
    shape = tuple(size or (24,) * dims)
    x = torch.linspace(0, 1, 3 * channels * math.prod(shape)).reshape(3, channels, *shape)
    keys = make_keys(7, (torch.arange(3),))
    params = view.draw(keys)
    whole = view(x, params)
    assert whole.shape[:2] == x.shape[:2], f"{view} turned {tuple(x.shape)} into {tuple(whole.shape)}"
    assert torch.equal(whole, view(x, params)), f"{view} is not a function of its parameters"
    single = torch.cat([view(x[i : i + 1], view.draw(keys[i : i + 1])) for i in range(3)])
    assert torch.allclose(whole, single, atol=1e-5), f"{view} depends on who else is in the batch"
    assert torch.isfinite(view(torch.zeros_like(x), params)).all(), f"{view} is not finite on constant input"
    mask = (x[:, :1] > 0.5).float()
    moved = view.mask(mask, params)
    assert moved.shape[2:] == whole.shape[2:], f"{view} moves image and mask to different sizes"
    assert set(moved.unique().tolist()) <= {0.0, 1.0}, f"{view} invents mask labels"
