"""Each layout, on a file that the original library's own model wrote: equal features, whatever the axes, scale and channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders import ResNet
from medssl.weights.importing import receipt_of
from medssl.weights.sources.base import IMAGENET_MEAN, IMAGENET_STD
from tests.weights.makers import imported, randomise

SHAPES = [(64, 64), (97, 131)]


def grey_as_photograph(x: Tensor) -> Tensor:
    """What ImageNet's networks are given of a grey image on 0..1."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x.expand(-1, 3, -1, -1) - mean) / std


def pooled(net: nn.Module, x: Tensor) -> Tensor:
    """torchvision's features before its classifier."""
    for name, part in net.named_children():
        x = part(x) if name not in ("avgpool", "fc") else x
    return x.mean((2, 3))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_a_grey_film_through_torchvisions_network_has_its_features(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet50())
    _, encoder = imported(net.state_dict(), tmp_path)
    for shape in SHAPES:
        x = torch.rand(2, 1, *shape)
        assert_equal(encoder(x), pooled(net, grey_as_photograph(x)))


@torch.no_grad()
def test_a_2d_network_inflated_to_3d_sees_equal_slices_as_the_slice(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet18())
    run, encoder = imported(net.state_dict(), tmp_path, as_="torchvision", encoder=ResNet(3, depth=18))
    assert receipt_of(run).adapted["kernels of images inflated to volumes"].tensors == 20
    image = torch.rand(1, 1, 32, 48)
    volume = image.transpose(2, 3)[..., None].expand(-1, -1, -1, -1, 32)  # columns along X, rows along Y
    stem = encoder.features(volume)[0][..., 8]
    photograph = grey_as_photograph(image)
    expected = net.relu(net.bn1(net.conv1(photograph))).transpose(2, 3)
    assert_equal(stem, expected)


@torch.no_grad()
def test_two_equal_channels_see_what_one_sees(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet18())
    run, encoder = imported(net.state_dict(), tmp_path, channels=2)
    assert encoder.in_channels == 2
    (how,) = receipt_of(run).adapted
    assert how == "first convolution summed over 3 channel(s) and shared out over 2"
    x = torch.rand(2, 1, 64, 64)
    mean, std = (sum(values) / 3 for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert_equal(encoder(x.expand(-1, 2, -1, -1)), pooled(net, ((x - mean) / std).expand(-1, 3, -1, -1)))


def resenc(width: int = 4, channels: int = 1) -> nn.Module:
    """nnssl's network for a residual encoder, small: nnU-Net's own class."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    return ResidualEncoderUNet(
        channels,
        4,
        [min(width * 2**i, 3 * width) for i in range(4)],
        nn.Conv3d,
        3,
        [1, 2, 2, 2],
        [1, 2, 1, 2],
        2,
        1,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def nnssl_file(net: nn.Module) -> dict:
    """The layout of nnssl's checkpoints, as far as it concerns the encoder."""
    return {
        "network_weights": net.state_dict(),
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": "ResEncL",
                "arch_kwargs": None,
                "arch_kwargs_requiring_import": None,
            },
            "pretrain_plan": {
                "configurations": {
                    "onemmiso": {"spacing": [3.0, 1.0, 0.5], "spacing_style": "onemmiso", "patch_size": [8, 16, 24]}
                }
            },
            "recommended_downstream_patchsize": [8, 16, 32],
        },
        "citations": [],
    }


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 2])
def test_nnssls_encoder_sees_a_transposed_volume_as_ours_sees_the_volume(channels: int, tmp_path: Path) -> None:
    net = randomise(resenc(channels=channels))
    run, encoder = imported(nnssl_file(net), tmp_path, channels=channels)
    receipt = receipt_of(run)
    assert run.config["source"]["layout"] == "nnssl"
    assert receipt.share == 1
    assert "axes turned from (Z, Y, X) to (X, Y, Z)" in receipt.adapted
    assert run.config["data_spec"]["spacing_mm"] == [0.5, 1.0, 3.0]
    assert run.config["crop"] == [32, 16, 8]
    volume = torch.randn(1, channels, 24, 16, 8)
    theirs = net.encoder(volume.permute(0, 1, 4, 3, 2))
    for level, expected in zip(encoder.features(volume), theirs, strict=True):
        assert_equal(level, expected.permute(0, 1, 4, 3, 2))


def test_nnssls_plan_with_other_strides_is_refused(tmp_path: Path) -> None:
    content = nnssl_file(resenc())
    content["nnssl_adaptation_plan"]["architecture_plans"]["arch_kwargs"] = {
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    }
    with pytest.raises(MedsslError, match=r"strides \[\[1, 1, 1\], \[1, 2, 2\]"):
        imported(content, tmp_path)
