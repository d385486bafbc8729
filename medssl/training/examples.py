"""A few scans as a restoring method saw and restored them, for the report: `examples.npz` in the run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medssl.core.atomic import npz_bytes, write_atomically
from medssl.methods import Method
from medssl.preprocessing.crops import Crops


@torch.no_grad()
def save_examples(method: Method, crops: Crops, path: Path, count: int = 4) -> None:
    """Write the middle slices of the first crops: source, corrupted and restored. A method that restores nothing has none."""
    method.eval()
    batch = default_collate([crops[i] for i in range(min(count, len(crops)))])
    images = method.reconstruct(method.make_views(batch))
    if images:
        slices = {f"{kind}.{n}": x for kind in images for n, x in enumerate(_slices(images[kind]))}
        write_atomically(path, npz_bytes(slices))


def _slices(images: Tensor) -> np.ndarray:
    """(B, C, *S) -> (B, H, W): the first channel, in 3D in the middle of the last axis."""
    channel = images[:, 0].float().numpy()
    return channel if channel.ndim == 3 else channel[..., channel.shape[-1] // 2]
