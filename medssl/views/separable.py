"""Work done one axis at a time: interpolating a coarse grid, blurring, averaging into thick slices.

field = interpolate_grid(controls, weights)            # (B, C, *coarse) -> (B, C, *S), one (n, coarse) per axis
blurred = convolve(x, gaussian_kernel(sigma, reach=4)) # (B, C, *S), each sample its own sigma
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def multiply_axis(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Every line of voxels along one axis times a matrix: n voxels become m.

    Args:
        x: (B, C, *S).
        matrix: (m, n), or one per sample (B, m, n).
        axis: Spatial axis, counted from 0.
    """
    if matrix.ndim == 3:
        lines = x.movedim(axis + 2, -1)
        product = lines.reshape(len(x), -1, lines.shape[-1]) @ matrix.mT
        return product.reshape(*lines.shape[:-1], -1).movedim(-1, axis + 2)
    before, after = x.shape[: axis + 2], x.shape[axis + 3 :]
    product = matrix @ x.reshape(-1, x.shape[axis + 2], after.numel()) if after else x @ matrix.T
    return product.reshape(*before, len(matrix), *after)


def interpolate_grid(controls: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The tensor product of one-dimensional interpolations.

    Args:
        controls: (B, C, *coarse, ...) values at coarse places; further axes are kept.
        weights: One (n, coarse) per axis: the weight of each coarse value at each of n places.

    Returns:
        (B, C, *n, ...)
    """
    for axis in reversed(range(len(weights))):  # the first axis comes last: one large product for each channel
        controls = multiply_axis(controls, weights[axis], axis)
    return controls


def cubic_bspline(t: Tensor) -> Tensor:
    """The cubic B-spline at a distance of t knots (de Boor 1978)."""
    t = t.abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)


def linear_weights(t: Tensor) -> Tensor:
    """Distances (n, 2) to two knots -> the weights of the straight line through them, which holds beyond them too."""
    return torch.cat([1 - t[:, :1], 1 + t[:, 1:]], 1)


def convolve(x: Tensor, kernel: Tensor, pad: bool = True) -> Tensor:
    """Every sample convolved along each axis with its own kernel.

    Shifted copies are weighted and added up: for few taps that is faster than a grouped convolution (12 times, in 3D on
    a CPU) and than a matrix product.

    Args:
        x: (B, C, *S).
        kernel: (B, 2 * reach + 1).
        pad: Repeat the voxels at the ends. Without it the result is shorter by 2 * reach per axis.
    """
    taps, reach = kernel.reshape(*kernel.shape, *[1] * (x.ndim - 1)), kernel.shape[1] // 2
    for axis, n in enumerate(x.shape[2:], start=2):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
        wide = torch.cat([*[first] * reach, x, *[last] * reach], axis) if pad else x
        length = wide.shape[axis] - 2 * reach
        x = wide.narrow(axis, 0, length) * taps[:, 0]
        for i in range(1, kernel.shape[1]):
            x.addcmul_(wide.narrow(axis, i, length), taps[:, i])
    return x


def gaussian_kernel(sigma: Tensor, reach: int) -> Tensor:
    """A Gaussian for each sample, (B, 2 * reach + 1), that adds up to 1; a sigma of 0 gives the identity.

    Args:
        sigma: (B,) standard deviations in voxels.
        reach: Voxels on each side of the middle.
    """
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = (-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2).exp()
    return kernel / kernel.sum(1, keepdim=True)
