"""Patch masks: counted, apart from air, and of the kind that was asked for."""

import pytest
import torch
import torch.nn.functional as F

from medssl.errors import MedsslError
from medssl.views.base import make_keys, uniform
from medssl.views.corruption import hiding_order, patch_mask


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


@pytest.mark.parametrize("size", [(24, 32), (24, 32, 16)])
@pytest.mark.parametrize("kind", ["random", "block", "tube", "detail"])
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
    assert blocks.sum(tuple(range(1, mask.ndim))).tolist() == [round(0.6 * share) * blocks[0].numel() / share] * 5
    assert torch.equal(patch_mask(keys(5)[3:4], size, 4, 0.6, kind, image=image[3:4]), mask[3:4])
    assert not torch.equal(mask[0], mask[1])


def test_every_block_is_as_likely_hidden() -> None:
    for kind in ("random", "block"):
        mask = patch_mask(keys(4000), (6, 6), 1, 0.5, kind).mean(0)[0]
        spread = 0.03 if kind == "random" else 0.25  # 4 deviations of the binomial; a block's centre is likelier inside
        assert (mask - 0.5).abs().max() < spread


def test_blocks_are_compact_and_tubes_run_through_all_slices() -> None:
    def edges(mask: torch.Tensor) -> float:
        return float((mask.diff(dim=2) != 0).float().mean() + (mask.diff(dim=3) != 0).float().mean())

    assert edges(patch_mask(keys(50), (16, 16), 1, 0.4, "block")) < 0.4 * edges(patch_mask(keys(50), (16, 16), 1, 0.4))
    tube = patch_mask(keys(3), (16, 16, 8), (4, 4, 2), 0.5, "tube")
    assert torch.equal(tube, tube[..., :1].expand_as(tube))


def test_detail_is_hidden_first_where_the_image_varies() -> None:
    image = torch.full((200, 1, 16, 16), 0.5)
    image[:, :, :, 8:] = torch.rand(200, 1, 16, 8)
    mask = patch_mask(keys(200), (16, 16), 4, 0.25, "detail", image=image)
    assert mask[..., 8:].sum() / mask.sum() > 0.97
    flat = patch_mask(keys(200), (16, 16), 4, 0.25, "detail", image=torch.zeros_like(image))
    assert abs(flat[..., 8:].mean() - 0.25) < 0.03  # nothing to choose by: every block alike
    with pytest.raises(MedsslError, match="without `image`"):
        patch_mask(keys(2), (16, 16), 4, 0.25, "detail")


@pytest.mark.parametrize("kind", ["random", "block", "tube", "detail"])
def test_masks_stay_off_what_is_not_valid(kind: str) -> None:
    size = (16, 16, 8)
    valid = torch.zeros(4, 1, *size)
    valid[0] = 1
    valid[1, :, :8] = 1  # half is body
    valid[2, :, :3] = 1  # 3 of a block's 4 voxels: more than half
    valid[3, :, :, :, :3] = 1 if kind == "tube" else 0  # a tube is hidden where it is valid
    mask = patch_mask(keys(4), size, 4, 0.5, kind, valid, image=torch.rand(4, 1, *size))
    hidden = mask.sum((1, 2, 3, 4)) / 64
    assert hidden.tolist() == [16, 8, 4, 8 if kind == "tube" else 0]
    assert (mask[1] * (1 - valid[1])).sum() == 0
    strict = patch_mask(keys(4), size, 4, 0.5, kind, valid, least_valid=1.0, image=torch.rand(4, 1, *size))
    assert (strict * (1 - valid)).sum() == 0
    assert strict[2].sum() == 0


def test_the_random_order_is_that_of_the_key_s_uniform_numbers() -> None:
    order = hiding_order(keys(3), (4, 5))
    assert torch.equal(order, uniform(keys(3), 20).argsort(1).argsort(1))


def test_masks_refuse_what_means_nothing() -> None:
    with pytest.raises(MedsslError, match="blocks that divide it"):
        patch_mask(keys(1), (16, 18), 4, 0.5)
    with pytest.raises(MedsslError, match="between 0 and 1"):
        patch_mask(keys(1), (16, 16), 4, 1.0)
