"""Padding replaced by the scan's own mirror image, for methods that ask where something lies.

    source = reflect_padding(source, start, extent)

A scan that is smaller than the source is padded. The padding lies at the scan's edge, so a tile that shows some of it tells
where it was cut, and a network learns to see padding in place of anatomy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reflect_padding(source: Tensor, start: Tensor, extent: Tensor) -> Tensor:
    """The source (B, C, *S) with what lies outside of the scan mirrored at the scan's edges, again and again if need be.

    Args:
        source: (B, C, *S), padded where the scan ends.
        start: (B, dims) first voxel of the source in the scan; negative where padding comes first.
        extent: (B, dims) voxels of the scan along each axis.
    """
    sizes = torch.tensor(source.shape[2:], device=start.device)
    if bool(((start >= 0) & (start + sizes <= extent)).all()):
        return source
    for axis, size in enumerate(source.shape[2:]):
        first, count = start[:, axis, None], extent[:, axis, None]
        place = (first + torch.arange(size, device=start.device)) % (2 * count)  # in the scan and its mirror image
        inside = torch.minimum(place, 2 * count - 1 - place) - first
        index = inside.clamp(0, size - 1).reshape(-1, 1, *[size if i == axis else 1 for i in range(source.ndim - 2)])
        source = source.gather(axis + 2, index.expand_as(source))
    return source
