"""An encoder of timm has timm's names and timm's features, takes any size where the model does, and never downloads."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from medssl.core.errors import MedsslError
from medssl.core.spec import describe, twin
from medssl.encoders import Decoder, Timm, check_encoder
from medssl.methods import MAE, check_method
from medssl.training.techniques.layer_decay import groups

STAGES = ("tf_efficientnet_lite0", "convnext_atto", "resnet10t", "densenet121")


def randomised(net: Any) -> Any:
    """The model in evaluation mode, with statistics and scales that are not 0 or 1, so that no layer is left out unseen."""
    generator = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + (0.75 if "bias" not in name else -0.25))
    return net.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STAGES)
def test_stages_and_vector_equal_timm_s_with_the_same_weights(name: str, channels: int) -> None:
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(name, in_chans=channels, num_classes=0))
    encoder = Timm(2, channels, name).eval()
    encoder.net.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, channels, 75, 53)  # of no stride's multiple
    assert torch.allclose(encoder(x), theirs(x), atol=1e-6)
    pyramid, levels = encoder.features(x), features_only(name, theirs)(x)
    assert encoder.channels == tuple(level.shape[1] for level in levels)
    for ours, level in zip(pyramid, levels, strict=True):
        assert torch.allclose(ours, level, atol=1e-6)


def features_only(name: str, net: Any) -> Any:
    """timm's own extractor of stages with the weights of `net`."""
    made = timm.create_model(
        name, in_chans=net.get_parameter(next(iter(net.state_dict()))).shape[1], features_only=True
    )
    own = {key.replace(".", "_"): value for key, value in net.state_dict().items()}
    made.load_state_dict({key: own[key.removeprefix("model.").replace(".", "_")] for key in made.state_dict()})
    return made.eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_equal_timm_s_at_sizes_that_the_model_was_not_made_for(channels: int) -> None:
    torch.manual_seed(0)
    theirs = randomised(
        timm.create_model("vit_tiny_patch16_224", in_chans=channels, num_classes=0, dynamic_img_size=True)
    )
    encoder = Timm(2, channels, "vit_tiny_patch16_224").eval()
    encoder.net.load_state_dict(theirs.state_dict(), strict=True)
    for size in ((224, 224), (48, 112)):
        x = torch.randn(1, channels, *size)
        tokens = theirs.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))
        assert torch.allclose(encoder.features(x)[-1], tokens, atol=1e-6)
        assert torch.allclose(encoder(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_patches_are_encoded_alone_each_in_its_place(name: str) -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 64, "depth": 2, "num_heads": 2} if "dino" in name else {}
    encoder = Timm(2, 1, name, options).eval()
    randomised(encoder.net)
    x = torch.randn(2, 1, 48, 64)
    tokens = encoder.tokens(x)
    assert torch.allclose(tokens.transpose(1, 2).unflatten(2, (3, 4)), encoder.features(x)[-1], atol=1e-6)
    everything = torch.arange(12).expand(2, 12)
    assert torch.allclose(encoder.tokens(x, everything.flip(1)).flip(1), tokens, atol=1e-5)
    keep = torch.tensor([[5, 0, 2], [7, 1, 3]])
    changed = x.clone()
    changed[:, :, 32:] += 1  # the patches 8 to 11, of which none is kept
    assert torch.equal(encoder.tokens(changed, keep), encoder.tokens(x, keep))
    past = torch.ones(2, 12, 12, dtype=torch.bool).tril()
    seen, again = encoder.tokens(x, attend=past), encoder.tokens(changed, attend=past)
    assert torch.allclose(seen[:, :8], again[:, :8], atol=1e-5)
    assert not torch.allclose(seen[:, 8:], again[:, 8:], atol=1e-3)


def test_methods_on_tokens_take_a_vit_of_timm_and_refuse_its_other_models() -> None:
    check_method(MAE(Timm(2, 1, "test_vit"), decoder_depth=1), (32, 32))
    with pytest.raises(MedsslError, match="MAE came with a Timm: expected an encoder of patches"):
        MAE(Timm(2, 1, "test_resnet"))
    with pytest.raises(MedsslError, match="test_resnet has no tokens of patches"):
        Timm(2, 1, "test_resnet").tokens(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_vit3", "swin_tiny_patch4_window7_224"])
def test_it_keeps_the_contract_and_feeds_the_decoder(name: str) -> None:
    encoder = Timm(2, 1, name)
    check_encoder(encoder)
    size = [2 * n for n in encoder.strides[-1]]
    assert tuple(Decoder(encoder, 3)(encoder.features(torch.randn(2, 1, *size))).shape) == (2, 3, *size)


def test_patches_get_finer_levels_for_segmentation() -> None:
    assert Timm(2, 1, "test_vit").strides == ((2, 2), (4, 4), (8, 8), (16, 16))
    assert Timm(2, 1, "test_vit", {"patch_size": 14, "img_size": 28}).strides == ((7, 7), (14, 14))


def test_layers_are_timm_s_own_and_keep_the_names_that_decide_the_weight_decay() -> None:
    encoder = Timm(2, 1, "test_vit")
    first, *blocks, last = encoder.layers()
    assert {name for name, _ in first.named_parameters()} == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
    assert len(blocks) == 5  # the last of six blocks has the norm and the finer levels with it
    assert {id(p) for p in last.parameters()} >= {
        id(p) for p in [*encoder.net.norm.parameters(), *encoder.finer.parameters()]
    }
    assert len(groups(encoder, 1.0, 0.7)) == 8


def test_the_record_holds_the_name_and_the_options() -> None:
    encoder = Timm(2, 3, "test_vit", {"img_size": 64, "drop_path_rate": 0.1})
    assert describe(encoder)["init_args"] == {
        "dims": 2,
        "in_channels": 3,
        "name": "test_vit",
        "options": {"img_size": 64, "drop_path_rate": 0.1},
    }
    assert twin(encoder).net.pos_embed.shape == (1, 17, 64)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet_50", {}, "timm has no model 'resnet_50'; did you mean"),
        ("hf-hub:timm/resnet50", {}, "timm has no model"),
        ("local-dir:/tmp", {}, "timm has no model"),
        ("resnet10t", {"pretrained": True}, "options has pretrained: expected arguments of the model itself"),
        ("resnet10t", {"checkpoint_path": "a.pth"}, "options has checkpoint_path"),
        ("resnet10t", {"widht": 3}, "timm cannot build resnet10t"),
    ],
)
def test_unknown_names_and_options_that_load_or_download_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        Timm(2, 1, name, options)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit", (40, 32), "--crop 32 32"),
        ("mixer_s32_224", (64, 64), r"Timm does not take the crop \(64, 64\) \(Input height \(64\)"),
        ("inception_v3", (128, 128), "makes levels of"),
    ],
)
def test_a_crop_that_the_model_cannot_take_is_refused_in_words(name: str, size: tuple[int, int], message: str) -> None:
    encoder = Timm(2, 1, name).train()
    with pytest.raises(MedsslError, match=message):
        encoder.check_size(size)
    assert all(module.training for module in encoder.modules())
