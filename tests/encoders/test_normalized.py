"""What weights from elsewhere expect is done to a scan before the first layer, exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medssl.core.errors import MedsslError
from medssl.core.spec import twin
from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT, check_encoder
from medssl.encoders.normalized import NormalizedInput
from medssl.methods import MAE, check_method
from medssl.methods.spark import SparK
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.random import make_keys


class Same(Encoder):
    """Gives back what it gets, with other strides along its axes."""

    def __init__(self, dims: int = 3, in_channels: int = 1):
        super().__init__(dims, in_channels, (in_channels,), ((1,) * dims,))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


def test_hu_come_back_from_the_window_that_every_recipe_shows_ct_through() -> None:
    hu = torch.linspace(-1000, 1500, 2501).reshape(1, 1, 1, 1, -1)
    shown = recipes.plain(DataSpec(3, modality="CT"))
    x = shown(hu, shown.draw(make_keys(0, (torch.arange(1),))))
    assert x.min() >= 0
    assert x.max() <= 1
    (found,) = NormalizedInput(Same(), window_hu=(-1024.0, 2048.0)).features(x)
    assert (found - (hu + 1024) / 3072).abs().max() < 1e-6
    (clipped,) = NormalizedInput(Same(), window_hu=(-175.0, 250.0)).features(x)
    assert (clipped - ((hu + 175) / 425).clamp(0, 1)).abs().max() < 1e-5


def test_a_grey_scan_is_repeated_and_each_channel_normalised() -> None:
    x = torch.rand(2, 1, 4, 6)
    (found,) = NormalizedInput(Same(2, 3), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)).features(x)
    assert torch.allclose(found, torch.cat([(x - 0.1) / 0.5, x - 0.2, (x - 0.3) / 2], 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_an_enlarged_scan_has_the_features_of_the_larger_picture_on_its_own_grid(dims: int) -> None:
    inner = ResNet(dims, 1, depth=10, width=4).eval()
    encoder = NormalizedInput(inner, mean=(0.5,), std=(0.25,), enlarge=2).eval()
    check_encoder(encoder)
    encoder.eval()
    x = torch.rand(1, 1, *[32] * dims)
    larger = F.interpolate(x, scale_factor=2, mode="bicubic" if dims == 2 else "trilinear", align_corners=False)
    for found, expected, stride in zip(encoder.features(x), inner.features((larger - 0.5) / 0.25), encoder.strides):
        assert torch.allclose(found, expected, atol=1e-5)
        assert found.shape[2:] == torch.Size([32 // step for step in stride])
    with pytest.raises(MedsslError, match="--crop"):
        encoder.check_size([24] * dims)
    finer = NormalizedInput(inner, enlarge=4).eval()
    check_encoder(finer)
    assert finer.strides[0] == (1,) * dims
    levels = finer.eval().features(x)
    expected = inner.features(finer.prepared(x))
    assert levels[0].shape[2:] == x.shape[2:]
    assert expected[0].shape[2] == 2 * x.shape[2]
    assert levels[0].mean().item() == pytest.approx(expected[0].mean().item(), rel=1e-4)
    assert torch.equal(levels[-1], expected[-1])
    patches = NormalizedInput(ViT(dims, 1, patch=4, width=24, depth=1, heads=2), enlarge=2)
    assert not patches.encodes_patches


class Corner(Encoder):
    """Sees foot to head, front to back, right to left; its levels have another stride along each."""

    def __init__(self) -> None:
        super().__init__(3, 1, (1,), ((1, 2, 4),))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x[:, :, :, ::2, ::4]]


def test_axes_are_turned_for_the_encoder_and_its_levels_turned_back() -> None:
    encoder = NormalizedInput(Corner(), axes="SPL")
    assert encoder.strides == ((4, 2, 1),)
    scan = torch.rand(1, 1, 8, 6, 5)  # R, A, S
    prepared = encoder.prepared(scan)
    assert prepared.shape[2:] == (5, 6, 8)
    assert prepared[0, 0, 1, 2, 3] == scan[0, 0, 8 - 1 - 3, 6 - 1 - 2, 1]  # the second slice from the foot
    (level,) = encoder.features(scan)
    assert torch.equal(level, scan[:, :, 3::4, 1::2, :])


def test_it_is_an_encoder_like_any_other_and_has_the_layers_of_the_one_inside() -> None:
    inner = ResidualUNet(3, 1, width=4, blocks=(1, 1))
    encoder = NormalizedInput(inner, window_hu=(-175.0, 250.0), axes="SPL")
    check_encoder(encoder)
    assert encoder.layers() == inner.layers()
    assert set(twin(encoder).state_dict()) == {f"encoder.{name}" for name in inner.state_dict()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 2}, "in_channels is 2"),
        ({"mean": (0.1, 0.2)}, r"mean \(0.1, 0.2\)"),
        ({"std": (0.0,)}, "deviations above 0"),
        ({"window_hu": (250.0, -175.0)}, "a lower and a higher number"),
        ({"axes": "SPA"}, "three different directions"),
        ({"enlarge": 0}, "enlarge is 0"),
        ({"enlarge": 1.5}, "a whole number"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        NormalizedInput(Same(3, 3), **options)


def test_spark_refuses_turned_axes_since_its_masks_would_lie_elsewhere() -> None:
    inner = ResidualUNet(3, 1, width=4, blocks=(1, 1))
    SparK(NormalizedInput(inner))
    with pytest.raises(MedsslError, match="SparK came with weights whose axes are SPL"):
        SparK(NormalizedInput(inner, axes="SPL"))
    with pytest.raises(MedsslError, match="enlarged 2 times"):
        SparK(NormalizedInput(ResNet(3, 1, depth=10, width=4), enlarge=2))


def test_patches_are_encoded_alone_where_the_encoder_inside_does_it() -> None:
    inner = ViT(2, 3, patch=4, width=24, depth=1, heads=2)
    encoder = NormalizedInput(inner, mean=(0.5,), std=(0.25,))
    x, keep = torch.rand(2, 1, 16, 16), torch.tensor([[0, 5], [3, 9]])
    expected = inner.tokens(((x - 0.5) / 0.25).expand(-1, 3, -1, -1), keep)
    assert torch.allclose(encoder.tokens(x, keep), expected, atol=1e-6)
    check_method(MAE(encoder), (16, 16), 2)
    with pytest.raises(MedsslError, match="has no tokens of patches"):
        NormalizedInput(ResidualUNet(2, 3, width=4, blocks=(1, 1))).tokens(x)
    with pytest.raises(MedsslError, match="MAE came with a NormalizedInput"):
        MAE(NormalizedInput(ResidualUNet(2, 3, width=4, blocks=(1, 1))))
