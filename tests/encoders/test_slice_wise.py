"""A 2D encoder on volumes: each slice by itself, pooled by mean or attention, nested in records and on the command line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medssl.cli.arguments import parse_arguments
from medssl.core.errors import MedsslError
from medssl.core.spec import describe, rebuild
from medssl.encoders import Encoder, ResNet, SliceWise, Timm, check_encoder
from medssl.methods import SimCLR, check_method
from medssl.training.pretrain import pretrain


def small(**settings: Any) -> SliceWise:
    return SliceWise(ResNet(2, depth=10, width=4, max_pool=False), **settings)


@pytest.mark.parametrize("settings", [{}, {"planes": "all", "pool": "attention"}, {"pool": "attention", "chunk": 3}])
def test_it_keeps_the_contract(settings: dict[str, Any]) -> None:
    check_encoder(small(**settings), (32, 32, 32))


def test_the_vector_is_the_mean_of_the_slices_and_the_maps_are_theirs() -> None:
    torch.manual_seed(0)
    encoder = small().eval()
    x = torch.randn(2, 1, 32, 16, 5)
    each = torch.stack([encoder.encoder(x[..., i]) for i in range(5)])
    assert torch.allclose(encoder(x), each.mean(0), atol=1e-6)
    for level, plane in zip(encoder.features(x), encoder.encoder.features(x[..., 3]), strict=True):
        assert torch.allclose(level[..., 3], plane, atol=1e-6)


def test_three_planes_are_joined_and_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    encoder = small(planes="all").eval()
    x = torch.randn(2, 1, 16, 32, 48)
    sagittal = torch.stack([encoder.encoder(x[:, :, i]) for i in range(16)]).mean(0)
    assert encoder.out_dim == 96
    assert torch.allclose(encoder(x)[:, :32], sagittal, atol=1e-6)
    chunked = small(planes="all", chunk=7).eval()
    chunked.load_state_dict(encoder.state_dict())
    assert torch.allclose(chunked(x), encoder(x), atol=1e-6)


def test_attention_weighs_slices_and_equal_scores_are_the_mean() -> None:
    torch.manual_seed(0)
    encoder = small(pool="attention").eval()
    x = torch.randn(1, 1, 16, 16, 4)
    each = torch.stack([encoder.encoder(x[..., i]) for i in range(4)], dim=1)
    last: Any = encoder.score[0]
    torch.nn.init.zeros_(last[2].weight)
    assert torch.allclose(encoder(x), each.mean(1), atol=1e-6)
    torch.nn.init.constant_(last[2].weight, 100.0)
    best = int(last(each).argmax())
    assert torch.allclose(encoder(x), each[:, best], atol=1e-3)


def test_the_record_holds_the_encoder_within_and_a_method_trains_it() -> None:
    spec = describe(SliceWise(Timm(2, 1, "test_resnet"), pool="attention"))
    assert spec["init_args"]["encoder"] == {
        "class_path": "Timm",
        "init_args": {"dims": 2, "in_channels": 1, "name": "test_resnet", "options": None},
    }
    again = rebuild(spec, Encoder)  # type: ignore[type-abstract]
    assert again.encoder.name == "test_resnet"  # type: ignore[union-attr]
    check_method(SimCLR(small()), (16, 16, 16))


def test_the_command_line_builds_the_encoder_within_and_names_the_nearest() -> None:
    words = [
        "--data",
        "c",
        "--out",
        "r",
        "--encoder",
        "SliceWise",
        "--encoder.encoder",
        "Timm",
        "--encoder.encoder.name",
    ]
    settings = parse_arguments(pretrain, "medssl pretrain", words=[*words, "test_resnet", "--encoder.planes", "all"])
    assert settings is not None
    assert (settings["encoder"].encoder.name, settings["encoder"].planes) == ("test_resnet", "all")
    with pytest.raises(MedsslError, match=r"there is no encoder.encoder 'Tim'; did you mean Timm\?"):
        parse_arguments(pretrain, "medssl pretrain", words=["--encoder", "SliceWise", "--encoder.encoder", "Tim"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MedsslError, match="dims=3, in_channels=1: expected dims=2"):
        SliceWise(ResNet(3, depth=10, width=4))
    with pytest.raises(MedsslError, match="in_channels=1: expected dims=2 and in_channels=3"):
        small(in_channels=3)
    with pytest.raises(MedsslError, match="--crop 32 32 20"):
        small().check_size((34, 32, 20))
    with pytest.raises(MedsslError, match="--crop"):
        small(planes="all").check_size((32, 32, 20))
