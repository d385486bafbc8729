"""Networks of MONAI that were pretrained on CT: Swin UNETR in its layouts, VoCo, SuPreM, CT-FM, on files of MONAI's own networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.random import make_keys
from medssl.weights.importing import receipt_of
from tests.weights.makers import imported, randomise

HEADS = {"module.rotation_head.weight": torch.rand(4, 8), "module.contrastive_head.bias": torch.rand(8)}


def swin(use_v2: bool = False) -> SwinUNETR:
    sizes: dict[str, Any] = {"feature_size": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}
    net = SwinUNETR(in_channels=1, out_channels=2, use_v2=use_v2, **sizes)
    randomise(net)
    return net


def three_schemes(net: SwinUNETR) -> dict[str, dict]:
    """The three published files of Swin UNETR, and MONAI's own names."""
    inside = net.swinViT.state_dict()
    old = {re.sub(r"mlp\.linear", "mlp.fc", name): value for name, value in inside.items()}
    many = {"encoder." + re.sub(r"^(layers[1-4]\.0)\.", r"\1.0.", name): value for name, value in inside.items()}
    dropped = {
        "encoder.mask_token": torch.rand(1, 1, 12),
        "encoder.norm.weight": torch.rand(96),
        "out.conv.conv.bias": torch.rand(1),
    }
    return {
        "model_swinvit": {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in old.items()} | HEADS},
        "50k": {"model": many | dropped},
        "5050": {"state_dict": {f"module.swinViT.{name}": value for name, value in old.items()} | HEADS},
        "monai": net.state_dict(),
    }


def hu_and_view() -> tuple[Tensor, Tensor]:
    """A volume in HU, and the same as the views give it."""
    hu = (torch.rand(1, 1, 32, 32, 64, generator=torch.Generator().manual_seed(0)) * 2400 - 950).round()
    view = recipes.plain(DataSpec(3, modality="CT"))
    return hu, view(hu, view.draw(make_keys(0, (torch.arange(1),))))


def scaled(hu: Tensor, low: float, high: float) -> Tensor:
    return ((hu - low) / (high - low)).clamp(0, 1)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for level, wanted in zip(found, expected, strict=True):
        assert (level - wanted).abs().max() < 1e-4 * wanted.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["model_swinvit", "50k", "5050", "monai"])
def test_swin_unetr_in_each_of_its_files_sees_hu_as_monais_network_does(scheme: str, tmp_path: Path) -> None:
    net = swin()
    run, encoder = imported(three_schemes(net)[scheme], tmp_path)
    receipt = receipt_of(run)
    assert run.config["source"]["layout"] == "monai"
    assert receipt.share == 1
    assert receipt.left_out["pretext heads and decoder"].tensors >= 2
    hu, x = hu_and_view()
    assert_same(encoder.features(x), net.swinViT(scaled(hu, -175, 250), normalize=True))


@torch.no_grad()
def test_vocos_second_version_is_read_from_its_tensors(tmp_path: Path) -> None:
    net = swin(use_v2=True)
    student = {f"module.backbone.swin_vit.{name}": value for name, value in net.swinViT.state_dict().items()}
    run, encoder = imported({"student": student | HEADS}, tmp_path)
    assert run.config["source"]["layout"] == "voco"
    assert receipt_of(run).share == 1
    assert any("layers1c" in name for name in encoder.state_dict())
    assert run.config["data_spec"]["spacing_mm"] == [1.5, 1.5, 1.5]
    hu, x = hu_and_view()
    assert_same(encoder.features(x), net.swinViT(scaled(hu, -175, 250), normalize=True))


def test_two_networks_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    inside = swin().swinViT.state_dict()
    both = {f"{side}.swinViT.{name}": value for side in ("student", "teacher") for name, value in inside.items()}
    run, _ = imported({"state_dict": both}, tmp_path / "a", as_="monai")
    assert receipt_of(run).left_out["pretext heads and decoder"].tensors == len(inside)
    both = {name.replace("student", "online"): value for name, value in both.items()}
    with pytest.raises(MedsslError, match=r"several networks, under online\.swinViT\., teacher\.swinViT\."):
        imported({"state_dict": both}, tmp_path / "b", as_="monai")


@torch.no_grad()
def test_suprems_licence_is_accepted_first_and_its_segresnet_has_its_features(tmp_path: Path) -> None:
    net = randomise(SegResNet(3, 8, 1, 2, blocks_down=(1, 2, 1), blocks_up=(1, 1)))
    content = {"net": {f"module.backbone.{name}": value for name, value in net.state_dict().items()}}
    with pytest.raises(MedsslError, match="CC-BY-NC-ND-4.0.*forbids derivatives.*--accept-license"):
        imported(content, tmp_path)
    run, encoder = imported(content, tmp_path, accept_license=True)
    assert run.config["source"]["layout"] == "suprem"
    assert receipt_of(run).share == 1
    hu, x = hu_and_view()
    assert_same(encoder.features(x), net.encode(scaled(hu, -175, 250))[1])


@torch.no_grad()
def test_suprems_swin_unetr_and_its_unet(tmp_path: Path) -> None:
    net = swin()
    content = {"net": {f"module.backbone.{name}": value for name, value in net.state_dict().items()}}
    _, encoder = imported(content, tmp_path / "a", as_="suprem", accept_license=True)
    hu, x = hu_and_view()
    assert_same(encoder.features(x), net.swinViT(scaled(hu, -175, 250), normalize=True))
    unet = {"net": {"module.backbone.down_tr64.ops.0.conv1.weight": torch.rand(2, 1, 3, 3, 3)}}
    with pytest.raises(MedsslError, match="UNet3D, an architecture that medssl has not"):
        imported(unet, tmp_path / "b", as_="suprem", accept_license=True)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_ct_fm_sees_volumes_from_foot_to_head_front_to_back_right_to_left(prefix: str, tmp_path: Path) -> None:
    net = randomise(SegResEncoder(3, 8, 1, blocks_down=(1, 2, 1)))
    content = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    run, encoder = imported(content, tmp_path)
    assert run.config["source"]["layout"] == "ctfm"
    assert receipt_of(run).share == 1
    assert run.config["data_spec"]["spacing_mm"] == [1.0, 1.0, 3.0]
    hu, x = hu_and_view()
    turned = scaled(hu.clamp(max=1500), -1024, 2048).permute(0, 1, 4, 3, 2).flip(3, 4)  # S, P, L
    expected = [level.flip(3, 4).permute(0, 1, 4, 3, 2) for level in net(turned)]
    assert_same(encoder.features(x), expected)
