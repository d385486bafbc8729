"""Percentiles without a copy are numpy's to the last bit, of every type and order in memory."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.preprocessing.percentiles import percentiles
from medssl.scans import geometry

WANTED = (0.5, 99.5, 0, 50, 100, 33.3)


@pytest.mark.parametrize("dtype", ["i2", "u2", "i1", "u1", "f4", ">f4", ">i2", "i4", "f8"])
def test_they_are_those_of_numpy(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PART_VOXELS", 50)  # several parts
    random = np.random.default_rng(0)
    for size in (1, 2, 3, 40, 200, 201):
        values = random.normal(60, 20, (2, size, 3)).astype(dtype)
        for array in (values, values.T, values[:, ::-1], np.moveaxis(values, 1, 2)):
            assert percentiles(array, WANTED) == np.percentile(array, WANTED).tolist(), size


def test_negative_zero_and_extreme_numbers_stand_in_order() -> None:
    values = np.array([-3e38, -1e-40, -0.0, 0.0, 1e-40, 2.5, 3e38] * 3, np.float32)
    assert percentiles(values, WANTED) == np.percentile(values, WANTED).tolist()


def test_neighbours_far_apart_do_not_wrap_round() -> None:
    """numpy subtracts neighbours as int16: 50 percent of these are 0, and it says -32768."""
    assert percentiles(np.array([-30000, 30000], np.int16), [50]) == [0.0]
