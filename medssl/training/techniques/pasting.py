"""Copy-paste of structures (Ghiasi et al. 2021, arXiv 2012.07177): a crop gets structures of another crop of its batch, with
their labels, so that few labelled scans give many arrangements.

x, target = paste_structures(x, target, keys, share=0.5)
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.views.random import derive_keys, uniform


def paste_structures(x: Tensor, target: Tensor, keys: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Paste structures of each crop's predecessor in the batch, each with probability 1/2, at the place they have there.

    Args:
        x: Crops (B, C, *S).
        target: Class numbers (B, 1, *S); 0 is the background.
        keys: The samples' keys (B,), which decide.
        share: Share of the crops that get structures.

    Returns:
        Crops and class numbers of the same shapes. A batch of one crop is returned as it is.
    """
    donor, numbers = x.roll(1, 0), target.roll(1, 0)
    drawn = uniform(derive_keys(keys, 41), 1 + int(numbers.max().item() + 1)).to(x.device)
    pasted = (drawn[:, 1:] < 0.5) & (drawn[:, :1] < share)
    pasted[:, 0] = False
    inside = pasted.gather(1, numbers.long().flatten(1)).view_as(target)
    return torch.where(inside, donor, x), torch.where(inside, numbers, target)
