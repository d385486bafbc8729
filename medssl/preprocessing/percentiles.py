"""Percentiles of a scan's voxels, exact, without the copy of all voxels that numpy's selection makes.

    low, high = percentiles(array, (0.5, 99.5))          # as np.percentile(array, (0.5, 99.5)), to the last bit

Voxels are counted by value, part by part: 16-bit ones in one pass, float32 in two (the first counts the upper half of
each number's bits, the second the lower half where the wanted ranks lie).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medssl.scans.geometry import parts_of

HALF = 1 << 16  # numbers that 16 bits can hold


def percentiles(array: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """The wanted percentiles of all values, linear between neighbours as numpy's are.

    Args:
        array: Finite numbers of any shape.
        wanted: From 0 to 100.
    """
    if array.dtype not in (np.int16, np.uint16, np.int8, np.uint8, np.float32):
        return [float(value) for value in np.percentile(array, wanted)]
    places = [(array.size - 1) * (percent / 100) for percent in wanted]
    ranks = sorted({min(int(place) + after, array.size - 1) for place in places for after in (0, 1)})
    at_rank = _float32_at if array.dtype == np.float32 else _integers_at
    values = dict(zip(ranks, at_rank(array, ranks)))
    return [_between(values[int(at)], values[min(int(at) + 1, array.size - 1)], at - int(at)) for at in places]


def _between(low: np.number, high: np.number, share: float) -> float:
    step = float(high - low)  # rounded to the type of both, as numpy does
    return float(high) - step * (1 - share) if share >= 0.5 else float(low) + step * share


def _integers_at(array: np.ndarray, ranks: list[int]) -> list[np.number]:
    """The values at some ranks in ascending order, of an array whose numbers have at most 16 bits."""
    lowest, counts = int(np.iinfo(array.dtype).min), np.zeros(HALF, np.int64)
    for values in _parts(array):
        counts += np.bincount(values.astype(np.int32) - lowest, minlength=HALF)
    return [np.float64(lowest + _at(counts, rank)) for rank in ranks]


def _float32_at(array: np.ndarray, ranks: list[int]) -> list[np.number]:
    """The values at some ranks in ascending order."""
    upper = np.zeros(HALF, np.int64)
    for values in _parts(array):
        upper += np.bincount(_in_order(values) >> 16, minlength=HALF)
    halves = [_at(upper, rank) for rank in ranks]
    lower = {half: np.zeros(HALF, np.int64) for half in halves}
    for values in _parts(array):
        bits = _in_order(values)
        for half, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == half] & (HALF - 1), minlength=HALF)
    before = np.cumsum(upper) - upper
    return [_from_order(half << 16 | _at(lower[half], rank - before[half])) for half, rank in zip(halves, ranks)]


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[part].ravel(order="K") for part in parts_of(array))


def _at(counts: np.ndarray, rank: int) -> int:
    """The number at a rank among so many zeros, ones, twos, ... in ascending order."""
    return int(np.searchsorted(np.cumsum(counts), rank, side="right"))


def _in_order(values: np.ndarray) -> np.ndarray:
    """The bits of float32 as uint32 that ascend as the numbers do: all of them turned if it is negative, else the first."""
    bits = values.view(np.int32)
    return (bits ^ ((bits >> 31) | np.int32(-(1 << 31)))).view(np.uint32)


def _from_order(bits: int) -> np.float32:
    plain = bits ^ (1 << 31) if bits >> 31 else ~bits & 0xFFFFFFFF
    return np.uint32(plain).view(np.float32)
