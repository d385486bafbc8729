"""The masks of a cell: a slice is read without the rest, older studies are read, and nothing damaged is taken for a mask."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from medssl.core.atomic import npz_bytes
from medssl.core.errors import MedsslError
from medssl.studies import masks


@pytest.fixture
def predicted() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 3, (40, 50, 70), dtype=np.uint8) for name in ("a", "b")}


@pytest.mark.parametrize("start", [(0, 0, 12), (0, 30, 0), (39, 0, 0)])
def test_a_slice_is_that_of_the_mask_in_new_and_old_studies(predicted, tmp_path: Path, start) -> None:
    size = [1 if first else length for first, length in zip(start, (40, 50, 70), strict=True)]
    expected = predicted["b"][tuple(slice(n, n + count) for n, count in zip(start, size, strict=True))]
    masks.write(tmp_path / "new", predicted)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "masks.npz").write_bytes(npz_bytes(predicted))
    for cell in ("new", "old"):
        np.testing.assert_array_equal(masks.read(tmp_path / cell, "b", start, size), expected)
        assert masks.read(tmp_path / cell, "c", start, size) is None
    assert masks.read(tmp_path, "b", start, size) is None


def test_an_image_is_read_as_a_whole(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    masks.write(tmp_path, {"a": image})
    np.testing.assert_array_equal(masks.read(tmp_path, "a", (0, 0), (3, 4)), image)


def test_a_slice_unpacks_a_small_part_of_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((256, 256, 192), dtype=np.uint8)
    mask[100:150, 90:160, 60:90] = 1
    masks.write(tmp_path, {"a": mask})
    tracemalloc.start()
    part = masks.read(tmp_path, "a", (0, 0, 70), (256, 256, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(part, mask[:, :, 70:71])
    assert peak < mask.nbytes / 10


def test_what_is_no_mask_of_this_scan_is_refused_in_words(predicted, tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    masks.write(cell, predicted)
    with pytest.raises(MedsslError, match="expected a mask on the grid of the scan"):
        masks.read(cell, "a", (0, 0, 0), (41, 50, 1))
    with pytest.raises(MedsslError, match="leads out of its folder"):
        masks.read(cell, "../../outside", (0, 0, 0), (1, 1, 1))
    (cell / "masks" / "a.b2nd").write_bytes(b"cut off")
    with pytest.raises(MedsslError, match="cannot be read"):
        masks.read(cell, "a", (0, 0, 0), (40, 50, 1))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "masks.npz").write_bytes(b"PK cut off")
    with pytest.raises(MedsslError, match="cannot be read"):
        masks.read(tmp_path / "old", "a", (0, 0, 0), (40, 50, 1))
