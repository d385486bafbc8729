"""Work done one axis at a time as small matrix products: spreading a coarse grid, blurring, averaging into thick slices.

    field = spread(controls, [bspline_weights(n, k) for n, k in zip(size, controls.shape[2:])])
    blurred = along(x, gaussian(n, sigma), axis=0)         # (B, C, *S), each sample its own sigma

A matrix an axis says all there is about the edges, has no kernel to cut off, takes other numbers for each sample
without a branch, and is what both CPUs and GPUs are fastest at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """(B, C, *S) with a matrix (m, n), or one a sample (B, m, n), applied to axis `axis` of S, n long -> m long."""
    before, after = x.shape[: axis + 2], x.shape[axis + 3 :]
    if not after:
        found = x.reshape(*_batches(x, matrix), -1, x.shape[-1]) @ matrix.mT
    else:
        lines = x.reshape(*_batches(x, matrix), -1, x.shape[axis + 2], after.numel())
        found = (matrix[:, None] if matrix.ndim == 3 else matrix) @ lines
    return found.reshape(*before, matrix.shape[-2], *after)


def spread(controls: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(B, C, *control), one (n, control) an axis -> (B, C, *n): the tensor product of the weights."""
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


def gaussian(n: int, sigma: Tensor, reach: int) -> Tensor:
    """(B,) standard deviations in voxels -> (B, n, n): a Gaussian blur of n voxels, the first and last repeated `reach`
    voxels beyond, where the Gaussian ends. A sigma of 0 gives the identity."""
    apart = torch.arange(-reach, n + reach, device=sigma.device) - torch.arange(n, device=sigma.device)[:, None]
    weight = (-0.5 * (apart / sigma.clamp(min=1e-3)[:, None, None]) ** 2).exp()  # (B, n, n + 2 * reach)
    weight = weight / weight.sum(2, keepdim=True)
    inside = weight[..., reach : reach + n].clone()
    inside[..., 0] += weight[..., :reach].sum(2)
    inside[..., -1] += weight[..., reach + n :].sum(2)
    return inside


def _batches(x: Tensor, matrix: Tensor) -> tuple[int, ...]:
    return (len(x),) if matrix.ndim == 3 else ()
