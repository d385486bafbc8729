"""Encoders made of MONAI's networks have MONAI's names, and MONAI's features with the same weights, at odd sizes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks import nets
from monai.networks.nets.segresnet_ds import SegResEncoder

from medssl import encoders
from medssl.core.errors import MedsslError
from medssl.core.spec import twin
from medssl.encoders import Encoder, MonaiNetwork, check_encoder
from tests.encoders.test_timm import randomised

SWIN: dict[str, Any] = {"depths": (1, 1, 1, 1)}


def swin(dims: int, channels: int, v2: bool = False) -> tuple[Encoder, Any, Callable]:
    settings = SWIN | {
        "window_size": 3,
        "num_heads": (1, 2, 2, 4),
        "feature_size": 12,
        "spatial_dims": dims,
        "use_v2": v2,
    }
    theirs = nets.SwinUNETR(channels, 2, **settings).swinViT
    ours = encoders.SwinUNETR(dims, channels, 12, SWIN["depths"], (1, 2, 2, 4), 3, v2)
    return ours, theirs, theirs


def swin_v2(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    return swin(dims, channels, v2=True)


def segresnet(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = nets.SegResNet(dims, 8, channels, blocks_down=(1, 2, 1), blocks_up=(1, 1))
    return encoders.SegResNet(dims, channels, 8, (1, 2, 1)), theirs, lambda x: theirs.encode(x)[1]


def segres_encoder(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = SegResEncoder(dims, 4, channels, blocks_down=(1, 2, 1))
    return encoders.SegResEncoder(dims, channels, 4, (1, 2, 1)), theirs, theirs


def densenet(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = nets.DenseNet(dims, channels, 2, 8, 4, (2, 2))
    names = ["features.relu0", "features.denseblock1", "features.denseblock2", "class_layers.relu"]
    ours = encoders.DenseNet(dims, channels, blocks=(2, 2), width=8, growth=4)
    return (
        ours,
        theirs,
        lambda x: [theirs.features[:3](x), *_outputs(theirs, names[1:2], x), _outputs(theirs, names[3:], x)[0]],
    )


def efficientnet(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = nets.EfficientNetBNFeatures("efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=channels)
    return encoders.EfficientNet(dims, channels), theirs, theirs


def mednext(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = nets.MedNeXt(
        dims, 4, channels, kernel_size=3, use_residual_connection=True, blocks_down=(1, 2), blocks_up=(1, 1)
    )
    ours = encoders.MedNeXt(dims, channels, 4, (1, 2, 2), (2, 2, 2))
    return ours, theirs, lambda x: _outputs(theirs, ["enc_stages.0", "enc_stages.1", "bottleneck"], x)


def unetr(dims: int, channels: int) -> tuple[Encoder, Any, Callable]:
    theirs = nets.UNETR(channels, 2, 32, 4, 24, 96, 2, spatial_dims=dims)
    ours = encoders.UNETR(dims, channels, (32,) * dims, 16, 24, 12, 2)
    return ours, theirs.vit, lambda x: [theirs.vit(x)[0].transpose(1, 2).unflatten(2, (2,) * dims)]


FAMILIES = (swin, swin_v2, segresnet, segres_encoder, densenet, efficientnet, mednext, unetr)
SIZES = {swin: 32, swin_v2: 32, unetr: 32, mednext: 24}  # what a decoder or positions need; the others take odd sizes
HEADS = ("up_layers", "up_samples", "conv_final", "class_layers.out", "_fc", "up_blocks", "dec_stages", "out_0")


def _outputs(net: Any, names: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hooks = [net.get_submodule(n).register_forward_hook(lambda m, given, out: found.append(out.clone())) for n in names]
    net(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("dims", "channels"), [(2, 3), (3, 1)])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_features_equal_monai_s_with_the_same_weights(family: Callable, dims: int, channels: int) -> None:
    torch.manual_seed(0)
    ours, theirs, features = family(dims, channels)
    randomised(theirs)
    kept = {name: value for name, value in theirs.state_dict().items() if not name.startswith(HEADS)}
    ours.eval().net.load_state_dict(kept, strict=True)
    x = torch.randn(1, channels, *(SIZES.get(family, n) for n in (45, 37, 34)[:dims]))
    with torch.no_grad():
        expected = features(x)
        computed = ours.features(x)[-len(expected) :]
    for level, other in zip(computed, expected, strict=True):
        assert torch.allclose(level, other, atol=1e-6 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("family", [densenet, efficientnet], ids=lambda family: family.__name__)
def test_the_vector_is_what_the_classifier_of_monai_gets(family: Callable) -> None:
    ours, theirs, _ = family(2, 1)
    net = nets.EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=1) if family is efficientnet else theirs
    randomised(net)
    ours.eval().net.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith(HEADS)})
    head = net._fc if family is efficientnet else net.class_layers.out
    given: list[torch.Tensor] = []
    head.register_forward_hook(lambda module, inputs, out: given.append(inputs[0]))
    x = torch.randn(2, 1, 64, 32)
    net(x)
    assert tuple(given[0].shape) == (2, ours.out_dim)
    assert torch.allclose(ours(x), given[0], atol=1e-6 * float(given[0].abs().max()))


def test_the_public_shapes_are_the_published_sizes() -> None:
    with torch.device("meta"):
        ct_fm = encoders.SegResEncoder(3, 1, 32, (1, 2, 2, 4, 4))
    assert len(ct_fm.state_dict()) == 161
    assert round(sum(p.numel() for p in ct_fm.parameters()) / 1e6, 1) == 77.8
    densenet121 = sum(p.numel() for p in encoders.DenseNet(2, 3).parameters())
    assert densenet121 == 6_953_856  # torchvision's densenet121 (7,978,856) without its 1024 x 1000 + 1000 classifier


def test_learned_positions_are_interpolated_for_another_crop_and_kept_patches_know_their_place() -> None:
    torch.manual_seed(0)
    encoder = encoders.UNETR(2, 1, (32, 32), 8, 24, 1, 2).eval()
    x = torch.randn(1, 1, 32, 32)
    everything = torch.arange(16)[None]
    assert torch.allclose(encoder.tokens(x, everything.flip(1)).flip(1), encoder.tokens(x), atol=1e-6)
    assert tuple(encoder.tokens(torch.randn(1, 1, 16, 48)).shape) == (1, 12, 24)
    past = torch.ones(1, 16, 16, dtype=torch.bool).tril()
    changed = x.clone()
    changed[..., 24:, 24:] += 1  # the last patch
    assert torch.allclose(
        encoder.tokens(changed, attend=past)[:, :15], encoder.tokens(x, attend=past)[:, :15], atol=1e-6
    )
    assert not torch.allclose(encoder.tokens(changed)[:, :15], encoder.tokens(x)[:, :15], atol=1e-4)


NETWORK: dict[str, Any] = {
    "network": "monai.networks.nets.BasicUNet",
    "options": {"features": [4, 8, 8, 8, 8, 4]},
    "layers": ["conv_0", "down_1", "down_2"],
    "size": (32, 32),
}


def test_any_network_of_monai_is_read_at_named_layers_and_not_run_further() -> None:
    torch.manual_seed(0)
    encoder = MonaiNetwork(2, 1, **NETWORK)
    assert (encoder.channels, encoder.strides) == ((4, 8, 8), ((1, 1), (2, 2), (4, 4)))
    check_encoder(encoder)
    theirs = randomised(nets.BasicUNet(2, 1, **NETWORK["options"]))
    encoder.eval().net.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 1, 48, 32)
    expected = _outputs(theirs, NETWORK["layers"], x)
    ran: list[int] = []
    encoder.net.get_submodule("down_3").register_forward_hook(lambda *_: ran.append(1))
    assert all(torch.equal(a, b) for a, b in zip(encoder.features(x), expected, strict=True))
    assert ran == []
    learning = {name.partition(".")[0] for name, weight in encoder.net.named_parameters() if weight.requires_grad}
    assert learning == {"conv_0", "down_1", "down_2"}
    parts = [next(layer.named_parameters())[0].partition(".")[0] for layer in encoder.layers()]
    assert list(dict.fromkeys(parts)) == NETWORK["layers"]
    assert twin(encoder).read == encoder.read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "os.system"}, "there is no network 'os.system'"),
        ({"network": "monai.networks.nets.BasicUnet2"}, "did you mean monai.networks.nets.BasicUNet"),
        ({"network": "monai.data.Dataset"}, "there is no network"),
        ({"layers": ["conv_0", "down_9"]}, "BasicUNet has no layer 'down_9'; did you mean down_"),
        ({"layers": ["down_1", "conv_0"]}, r"the layer conv_0 has the stride \(1, 1\), the one before it \(2, 2\)"),
        ({"layers": ["conv_0", "conv_0"]}, "each once"),
        ({"options": {"feature": 3}}, "BasicUNet cannot be built with .*feature"),
        ({"options": {"pretrained": True}}, "options has pretrained"),
        ({"size": (2, 2)}, r"does not take the crop \(2, 2\)"),
        ({"size": (34, 34)}, r"the layer down_2 is of \(8, 8\) for a crop of \(34, 34\)"),
    ],
)
def test_what_is_no_network_or_no_pyramid_is_refused_in_words(change: dict, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        MonaiNetwork(2, 1, **NETWORK | change)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: encoders.SwinUNETR(3, heads=(5, 6, 12, 24)), "heads"),
        (lambda: encoders.SegResNet(3, width=12), "width is 12"),
        (lambda: encoders.DenseNet(3, depth=120), "depth is 120"),
        (lambda: encoders.MedNeXt(3, blocks=(1, 1)), "as many numbers"),
        (lambda: encoders.UNETR(3, size=(90, 96, 96)), "size is"),
        (lambda: encoders.SwinUNETR(2, width=12, heads=(1, 1, 1, 1)).check_size((48, 64)), "--crop"),
    ],
)
def test_wrong_settings_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        build()
