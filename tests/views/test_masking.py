"""Corruption: boxes and shuffles by numpy's slices; patch masks counted, off air, and of the kind that was asked for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medssl.core.errors import MedsslError
from medssl.views.masking import (
    Cutout,
    InPainting,
    LocalShuffle,
    OutPainting,
    PatchMask,
    block_numbers,
    masking_order,
    patch_mask,
)
from medssl.views.random import derive_keys, make_keys, uniform
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


@pytest.mark.parametrize("size", [(24, 32), (24, 32, 16)])
@pytest.mark.parametrize("kind", ["random", "block", "tube", "high-frequency"])
def test_patch_masks_hide_their_share_of_whole_blocks_by_the_key_alone(size: tuple[int, ...], kind: str) -> None:
    if kind == "tube" and len(size) == 2:
        with pytest.raises(MedsslError, match="3 axes"):
            patch_mask(keys(2), size, 4, 0.5, kind)
        return
    image = torch.rand(5, 2, *size)
    mask = patch_mask(keys(5), size, 4, 0.6, kind, image=image)
    assert mask.shape == (5, 1, *size)
    blocks = F.max_pool2d(mask, 4) if len(size) == 2 else F.max_pool3d(mask, 4)
    assert torch.equal(F.interpolate(blocks, size=size), mask)  # whole blocks
    share = 6 * 8 if kind == "tube" else blocks[0].numel()
    masked, wanted = blocks.sum(tuple(range(1, mask.ndim))), round(0.6 * share) * blocks[0].numel() / share
    agrees(PatchMask, "blocks masked, counted", masked, wanted, 0)
    assert torch.equal(patch_mask(keys(5)[3:4], size, 4, 0.6, kind, image=image[3:4]), mask[3:4])
    assert not torch.equal(mask[0], mask[1])


def test_every_block_is_as_likely_masked() -> None:
    for kind in ("random", "block"):
        mask = patch_mask(keys(4000), (6, 6), 1, 0.5, kind).mean(0)[0]
        tolerance = (
            0.03 if kind == "random" else 0.25
        )  # 4 deviations of the binomial; a block's centre is likelier inside
        assert (mask - 0.5).abs().max() < tolerance


def test_blocks_are_compact_and_tubes_run_through_all_slices() -> None:
    def edges(mask: torch.Tensor) -> float:
        return float((mask.diff(dim=2) != 0).float().mean() + (mask.diff(dim=3) != 0).float().mean())

    assert edges(patch_mask(keys(50), (16, 16), 1, 0.4, "block")) < 0.4 * edges(patch_mask(keys(50), (16, 16), 1, 0.4))
    tube = patch_mask(keys(3), (16, 16, 8), (4, 4, 2), 0.5, "tube")
    assert torch.equal(tube, tube[..., :1].expand_as(tube))


def test_detail_is_masked_first_where_the_image_varies() -> None:
    image = torch.full((200, 1, 16, 16), 0.5)
    image[:, :, :, 8:] = torch.rand(200, 1, 16, 8)
    mask = patch_mask(keys(200), (16, 16), 4, 0.25, "high-frequency", image=image)
    assert mask[..., 8:].sum() / mask.sum() > 0.97
    flat = patch_mask(keys(200), (16, 16), 4, 0.25, "high-frequency", image=torch.zeros_like(image))
    assert abs(flat[..., 8:].mean() - 0.25) < 0.03  # nothing to choose by: every block alike
    with pytest.raises(MedsslError, match="without `image`"):
        patch_mask(keys(2), (16, 16), 4, 0.25, "high-frequency")


@pytest.mark.parametrize("kind", ["random", "block", "tube", "high-frequency"])
def test_masks_stay_off_what_is_not_valid(kind: str) -> None:
    size = (16, 16, 8)
    valid = torch.zeros(4, 1, *size)
    valid[0] = 1
    valid[1, :, :8] = 1  # half is body
    valid[2, :, :3] = 1  # 3 of a block's 4 voxels: more than half
    valid[3, :, :, :, :3] = 1 if kind == "tube" else 0  # a tube is masked where it is valid
    mask = patch_mask(keys(4), size, 4, 0.5, kind, valid, image=torch.rand(4, 1, *size))
    masked = mask.sum((1, 2, 3, 4)) / 64
    assert masked.tolist() == [16, 8, 4, 8 if kind == "tube" else 0]
    assert (mask[1] * (1 - valid[1])).sum() == 0
    strict = patch_mask(keys(4), size, 4, 0.5, kind, valid, min_valid=1.0, image=torch.rand(4, 1, *size))
    assert (strict * (1 - valid)).sum() == 0
    assert strict[2].sum() == 0


def test_the_random_order_is_that_of_the_key_s_uniform_numbers() -> None:
    order = masking_order(keys(3), (4, 5))
    assert torch.equal(order, uniform(keys(3), 20).argsort(1).argsort(1))


def test_masks_refuse_what_means_nothing() -> None:
    with pytest.raises(MedsslError, match="blocks that divide it"):
        patch_mask(keys(1), (16, 18), 4, 0.5)
    with pytest.raises(MedsslError, match="expected one of random, block"):
        patch_mask(keys(1), (16, 16), 4, 0.5, "stripes")
    with pytest.raises(MedsslError, match="between 0 and 1"):
        patch_mask(keys(1), (16, 16), 4, 1.0)


@pytest.mark.parametrize("size", [(20, 30), (20, 16, 24)])
def test_boxes_are_those_of_numpy_s_slices(size: tuple[int, ...]) -> None:
    x = torch.rand(6, 2, *size)
    cut, inside, outside = (kind(3, (0.2, 0.4), probability=1.0) for kind in (Cutout, InPainting, OutPainting))
    params = cut.draw(keys(6))
    cut_out, painted, outpainted = (view(x, params) for view in (cut, inside, outside))
    for b in range(6):
        boxes = np.zeros(size, bool)
        for k in np.flatnonzero(params["present"][b]):
            lengths = [round(float(params["edge"][b, k, a]) * n) for a, n in enumerate(size)]
            starts = [int(float(params["place"][b, k, a]) * (n - m + 1)) for a, (n, m) in enumerate(zip(size, lengths))]
            assert all(0.2 * n - 0.5 <= m <= 0.4 * n + 0.5 for n, m in zip(size, lengths))
            boxes[tuple(slice(s, s + m) for s, m in zip(starts, lengths))] = True
        agrees(Cutout, "numpy slices", cut_out[b], np.where(boxes, 0.0, x[b]), 0)
        agrees(InPainting, "numpy slices", painted[b][:, ~boxes], x[b][:, ~boxes], 0)
        agrees(OutPainting, "numpy slices", outpainted[b][:, boxes], x[b][:, boxes], 0)
        assert not (painted[b][:, boxes] == x[b][:, boxes]).any()
        assert not (outpainted[b][:, ~boxes] == x[b][:, ~boxes]).any()


def test_boxes_are_as_many_as_stated_and_their_noise_is_uniform() -> None:
    counts = np.bincount(Cutout(4).draw(keys(4000))["present"].sum(1).numpy(), minlength=5) / 4000
    assert abs(counts - np.array([0, 1, 1, 1, 1]) / 4).max() < 0.03
    view = OutPainting(1, (0.1, 0.1), 1.0)
    noise = view(torch.full((4, 1, 100, 100), 2.0), view.draw(keys(4)))
    noise = noise[noise < 2]
    assert abs(noise.mean() - 0.5) < 0.005
    assert abs(noise.var() - 1 / 12) < 0.002


@pytest.mark.parametrize("size", [(43, 40), (18, 13, 16)])
def test_shuffled_voxels_stay_in_their_block_and_in_their_channels(size: tuple[int, ...]) -> None:
    x = torch.arange(8 * np.prod(size)).reshape(8, 1, *size).float().repeat(1, 2, *[1] * len(size))
    x[:, 1] += 0.5
    view = LocalShuffle(1.0)
    params = view.draw(keys(8))
    y = view(x, params)
    assert torch.equal(y[:, 0] + 0.5, y[:, 1])  # the same move in every channel
    for before, after, block in zip(x[:, 0], y[:, 0], block_numbers(derive_keys(params["key"], 0), size)):
        given, actual = (image.flatten()[np.lexsort((image.flatten(), block.flatten()))] for image in (before, after))
        agrees(LocalShuffle, "numpy sort of each block", actual, given, 0)
        assert torch.equal(before, after) == (len(block.unique()) == block.numel())


def test_blocks_are_boxes_of_one_size_up_to_a_tenth_of_the_crop() -> None:
    for block in block_numbers(keys(40), (50, 30)):
        edges = [
            counts for counts in (block[:, 0].unique(return_counts=True)[1], block[0].unique(return_counts=True)[1])
        ]
        for along, largest in zip(edges, (5, 3)):
            assert 1 <= along.max() <= largest
            assert (along[1:-1] == along.max()).all()  # those at the ends may be cut
        assert len(block.unique()) == len(edges[0]) * len(edges[1])


def test_a_patch_mask_as_a_view_hides_what_it_says() -> None:
    x = torch.rand(3, 2, 16, 16) + 1
    view = PatchMask(0.5, 4, fill=-1.0)
    params = view.draw(keys(3))
    y, masked = view(x, params), view.patch_mask(x, params) > 0
    assert masked.float().mean() == 0.5
    agrees(PatchMask, "numpy where", y, np.where(masked, -1.0, x), 0)


def test_corruption_can_be_kept_off_air() -> None:
    x, valid = torch.rand(4, 1, 24, 24), torch.zeros(4, 1, 24, 24)
    valid[..., 8:] = 1
    view = InPainting(probability=1.0)
    corrupted = torch.where(valid > 0, view(x, view.draw(keys(4))), x)
    assert torch.equal(corrupted[..., :8], x[..., :8])
    assert not torch.equal(corrupted[..., 8:], x[..., 8:])


def test_ranges_that_mean_nothing_are_rejected_with_a_message() -> None:
    for wrong in (
        lambda: Cutout(0),
        lambda: InPainting(edge=(0.5, 0.2)),
        lambda: OutPainting(edge=(0, 2)),
        lambda: PatchMask(1.0),
        lambda: PatchMask(block=0),
    ):
        with pytest.raises(MedsslError, match=r" is .*: expected"):
            wrong()
