"""Networks of photographs and chest films: DINOv2 of transformers, lightly's backbones, TorchXRayVision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from medssl.core.errors import MedsslError
from medssl.encoders import ResNet, Timm
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.expected import check_expected
from medssl.training.models import pretrained_encoder
from medssl.weights.importing import import_weights, receipt_of
from medssl.weights.sources.base import IMAGENET_MEAN, IMAGENET_STD
from tests.weights.makers import imported, randomise

SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 14}
FILMS = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}


def grey(x: torch.Tensor, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    return (x.expand(-1, 3, -1, -1) - mean) / std


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_of_transformers_has_timms_names_and_its_own_features(registers: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(**SIZE)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(FILMS))
    run = import_weights(str(tmp_path), tmp_path / "run", allow_partial=True)
    receipt = receipt_of(run)
    assert run.config["source"]["layout"] == "huggingface"
    assert receipt.adapted["query, key and value joined"].tensors == 4
    assert all(".finer." in f".{name}" for name in receipt.random.names)  # levels that only a decoder reads
    x = torch.rand(2, 1, 28, 28)
    expected = model(grey(x, FILMS["image_mean"], FILMS["image_std"])).pooler_output
    found = pretrained_encoder(tmp_path / "run").eval()(x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_lightlys_backbone_is_found_by_the_numbers_of_its_sequential(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet18())
    backbone = nn.Sequential(*list(net.children())[:-1])
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    state |= {f"backbone_momentum.{name}": value + 1 for name, value in backbone.state_dict().items()}
    state |= {"projection_head.layers.0.weight": torch.rand(4, 4)}
    run, encoder = imported({"state_dict": state}, tmp_path)
    receipt = receipt_of(run)
    assert run.config["source"]["layout"] == "lightly"
    assert receipt.share == 1
    assert receipt.left_out["heads and momentum networks"].tensors == 121
    x = torch.rand(2, 1, 64, 64)
    expected = backbone(grey(x)).flatten(1)
    assert (encoder(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_lightly_train_exports_have_the_names_of_timm_or_torchvision(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_convnext"))
    _, encoder = imported(model.state_dict(), tmp_path / "a", as_="lightly", encoder=Timm(name="test_convnext"))
    assert torch.equal(encoder.state_dict()["encoder.net.stem.0.weight"], model.state_dict()["stem.0.weight"])
    state = ResNet(2, 3, depth=10, width=4).net.state_dict()
    run, _ = imported(state, tmp_path / "b", as_="lightly")
    assert receipt_of(run).share == 1


@torch.no_grad()
def test_torchxrayvisions_densenet_takes_one_channel_of_minus_1024_to_1024(tmp_path: Path) -> None:
    net = torchvision.models.DenseNet(32, (6, 12, 24, 16), 64)
    net.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    net.op_threshs = nn.Parameter(torch.rand(18))
    randomise(net)
    run, encoder = imported(net.state_dict(), tmp_path)
    assert run.config["source"]["layout"] == "torchxrayvision"
    assert receipt_of(run).share == 1
    x = torch.rand(2, 1, 64, 64)
    expected = torch.relu(net.features(2048 * x - 1024)).mean((2, 3))
    assert (encoder(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    with pytest.warns(UserWarning, match="trained on XRAY, these scans are MR"):
        check_expected(run.config, DataSpec(2, modality="MR", size=(224, 224)))


def test_its_published_file_is_a_whole_module_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=r"(?s)names torchvision\.models\.densenet\.DenseNet.*weights_only=False"):
        imported(torchvision.models.DenseNet(4, (1, 1), 8), tmp_path, as_="torchxrayvision")
