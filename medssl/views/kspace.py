"""What a scanner does to a signal before it is an image: filters in k-space, complex noise.

    y = filter_kspace(x, (frequency(x, 0).abs() < 0.25).float())    # a low-pass along the first spatial axis
    y = add_complex_noise(x, sigma=torch.full((len(x),), 0.05), keys=keys)

A line is one phase-encoding step. Lines are counted along the phase axis, the centre of k-space at half of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.views.base import broadcast_along, check_axes, per_sample
from medssl.views.random import derive_keys, normal_like, uniform
from medssl.views.separable import convolve, gaussian_kernel


def frequency(x: Tensor, axis: int) -> Tensor:
    """Cycles per voxel along one axis, -0.5..0.5 in the order of an FFT; broadcasts over x.

    Args:
        x: (B, C, *S).
        axis: Spatial axis, counted from 0.
    """
    return broadcast_along(torch.fft.fftfreq(x.shape[axis + 2], device=x.device), x, axis)


def filter_kspace(x: Tensor, weights: Tensor) -> Tensor:
    """The real part of an image after its k-space is multiplied by real weights.

    The real part is what a scanner shows that knows the coil's phase. Weights made symmetric give the same, and for those
    half of k-space is enough.

    Args:
        x: (B, C, *S).
        weights: Broadcast over x, in the order of an FFT.
    """
    axes = tuple(range(2, x.ndim))
    mirrored = weights.flip(axes).roll((1,) * len(axes), axes)
    half = (0.5 * (weights + mirrored))[..., : x.shape[-1] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * half, s=x.shape[2:], dim=axes)


def draw_axis(keys: Tensor, axes: Sequence[int]) -> Tensor:
    """(B,) int64: one of `axes` for each sample.

    Args:
        keys: (B,) int64, one per sample.
        axes: Spatial axes to choose from.
    """
    index = uniform(derive_keys(keys, 33), 1, 0, len(axes))[:, 0].long()
    return torch.tensor(axes, device=keys.device)[index]


def phase_lines(x: Tensor, axis: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The phase-encoding line of each place of k-space.

    Args:
        x: (B, C, *S).
        axis: (B,) each sample's phase axis, one of `axes`.
        axes: The spatial axes that can be a phase axis.

    Returns:
        The number of the line that each place is in (in the order of an FFT), and how many lines there are; both
        broadcast over x.
    """
    line = count = per_sample(torch.zeros_like(axis), x)
    for candidate in check_axes(axes, x):
        size, chosen = x.shape[candidate + 2], per_sample(axis == candidate, x)
        numbers = broadcast_along(torch.arange(size, device=x.device).roll(-(size // 2)), x, candidate)
        line, count = torch.where(chosen, numbers, line), torch.where(chosen, size, count)
    return line, count


def smooth_noise(x: Tensor, keys: Tensor, smoothness: float) -> Tensor:
    """Noise of x's shape with mean 0 and standard deviation 1 everywhere.

    Args:
        x: (B, C, *S).
        keys: (B,) int64, one per sample.
        smoothness: Standard deviation, in voxels, of the Gaussian that the noise is smoothed with; 0 for white noise.
    """
    if smoothness == 0:
        return normal_like(x, keys)
    reach = math.ceil(2.5 * smoothness)
    kernel = gaussian_kernel(torch.full((len(x),), smoothness, device=x.device), reach)
    wide = normal_like(x.new_empty(*x.shape[:2], *(n + 2 * reach for n in x.shape[2:])), keys)
    deviation = kernel[0].square().sum() ** (0.5 * (x.ndim - 2))
    return convolve(wide, kernel, pad=False) / deviation


def add_complex_noise(x: Tensor, sigma: Tensor, keys: Tensor, smoothness: float = 0.0) -> Tensor:
    """|x + complex Gaussian noise|, which has Rice's distribution.

    Args:
        x: (B, C, *S).
        sigma: (B,) standard deviation of the real and of the imaginary part.
        keys: (B,) int64, one per sample.
        smoothness: See `smooth_noise`.
    """
    real, imaginary = (smooth_noise(x, derive_keys(keys, i), smoothness) * per_sample(sigma, x) for i in (1, 2))
    return torch.complex(x + real, imaginary).abs()
