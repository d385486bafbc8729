"""Padding tells nothing about the place: a scan of ones, smaller than the source, shows ones everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from medssl.encoders import ResidualUNet
from medssl.methods import Joint, SimCLR
from medssl.methods.base import Method
from medssl.methods.jigsaw import Jigsaw
from medssl.methods.relative_location import RelativeLocation
from medssl.methods.rotation import Rotation
from medssl.methods.shared.relation import cut_tiles
from medssl.methods.simmim import SimMIM
from medssl.methods.voco import VoCo
from medssl.preprocessing.data_spec import DataSpec
from medssl.views.random import make_keys
from medssl.views.reflect import reflect_padding

CROP = (48, 48)
METHODS = {
    "Jigsaw": lambda encoder: Jigsaw(encoder, permutations=20),
    "RelativeLocation": RelativeLocation,
    "VoCo": VoCo,
    "Rotation": Rotation,
    "SimMIM": lambda encoder: SimMIM(encoder, place_weight=1.0),
    "Joint": lambda encoder: Joint(encoder, [SimCLR, VoCo]),
}


def padded(count: int, source: int, extents: torch.Tensor, air: float = 0.0) -> dict:
    """Scans of ones of these sizes, in the middle of sources filled with air."""
    start = (extents - source) // 2
    place = torch.arange(source)
    inside = [(place >= -start[:, a, None]) & (place < extents[:, a, None] - start[:, a, None]) for a in range(2)]
    valid = (inside[0][:, :, None] & inside[1][:, None, :])[:, None].float()
    return {
        "source": torch.where(valid > 0, 1.0, air),
        "valid": valid,
        "scan": torch.arange(count),
        "patient": torch.arange(count),
        "spacing_mm": torch.ones(count, 2),
        "key": make_keys(0, (torch.arange(count),)),
        "start": start,
        "extent": extents,
    }


def views_of(method: Method, count: int = 60) -> dict:
    method.set_up_views(DataSpec(2, 1, "MR"), CROP)
    extents = torch.stack([torch.randint(20, 60, (count,)), torch.randint(30, 70, (count,))], 1)
    return method.make_views(padded(count, 48, extents.clamp(max=48)))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_in_a_view_shows_where_the_scan_ends(name: str) -> None:
    torch.manual_seed(0)
    encoder = ResidualUNet(2, width=4, blocks=(1, 1))
    method = METHODS[name](encoder)
    batch = views_of(method)
    shown = [view for view in batch["views"][-1:] if view.shape[2:] == CROP]
    assert shown
    for view in shown:
        assert view.min() > (0.5 if name == "Rotation" else 0.999)  # its views have a bias field, but no black edge
    assert min(body.min() for body in batch["valid_views"]) == 0  # what is no scan is still not counted


@pytest.mark.parametrize("hides", [True, False])
def test_a_linear_probe_on_padding_alone_finds_the_place_only_where_padding_is_not_hidden(
    hides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Black padding stood in over half of the tiles of a corner, and in none of the middle."""
    torch.manual_seed(0)
    method = Jigsaw(ResidualUNet(2, width=4, blocks=(1, 1)), permutations=20)
    if not hides:
        monkeypatch.setattr(Jigsaw, "hides_padding", False)
    x = views_of(method, 200)["views"][0]
    tile, cell = method.layout(CROP)
    starts = (method.cells * torch.tensor(cell)).expand(len(x), -1, -1)
    tiles = cut_tiles(x, starts, tile).flatten(2)
    features = torch.stack([tiles.mean(2), tiles.amin(2), tiles.std(2)], 2).flatten(0, 1).numpy()
    cells = np.tile(np.arange(9), len(x))
    half = len(cells) // 2
    probe = LogisticRegression(max_iter=2000).fit(features[:half], cells[:half])
    accuracy = probe.score(features[half:], cells[half:])
    assert accuracy < 0.13 if hides else accuracy > 0.2, accuracy  # 1 in 9 by chance


def test_padding_is_the_mirror_image_of_the_scan() -> None:
    scan = torch.arange(6.0).reshape(1, 1, 2, 3)
    source = torch.zeros(1, 1, 7, 3)
    source[:, :, 2:4] = scan
    mirrored = reflect_padding(source, torch.tensor([[-2, 0]]), torch.tensor([[2, 3]]))
    expected = np.pad(scan[0, 0].numpy(), ((2, 3), (0, 0)), mode="symmetric")
    assert (mirrored[0, 0].numpy() == expected).all()
    whole = torch.rand(2, 1, 4, 4)
    assert reflect_padding(whole, torch.tensor([[0, 3], [1, 0]]), torch.tensor([[4, 9], [5, 4]])) is whole
