"""The middle of each scan, as a model sees it at test time.

x = center_crops(cache, scans, size=(32, 32, 32))        # (N, C, 32, 32, 32)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medssl.preprocessing.cache import Cache
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import make_keys


def center_crops(
    cache: Cache, scans: Sequence[str], size: Sequence[int], view: View | None = None, seed: int = 0
) -> torch.Tensor:
    """Return the middle of each scan (N, C, *size), padded with air where the scan is smaller.

    Args:
        cache: Where the scans are.
        scans: Scans to read.
        size: Voxels of a crop along each axis.
        view: View to apply; by default the one that models see at test time.
        seed: Seed of the view.
    """
    crops = []
    for scan in scans:
        start = [(n - s) // 2 for n, s in zip(cache.shape(scan), size)]
        crops.append(torch.from_numpy(np.asarray(cache.read(scan, start, size), np.float32)))
    x = torch.stack(crops)
    view = view or recipes.plain(cache.data_spec)
    return view(x, view.draw(make_keys(seed, (torch.arange(len(x)),))))
