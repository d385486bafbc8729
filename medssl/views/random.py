"""Random numbers from keys: one int64 key per sample decides everything, on every device and for every batch split.

    keys = make_keys(seed=0, parts=(torch.arange(8), 3))   # (8,) from a seed, eight scans and a step
    numbers = uniform(keys, 3)                             # (8, 3) in [0, 1)
    noise = normal_like(x, derive_keys(keys, 1))           # a key of its own, so that it is independent of `numbers`

There is no generator and no state: the same key always gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_FACTOR_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_FACTOR_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive_keys(keys: Tensor, salt: Tensor | int) -> Tensor:
    """New int64 keys from old ones and a number (splitmix64; Steele et al., OOPSLA 2014).

    Args:
        keys: int64 of any shape.
        salt: A number, or int64 that broadcasts with `keys`. Different numbers give independent keys.
    """
    z = keys + (salt + 1) * torch.tensor(_GOLDEN, device=keys.device)
    for shift, low_bits, factor in ((30, 0x3FFFFFFFF, _FACTOR_1), (27, 0x1FFFFFFFFF, _FACTOR_2), (31, 0x1FFFFFFFF, 1)):
        z.bitwise_xor_((z >> shift).bitwise_and_(low_bits)).mul_(factor)
    return z


def make_keys(seed: int, parts: Sequence[Tensor | int]) -> Tensor:
    """(B,) int64 keys from a seed and whatever distinguishes the samples.

    Args:
        seed: The seed of the whole run.
        parts: Step, scan number, view number and so on, each (B,) int64 or one number.
    """
    device = next((p.device for p in parts if isinstance(p, Tensor)), None)
    keys = torch.tensor([seed], dtype=torch.int64, device=device)
    for part in parts:
        keys = derive_keys(keys, part)
    return derive_keys(keys, 0)


def uniform(keys: Tensor, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(B, count) float32, uniform in [low, high), each row from its key alone.

    Args:
        keys: (B,) int64, one per sample.
        count: Numbers for each sample.
        low: The lowest number.
        high: The upper limit, which is not reached.
    """
    numbers = torch.arange(1, count + 1, device=keys.device)
    bits = (derive_keys(keys[:, None], numbers) >> 40) & 0xFFFFFF  # the top 24 bits: what a float32 holds
    return low + (high - low) * bits.float() / 2**24


def log_uniform(keys: Tensor, ends: tuple[float, float]) -> Tensor:
    """(B,) float32, as likely from 1 to 10 as from 10 to 100.

    Args:
        keys: (B,) int64, one per sample.
        ends: The lowest number and the upper limit, both above 0.
    """
    return uniform(keys, 1, math.log(ends[0]), math.log(ends[1]))[:, 0].exp()


def uniform_like(x: Tensor, keys: Tensor) -> Tensor:
    """Noise of x's shape, uniform in [0, 1), sample b from keys[b] alone.

    Args:
        x: (B, ...).
        keys: (B,) int64, one per sample.
    """
    return uniform(keys, x[0].numel()).reshape(x.shape)


def normal_like(x: Tensor, keys: Tensor) -> Tensor:
    """Standard normal noise of x's shape, sample b from keys[b] alone, the same on every device.

    Counter-based: each int64 of splitmix64 gives four uniform numbers of 16 bits, and these four normal ones (Box and
    Muller 1958), which end at 4.9 standard deviations. Nothing here makes a GPU wait.

    Args:
        x: (B, ...).
        keys: (B,) int64, one per sample.
    """
    noise = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    count, flat = noise[0].numel(), noise.flatten(1)
    counters = torch.arange(1, -(-count // 4) + 1, device=x.device)
    bits = derive_keys(keys[:, None], counters).view(torch.int16)  # (B, count or a few more)
    numbers, half = bits.float().add_(32768.5).div_(65536), -(-count // 2)
    radius, angle = numbers[:, :half].log_().mul_(-2).sqrt_(), numbers[:, half : 2 * half].mul_(2 * math.pi)
    torch.mul(radius, angle.cos(), out=flat[:, :half])
    torch.mul(radius[:, : count - half], angle[:, : count - half].sin_(), out=flat[:, half:])
    return noise.to(x.dtype)
