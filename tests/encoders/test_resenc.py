"""nnU-Net's residual encoder has the names and the features of nnU-Net's own network."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from medssl.encoders import ResidualUNet


def theirs(dims: int, channels: int, features: list[int], blocks: list[int]) -> ResidualEncoderUNet:
    """nnU-Net's network as its plans describe it."""
    levels = len(features)
    return ResidualEncoderUNet(
        channels,
        levels,
        features,
        nn.Conv2d if dims == 2 else nn.Conv3d,
        [3] * levels,
        [1] + [2] * (levels - 1),
        blocks,
        2,
        [1] * (levels - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


@pytest.mark.parametrize(("dims", "channels"), [(2, 3), (3, 1)])
def test_features_equal_nnu_net_s_with_the_same_weights(dims: int, channels: int) -> None:
    torch.manual_seed(0)
    net = theirs(dims, channels, [4, 8, 12], [1, 2, 1]).eval()
    ours = ResidualUNet(dims, channels, 4, (1, 2, 1), 12).eval()
    ours.net.load_state_dict(net.encoder.state_dict(), strict=True)
    x = torch.randn(1, channels, *(28, 20, 12)[:dims])  # nnU-Net's own blocks take no odd sizes
    for level, other in zip(ours.features(x), net.encoder(x), strict=True):
        assert torch.allclose(level, other, atol=1e-6)


def test_the_presets_m_and_l_have_the_names_and_shapes_of_nnu_net_s_encoder() -> None:
    with torch.device("meta"):
        net = theirs(3, 1, [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6])
        ours = ResidualUNet(3, 1, width=32, blocks=(1, 3, 4, 6, 6, 6))
    shapes = {name: value.shape for name, value in net.encoder.state_dict().items()}
    assert {name: value.shape for name, value in ours.net.state_dict().items()} == shapes
    assert len(shapes) == 448
