"""Copies of a scan with other voxels are alike, other scans are not; a study names the scored scans that have such a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from medssl.datasets.near_duplicates import alike, outline, outlines
from medssl.datasets.splits import SplitSpec
from medssl.preprocessing.cache import Cache
from medssl.studies.seen_scans import near_duplicates


def picture(seed: int, shape: tuple[int, ...] = (1, 96, 90)) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5, axes=range(1, len(shape)))


@pytest.mark.parametrize("shape", [(1, 96, 90), (2, 40, 36, 44)])
def test_a_copy_is_alike_and_another_scan_is_not(shape: tuple[int, ...]) -> None:
    scan = picture(0, shape)
    noise = np.random.default_rng(9).normal(0, 0.03 * scan.std(), shape)
    half = scan[(slice(None), *[slice(None, None, 2)] * (len(shape) - 1))]
    copies = [scan.astype(np.float16), 3 * scan - 7, np.exp(scan), scan + noise, half]
    assert alike([outline(scan)], [outline(copy) for copy in copies]).all()
    assert not alike([outline(scan)], [outline(picture(seed, shape)) for seed in range(1, 30)]).any()


def test_short_axes_and_scans_of_other_axes_do_no_harm() -> None:
    flat, image = outline(picture(0, (1, 40, 40, 3))), outline(picture(1))
    assert len(flat) == len(outline(picture(1, (1, 40, 36, 44))))
    assert alike([flat, image], [image, flat, image]).tolist() == [[False, True, False], [True, False, True]]
    assert alike([], [image]).shape == (0, 1)


def test_a_study_names_scored_scans_that_nearly_equal_one_of_another_patient(cache: Cache, tmp_path: Path) -> None:
    roles = SplitSpec().roles(cache.manifest)
    test = cache.manifest[cache.manifest["patient"].map(roles) == "test"]
    trained = cache.manifest[cache.manifest["patient"].map(roles) == "train"]
    seen = trained[["digest", "patient"]].assign(outline=outlines(cache.read, trained["scan"]))
    (tmp_path / "seen.parquet").write_bytes(seen.to_parquet())
    arms = {"a": (tmp_path,)}
    assert near_duplicates(arms, cache, roles, {"test"}) == {}
    first, second = test["scan"].iloc[:2]
    copy = cache.read(first) * np.float32(1.01)  # of a patient who has another name there
    own = {"digest": "x", "patient": test["patient"].iloc[1], "outline": outline(cache.read(second))}
    other = {"digest": "y", "patient": "0" * 12, "outline": outline(copy)}
    (tmp_path / "seen.parquet").write_bytes(pd.concat([seen, pd.DataFrame([own, other])]).to_parquet())
    with pytest.warns(UserWarning, match=f"1 scored scan.*another patient that a was pretrained on: {first}"):
        assert near_duplicates(arms, cache, roles, {"test"}) == {"a": [first]}
    (tmp_path / "seen.parquet").write_bytes(trained[["digest", "patient"]].to_parquet())  # of before
    assert near_duplicates(arms, cache, roles, {"test"}) == {}
