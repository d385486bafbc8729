"""Work done one axis at a time: spreading a coarse grid, blurring, averaging into thick slices.

field = spread(controls, [bspline_weights(n, k) for n, k in zip(size, controls.shape[2:])])
blurred = convolved(x, gaussian(sigma, reach=4))            # (B, C, *S), each sample its own sigma
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """(B, C, *S) with a matrix (m, n), or one a sample (B, m, n), applied to axis `axis` of S, n long -> m long."""
    if matrix.ndim == 3:
        lines = x.movedim(axis + 2, -1)
        found = lines.reshape(len(x), -1, lines.shape[-1]) @ matrix.mT
        return found.reshape(*lines.shape[:-1], -1).movedim(-1, axis + 2)
    before, after = x.shape[: axis + 2], x.shape[axis + 3 :]
    found = matrix @ x.reshape(-1, x.shape[axis + 2], after.numel()) if after else x @ matrix.T
    return found.reshape(*before, len(matrix), *after)


def spread(controls: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(B, C, *control, ...), one (n, control) an axis -> (B, C, *n, ...): the tensor product of the weights."""
    for axis in reversed(range(len(weights))):  # the first axis comes last: one large product for each channel
        controls = along(controls, weights[axis], axis)
    return controls


def bspline_weights(n: int, count: int) -> Tensor:
    """(n, count): cubic B-spline control points spread evenly over n voxels, one cell beyond at either end; rows sum to 1."""
    step = (n - 1) / (count - 3) or 1.0
    knots = step * (torch.arange(count, dtype=torch.float64) - 1)
    return cubic_bspline((torch.arange(n)[:, None] - knots) / step).float()


def cubic_bspline(t: Tensor) -> Tensor:
    """The cubic B-spline at a distance of t knots (de Boor 1978)."""
    t = t.abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)


def hat(t: Tensor) -> Tensor:
    """(n, 2) distances to two knots -> the weights of the line through them, beyond them too."""
    return torch.cat([1 - t[:, :1], 1 + t[:, 1:]], 1)


def convolved(x: Tensor, kernel: Tensor, pad: bool = True) -> Tensor:
    """(B, C, *S) convolved along every axis with its sample's kernel (B, 2 * reach + 1), ends repeated beyond; without
    `pad` only what needs no ends: shorter by 2 * reach.

    Shifted copies are weighed and added up: for few taps that beats a grouped convolution (12 times, in 3D on a CPU) and
    a matrix product.
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


def gaussian(sigma: Tensor, reach: int) -> Tensor:
    """(B,) standard deviations in voxels -> (B, 2 * reach + 1), which add up to 1; a sigma of 0 leaves all as it is."""
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = (-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2).exp()
    return kernel / kernel.sum(1, keepdim=True)
