"""The transformer equals timm's and MONAI's where they overlap, encodes only what is kept, and takes crops of any size."""

import pytest
import torch
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from timm.layers import apply_rot_embed_cat
from timm.models.vision_transformer import VisionTransformer

from medssl.core.errors import MedsslError
from medssl.encoders import Decoder, ViT, check_encoder
from medssl.encoders.tokens import blocks, from_patches, positions, rotations, to_patches, turn


def small(dims: int, **settings) -> ViT:
    return ViT(dims, **{"patch": 8, "width": 24, "depth": 2, "heads": 2} | settings)


@pytest.mark.parametrize(
    "encoder",
    [
        small(2),
        small(3),
        small(2, patch=16, in_channels=3),
        small(3, patch=(8, 8, 2)),
        small(3, patch=2),
        ViT(3),
        small(2, positions="rotary", registers=2),
        small(3, positions="rotary"),
    ],
    ids=["2D", "3D", "RGB", "thick slices", "one level", "default", "rotary, registers", "rotary in 3D"],
)
def test_it_keeps_the_contract_and_feeds_the_decoder(encoder: ViT) -> None:
    check_encoder(encoder)
    size = [2 * n for n in encoder.strides[-1]]
    logits = Decoder(encoder, 3)(encoder.features(torch.randn(2, encoder.in_channels, *size)))
    assert tuple(logits.shape) == (2, 3, *size)


@pytest.mark.parametrize("dims", [2, 3])
def test_crops_of_any_size_that_the_patch_divides(dims: int) -> None:
    encoder = small(dims).eval()
    for size in ((8, 24, 16), (32, 8, 8)):
        pyramid = encoder.features(torch.randn(1, 1, *size[:dims]))
        assert [tuple(level.shape[2:]) for level in pyramid] == [tuple(n // s for n in size[:dims]) for s in (2, 4, 8)]
    with pytest.raises(MedsslError, match="--crop " + " ".join(["24"] * dims)):
        encoder(torch.randn(1, 1, *[27] * dims))


@pytest.mark.parametrize("dims", [2, 3])
def test_patches_are_a_convolution_s_in_raster_order_and_go_back(dims: int) -> None:
    patch, grid = (2, 4, 8)[:dims], (3, 2, 2)[:dims]
    x = torch.randn(2, 3, *[g * p for g, p in zip(grid, patch)])
    patches = to_patches(x, patch)
    assert torch.equal(from_patches(patches, patch, grid), x)
    layer = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(3, 5, patch, patch)
    computed = patches @ layer.weight.flatten(1).T + layer.bias
    assert torch.allclose(computed.transpose(1, 2).unflatten(2, grid), layer(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("grid", [(3, 5), (4, 2, 3)])
def test_positions_are_monai_s(grid: tuple[int, ...]) -> None:
    """MONAI writes the second axis before the first."""
    reference = build_sincos_position_embedding(list(grid), 24, len(grid))[0]
    computed = positions(grid, 24)
    theirs = computed.unflatten(1, (len(grid), -1))[:, [1, 0, 2][: len(grid)]].flatten(1)
    assert torch.allclose(theirs, reference, atol=1e-5)
    assert torch.equal(positions(grid, 26), torch.nn.functional.pad(computed, (0, 2)))  # what cannot be shared stays 0


def test_tokens_equal_timm_s_transformer_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = small(2, in_channels=3, depth=3).eval()
    theirs = VisionTransformer(
        img_size=(32, 24),
        patch_size=8,
        num_classes=0,
        embed_dim=24,
        depth=3,
        num_heads=2,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    ).eval()
    own = ours.state_dict()
    given = {k: v for k, v in own.items() if k.startswith("norm.")}
    given["pos_embed"] = positions((4, 3), 24)[None]
    given["patch_embed.proj.weight"] = own["embed.weight"].reshape(24, 3, 8, 8)
    given["patch_embed.proj.bias"] = own["embed.bias"]
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj": "attn.proj",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
    }
    for key in [k for k in own if k.startswith("blocks.")]:
        target = key
        for a, b in names.items():
            target = target.replace(a, b)
        given[target] = own[key]
    theirs.load_state_dict(given)
    x = torch.randn(2, 3, 32, 24)
    assert torch.allclose(ours.tokens(x), theirs.forward_features(x), atol=1e-5)
    assert torch.allclose(ours.train()(x), theirs.forward(x), atol=1e-5)


def test_turning_by_places_equals_timm_s_rotary_attention_with_the_same_angles() -> None:
    q, angles = torch.randn(2, 3, 5, 8), rotations((1, 5), 8)
    theirs = apply_rot_embed_cat(q, torch.cat([angles.sin(), angles.cos()], dim=-1))
    assert torch.allclose(turn(q, angles), theirs, atol=1e-6)


def test_a_rotary_block_is_torch_s_own_where_nothing_is_turned() -> None:
    torch.manual_seed(0)
    rotary, torch_s = blocks(24, 1, 3, rotary=True), blocks(24, 1, 3)
    torch_s.load_state_dict(rotary.state_dict())
    x = torch.randn(2, 6, 24)
    assert torch.allclose(rotary[0](x, torch.zeros(1, 6, 8)), torch_s[0](x), atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_rotary_positions_are_relative_and_known_along_every_axis(dims: int) -> None:
    """Equal distances give equal products, every place has angles of its own, and shuffled patches are not the same."""
    torch.manual_seed(0)
    encoder = small(dims, positions="rotary", depth=1).eval()
    angles = rotations((3,) * dims, 12)
    assert len({tuple(row) for row in angles.tolist()}) == 3**dims
    q, k = torch.randn(12), torch.randn(12)
    products = [float(turn(q, angles[i]) @ turn(k, angles[i + 1])) for i in (0, 1)]
    assert products[0] == pytest.approx(products[1], abs=1e-5)
    patches, order = torch.randn(1, 3**dims, 8**dims), torch.randperm(3**dims)
    x, shuffled = (from_patches(p, (8,) * dims, (3,) * dims) for p in (patches, patches[:, order]))
    assert not torch.allclose(encoder.tokens(shuffled), encoder.tokens(x)[:, order], atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"registers": 2}, {"positions": "rotary", "registers": 3}, {"positions": "rotary"}]
)
def test_registers_and_rotary_positions_keep_what_methods_need(settings: dict) -> None:
    torch.manual_seed(0)
    encoder, x = small(2, **settings).eval(), torch.randn(2, 1, 16, 32)
    tokens = encoder.tokens(x)
    assert tuple(tokens.shape) == (2, 8, 24)
    everything = torch.arange(8).expand(2, 8)
    assert torch.allclose(encoder.tokens(x, everything.flip(1)).flip(1), tokens, atol=1e-5)
    past = torch.ones(2, 8, 8, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, :, 8:, 24:] += 1  # the last patch
    assert torch.allclose(encoder.tokens(changed, attend=past)[:, :7], encoder.tokens(x, attend=past)[:, :7], atol=1e-5)
    if settings.get("registers"):
        with torch.no_grad():
            encoder.registers.normal_()
        assert not torch.allclose(encoder.tokens(x), tokens, atol=1e-3)


def test_only_kept_patches_are_encoded_and_what_is_dropped_is_not_seen() -> None:
    torch.manual_seed(0)
    encoder = small(3)
    x = torch.randn(2, 1, 16, 16, 16)
    keep = torch.tensor([[5, 0, 2], [7, 1, 3]])
    computed = encoder.tokens(x, keep)
    assert tuple(computed.shape) == (2, 3, 24)
    patches = to_patches(x, (8, 8, 8))
    hidden = torch.ones(2, 8, 1).scatter(1, keep[..., None], 0.0) > 0
    other = from_patches(torch.where(hidden, torch.rand_like(patches), patches), (8, 8, 8), (2, 2, 2))
    assert torch.equal(encoder.tokens(other, keep), computed)
    everything = torch.arange(8).expand(2, 8)
    assert torch.allclose(encoder.tokens(x, everything.flip(1)).flip(1), encoder.tokens(x), atol=1e-5)


def test_a_token_sees_only_what_it_may_attend_to() -> None:
    torch.manual_seed(0)
    encoder = small(2)
    x = torch.randn(2, 1, 16, 32)
    past = torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 8, 8)
    computed = encoder.tokens(x, attend=past)
    changed = x.clone()
    changed[:, :, 8:, 16:24] += 1  # patch 6 of 0..7
    again = encoder.tokens(changed, attend=past)
    assert torch.allclose(again[:, :6], computed[:, :6], atol=1e-6)
    assert (again[:, 6:] - computed[:, 6:]).abs().amin(dim=(0, 2)).min() > 0
    assert torch.allclose(encoder.tokens(x, attend=torch.ones_like(past)), encoder.tokens(x), atol=1e-5)


def test_vit_b_16_is_the_published_size() -> None:
    with torch.device("meta"):
        encoder = ViT(2, 3, patch=16, width=768, depth=12, heads=12)
    weights = sum(p.numel() for n, p in encoder.named_parameters() if not n.startswith("finer."))
    assert weights == 85_646_592  # 86,567,656 less the classifier (769,000), the class token and 197 learned positions


def test_wrong_settings_are_refused() -> None:
    for settings, message in [
        ({"patch": 6}, "patch is 6"),
        ({"patch": (8, 8)}, "for each of 3 axes"),
        ({"patch": 1}, "patch is 1"),
        ({"width": 200, "heads": 3}, "heads 3"),
        ({"depth": 0}, "depth 0"),
        ({"registers": -1}, "registers is -1"),
        ({"positions": "rotary", "width": 8, "heads": 2}, "rotary positions heads of an even width, 6 or more"),
    ]:
        with pytest.raises(MedsslError, match=message):
            ViT(3, **settings)
