"""What several views draw over a grid: filters in k-space, curves of intensity, smooth noise.

y = filtered(x, (frequency(x, 2).abs() < 0.25).float())             # a low-pass along the first array axis
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import per_sample
from medssl.views.random import derive_keys, normal_like
from medssl.views.separable import convolved, gaussian


def expect(name: str, value: float | Sequence[float], least: float = 0.0, most: float = math.inf) -> None:
    """Refuse a number, or a (low, high) pair, that does not lie from `least` to `most` in order."""
    low, high = (value, value) if isinstance(value, int | float) else tuple(value)
    if not least <= low <= high <= most:
        kind = "a number" if isinstance(value, int | float) else "low <= high, both"
        raise MedsslError(f"{name} is {value}: expected {kind} from {least:g} to {most:g}")


def on_axis(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """(n,) or (B, n) -> values that meet x (B, C, *S) along the dimension `axis` of x."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = (len(values) if values.ndim == 2 else 1), values.shape[-1]
    return values.reshape(shape)


def frequency(x: Tensor, axis: int) -> Tensor:
    """Cycles a voxel along dimension `axis` of x, -0.5..0.5 in the order of an FFT, ready to meet x."""
    return on_axis(torch.fft.fftfreq(x.shape[axis], device=x.device), x, axis)


def plane(axes: Sequence[int], x: Tensor) -> Sequence[int]:
    """`axes`, or words where x does not have them."""
    if not all(0 <= axis < x.ndim - 2 for axis in axes):
        raise MedsslError(
            f"axes {tuple(axes)} came with an image of {x.ndim - 2} axes, numbered from 0: expected some of those"
        )
    return axes


def filtered(x: Tensor, weights: Tensor) -> Tensor:
    """x (B, C, *S) with its k-space multiplied by real `weights` that meet x's shape, in the order of an FFT.

    The real part of the result: what a scanner shows that knows the coil's phase. It is what Hermitian weights give,
    for which half of k-space will do.
    """
    axes = tuple(range(2, x.ndim))
    mirrored = weights.flip(axes).roll((1,) * len(axes), axes)
    half = (0.5 * (weights + mirrored))[..., : x.shape[-1] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * half, s=x.shape[2:], dim=axes)


def through_curve(x: Tensor, table: Tensor) -> Tensor:
    """x on 0..1 through a piecewise linear curve that takes the values `table` (B, n) at n equally spaced places.

    The curve runs from 0 to 1 or from 1 to 0; values outside of 0..1 keep their excess.
    """
    inside = x.clamp(0, 1)
    place = (inside * (table.shape[1] - 1)).flatten(1)
    left = place.detach().long().clamp(max=table.shape[1] - 2)
    value = table.gather(1, left) + table.diff(dim=1).gather(1, left) * (place - left)
    return value.reshape(x.shape) + (x - inside) * per_sample(table[:, -1] - table[:, 0], x)


def grainy(x: Tensor, keys: Tensor, grain: float) -> Tensor:
    """Noise of x's shape, mean 0 and deviation 1 everywhere, smooth over a Gaussian of `grain` voxels."""
    if grain == 0:
        return normal_like(x, keys)
    reach = math.ceil(2.5 * grain)
    kernel = gaussian(torch.full((len(x),), grain, device=x.device), reach)
    wide = normal_like(x.new_empty(*x.shape[:2], *(n + 2 * reach for n in x.shape[2:])), keys)
    deviation = kernel[0].square().sum() ** (0.5 * (x.ndim - 2))
    return convolved(wide, kernel, pad=False) / deviation


def magnitude(x: Tensor, sigma: Tensor, keys: Tensor, grain: float = 0.0) -> Tensor:
    """|x + complex Gaussian noise of deviation sigma (B,) in each part|: Rice's distribution."""
    real, imaginary = (grainy(x, derive_keys(keys, i), grain) * per_sample(sigma, x) for i in (1, 2))
    return torch.complex(x + real, imaginary).abs()
