"""Every encoder keeps the one contract in 2D and 3D, and the decoder takes any pyramid."""

import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.encoders import Decoder, Encoder, ResidualUNet, ResNet, Timm, check_encoder
from tests.encoders.small import families, small_encoder

MAKERS = {
    "ResNet10": lambda dims: ResNet(dims, depth=10, width=4),
    "ResNet18 small crops": lambda dims: ResNet(dims, 2, depth=18, width=4, max_pool=False),
    "ResNet50 instance norm": lambda dims: ResNet(dims, depth=50, width=4, max_pool=False, norm="instance"),
    "ResidualUNet": lambda dims: ResidualUNet(dims, width=4, blocks=(1, 2, 1)),
    "ResidualUNet capped": lambda dims: ResidualUNet(dims, 2, width=4, blocks=(1, 1, 1, 1), max_width=8),
}


@pytest.mark.parametrize(("name", "dims"), [(name, dims) for dims in (2, 3) for name in families(dims)])
def test_every_encoder_of_the_registry_keeps_the_contract_and_feeds_the_decoder(name: str, dims: int) -> None:
    check_with_decoder(small_encoder(name, dims, 1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_other_settings_keep_the_contract_and_feed_the_decoder(name: str, dims: int) -> None:
    check_with_decoder(MAKERS[name](dims))


def check_with_decoder(encoder: Encoder) -> None:
    torch.manual_seed(0)
    check_encoder(encoder)
    size = [2 * s for s in encoder.strides[-1]]
    decoder = Decoder(encoder, 3)
    logits = decoder(encoder.features(torch.randn(2, encoder.in_channels, *size)))
    assert tuple(logits.shape) == (2, 3, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_sample_does_not_see_the_others_of_its_batch_where_norms_are_of_instances(dims: int) -> None:
    torch.manual_seed(0)
    encoder = ResNet(dims, depth=10, width=4, max_pool=False, norm="instance").train()
    x = torch.randn(3, 1, *(32,) * dims)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), atol=1e-5, rtol=1e-4)


def test_resnet_at_depth_18_is_the_published_size() -> None:
    weights = sum(p.numel() for p in ResNet(2, 3, depth=18).parameters())
    assert weights == 11_176_512  # torchvision's resnet18 (11,689,512) without its 512 x 1000 + 1000 classifier


def test_a_crop_that_does_not_divide_names_the_nearest_that_does() -> None:
    with pytest.raises(MedsslError, match=r"--crop 32 48 32"):
        ResidualUNet(3, width=4, blocks=(1, 1, 1, 1, 1)).check_size((35, 50, 36))
    with pytest.raises(MedsslError, match="2 axes"):
        ResidualUNet(3, width=4).check_size((32, 32))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(MedsslError, match="depth is 19"):
        ResNet(2, depth=19)
    with pytest.raises(MedsslError, match="dims is 4"):
        ResidualUNet(4)


def test_dims_that_a_family_lacks_are_refused() -> None:
    with pytest.raises(
        MedsslError, match="dims is 3, in_channels is 1: expected dims 2 and 1 channel or more for Timm"
    ):
        Timm(3)


def test_the_check_catches_an_encoder_with_wrong_strides() -> None:
    class Wrong(Encoder):
        def __init__(self, dims: int = 2, in_channels: int = 1):
            super().__init__(dims, in_channels, (4,), ((4, 4),))
            self.net = torch.nn.Conv2d(1, 4, 3, 2, 1)

        def features(self, x):
            return [self.net(x)]

    with pytest.raises(AssertionError, match="a level has the shape"):
        check_encoder(Wrong())
