"""Each export in the library it is for: loaded from disk as its card says, equal on a transposed scan of another size."""

from pathlib import Path

import pytest
import torch

import medssl
from medssl.core.errors import MedsslError
from medssl.encoders import Encoder, ResidualUNet, ResNet, Timm, ViT
from tests.exports.made import KINDS, loaded, make_run, scan


def resnet(depth: int = 10, channels: int = 1) -> ResNet:
    return ResNet(dims=2, in_channels=channels, depth=depth)


def vit(channels: int = 1) -> ViT:
    return ViT(dims=2, in_channels=channels, patch=(8, 4), width=48, depth=2)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_timm_makes_our_resnet_from_the_folder(channels: int, tmp_path: Path) -> None:
    network = make_run(tmp_path / "run", resnet(channels=channels), "encoder")
    medssl.export(tmp_path / "run", "timm", tmp_path / "out")
    x = scan(network, (97, 75))
    model = loaded(tmp_path / "out")
    assert torch.allclose(model(x), network(x), atol=1e-6)
    assert torch.allclose(model.forward_features(x), network.features(x)[-1], atol=1e-6)


@pytest.mark.parametrize("target", ["timm", "lightly"])
@pytest.mark.parametrize("kind", KINDS)
def test_timm_makes_our_vit(kind: str, target: str, tmp_path: Path) -> None:
    network = make_run(tmp_path / "run", vit(), kind, crop=40)
    medssl.export(tmp_path / "run", target, tmp_path / "out")
    expected = network if kind != "segmenter" else network.encoder
    x = torch.randn(2, 1, 40, 40).transpose(2, 3)
    assert torch.allclose(loaded(tmp_path / "out")(x), expected(x), atol=1e-5)
    assert ("decoder is left out" in (tmp_path / "out" / "README.md").read_text()) == (kind == "segmenter")


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("convnext_atto", {"depths": [1, 1, 1, 1]}), ("vit_tiny_patch16_224", {"depth": 1, "img_size": 64})],
)
def test_a_model_of_timm_goes_back_to_timm(name: str, options: dict, kind: str, tmp_path: Path) -> None:
    network = make_run(tmp_path / "run", Timm(in_channels=2, name=name, options=options), kind, crop=64)
    medssl.export(tmp_path / "run", "timm", tmp_path / "out")
    x = torch.randn(2, 2, 64, 96).transpose(2, 3)
    assert torch.allclose(loaded(tmp_path / "out")(x), network(x), atol=1e-6)


@pytest.mark.parametrize(
    ("target", "depth"),
    [("torchvision", 10), ("torchvision", 18), ("torchvision", 50), ("lightly", 10), ("lightly", 18)],
)
def test_torchvision_and_lightly_have_our_resnet(target: str, depth: int, tmp_path: Path) -> None:
    kind = "encoder" if depth == 10 else "classifier"
    network = make_run(tmp_path / "run", resnet(depth, 3 if depth == 18 else 1), kind)
    medssl.export(tmp_path / "run", target, tmp_path / "out")
    x = scan(network if kind == "encoder" else network.encoder, (97, 75))
    assert torch.allclose(loaded(tmp_path / "out")(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "target", "reason"),
    [
        (ResNet(dims=2, depth=10, width=16), "torchvision", r"width 16 \(expected 64\)"),
        (ResNet(dims=2, depth=10, max_pool=False), "timm", r"max_pool False \(expected True\)"),
        (ResNet(dims=2, depth=10, norm="instance"), "lightly", r"norm instance \(expected batch\)"),
        (ResNet(dims=3, depth=10, width=4), "torchvision", r"dims 3 \(expected 2\), width 4"),
        (ViT(dims=2, patch=4, width=24, depth=1), "torchvision", "a ViT: torchvision has our ResNet alone"),
        (ViT(dims=3, patch=4, width=24, depth=1), "timm", "a 3D ViT: timm has our 2D ResNet, ViT"),
        (ViT(dims=2, patch=4, width=24, depth=1, registers=2), "timm", "sine positions and 2 registers"),
        (ViT(dims=2, patch=4, width=24, depth=1, positions="rotary"), "lightly", "rotary positions and 0 registers"),
        (ResidualUNet(dims=2, width=4, blocks=(1, 1)), "lightly", "a 2D ResidualUNet"),
    ],
)
def test_an_encoder_that_a_library_does_not_have_is_refused(
    encoder: Encoder, target: str, reason: str, tmp_path: Path
) -> None:
    make_run(tmp_path / "run", encoder, "encoder")
    with pytest.raises(MedsslError, match=f"{reason}.*export to safetensors or onnx"):
        medssl.export(tmp_path / "run", target, tmp_path / "out")
    assert not (tmp_path / "out").exists()
