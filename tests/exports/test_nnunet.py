"""The file for nnU-Net: the network of its plan gives the same on a volume as (Z, Y, X); nnU-Net's own loader where it is installed."""

import json
from pathlib import Path

import pytest
import torch

import medssl
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.exports.targets.nnunet import unet
from medssl.preprocessing.data_spec import DataSpec
from tests.exports.made import KINDS, loaded, make_run, scan

SPEC = DataSpec(3, 1, "MR", (1.0, 2.0, 3.0))


def encoder(channels: int = 1) -> ResidualUNet:
    return ResidualUNet(dims=3, in_channels=channels, width=6, blocks=(1, 2, 1), max_width=16)


@pytest.mark.parametrize("kind", KINDS)
def test_nnunets_network_gives_the_same_on_a_transposed_volume(kind: str, tmp_path: Path) -> None:
    network = make_run(tmp_path / "run", encoder(), kind, SPEC)
    medssl.export(tmp_path / "run", "nnunet", tmp_path / "out")
    model, ours = loaded(tmp_path / "out"), network if kind == "encoder" else network.encoder
    x = scan(ours)
    turned = x.permute(0, 1, 4, 3, 2)
    for a, b in zip(ours.features(x), model.encoder(turned)):
        assert torch.allclose(a, b.permute(0, 1, 4, 3, 2), atol=1e-5)
    if kind == "segmenter":
        assert torch.allclose(network(x), model(turned).permute(0, 1, 4, 3, 2), atol=1e-5)
    assert (model.encoder(x)[-1] - ours.features(x)[-1]).abs().max() > 1e-2  # without turning the volume it is another


def test_the_file_has_what_nnunet_reads_and_plain_types_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "run", encoder(2), "encoder", DataSpec(3, 2, "MR", (1.0, 2.0, 3.0)))
    medssl.export(tmp_path / "run", "nnunet", tmp_path / "out")
    stored = torch.load(tmp_path / "out" / "checkpoint_final.pth", weights_only=True)
    plan = stored["nnssl_adaptation_plan"]
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] == [3.0, 2.0, 1.0]
    assert plan["pretrain_num_input_channels"] == 2
    assert all(name.startswith("encoder.") for name in stored["network_weights"])
    for name in plan["keys_to_in_proj"]:
        assert stored["network_weights"][f"{name}.weight"].shape[1] == 2
    for field in ("architecture_plans", "recommended_downstream_patchsize", "key_to_encoder", "key_to_stem"):
        assert plan[field]
    assert plan["key_to_lpe"] is None


@pytest.mark.parametrize("wrong", [ResNet(dims=3, depth=10, width=4), ResidualUNet(dims=2, width=4, blocks=(1, 1))])
def test_another_encoder_is_refused(wrong: torch.nn.Module, tmp_path: Path) -> None:
    make_run(tmp_path / "run", wrong, "encoder")
    with pytest.raises(MedsslError, match="nnU-Net's file is for our 3D ResidualUNet"):
        medssl.export(tmp_path / "run", "nnunet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunets_own_loader_takes_the_file(channels: int, tmp_path: Path) -> None:
    """The main branch of nnU-Net, which is no package yet; see docs/how_to/take_a_model_elsewhere.md for a run of it."""
    trainers = pytest.importorskip(
        "nnunetv2.training.nnUNetTrainer.pretraining.pretrainedTrainer", reason="nnU-Net's main branch is not installed"
    )
    network = make_run(tmp_path / "run", encoder(), "encoder", SPEC)
    medssl.export(tmp_path / "run", "nnunet", tmp_path / "out")
    file = tmp_path / "out" / "checkpoint_final.pth"
    plan = torch.load(file, weights_only=True)["nnssl_adaptation_plan"]
    described, trainer = plan["architecture_plans"], trainers.PretrainedTrainer
    names = described["arch_class_name"], described["arch_kwargs"], described["arch_kwargs_requiring_import"]
    fresh = trainer.build_network_architecture(*names, (8, 8, 8), channels, 3, enable_deep_supervision=False)
    keys = (plan["key_to_encoder"], plan["key_to_stem"], tuple(plan["keys_to_in_proj"]), plan["key_to_lpe"])
    model, _ = trainer.load_pretrained_weights(fresh, str(file), 1, channels, [8] * 3, [8] * 3, *keys)
    x = scan(network)
    expected = network.features(x)[-1]
    given = model.encoder(x.permute(0, 1, 4, 3, 2).repeat(1, channels, 1, 1, 1))[-1].permute(0, 1, 4, 3, 2)
    assert torch.allclose(given, expected, atol=1e-5)


def test_nnunets_pretrained_weights_take_a_segmenter(tmp_path: Path) -> None:
    """`-pretrained_weights` of nnU-Net 2.8, which leaves the last layers out."""
    loading = pytest.importorskip("nnunetv2.run.load_pretrained_weights", reason="nnU-Net is not installed")
    network = make_run(tmp_path / "run", encoder(), "segmenter", SPEC)
    medssl.export(tmp_path / "run", "nnunet", tmp_path / "out")
    architecture = json.loads((tmp_path / "out" / "plans.json").read_text())["architecture"]
    model = unet(architecture, 1, 3)
    loading.load_pretrained_weights(model, str(tmp_path / "out" / "checkpoint_final.pth"))
    with torch.no_grad():
        for ours, theirs in zip(network.decoder.head.parameters(), model.decoder.seg_layers[-1].parameters()):
            theirs.copy_(ours.permute(0, 1, 4, 3, 2) if ours.ndim == 5 else ours)
    x = scan(network.encoder)
    given = model(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert torch.allclose(given, network(x), atol=1e-5)
