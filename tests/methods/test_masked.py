"""Methods that hide a part of a scan and predict it: the published losses, what must not be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightly.models import utils as lightly_utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
from lightly.models.modules.masked_causal_vision_transformer import MaskedCausalAttention

from medssl.core.errors import MedsslError
from medssl.encoders import EfficientNet, Encoder, ResidualUNet, ResNet, ViT
from medssl.encoders.tokens import positions, take, to_patches
from medssl.methods import AIM, IBOT, MAE, MaskedMotion, Method, NextSlice, SparK
from medssl.methods.check import synthetic_batch
from medssl.methods.shared.patches import targets
from medssl.methods.spark import visible_only

ENCODERS = {
    "vit": lambda d: ViT(d, patch=8, width=24, depth=2, heads=2),
    "vit thick slices": lambda d: ViT(d, patch=(8, 8, 4)[:d], width=16, depth=1, heads=1),
    "unet": lambda d: ResidualUNet(d, width=4, blocks=(1, 1, 1)),
    "resnet": lambda d: ResNet(d, depth=10, width=4, max_pool=False),
    "unet frames": lambda d: ResidualUNet(d, 5, width=4, blocks=(1, 1, 1)),
}


def small_batch(method: Method, size: tuple[int, ...], count: int = 3) -> dict[str, Any]:
    """Views that are the source itself, about a third of it no body."""
    batch = synthetic_batch(method.encoder, size, count)
    batch["views"] = [batch["source"] + 0.1 * torch.randn(batch["source"].shape)]
    batch["valid_views"] = [(torch.rand(count, 1, *size) > 0.3).float()]
    return batch


def with_other_masked(x: torch.Tensor, masked: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """The view with noise in its masked patches."""
    flags = torch.zeros(len(x), np.prod([n // p for n, p in zip(x.shape[2:], encoder.strides[-1])]))
    mask = flags.scatter(1, masked, 1.0).reshape(len(x), 1, *[n // p for n, p in zip(x.shape[2:], encoder.strides[-1])])
    return torch.where(torch.nn.functional.interpolate(mask, size=x.shape[2:]) > 0, torch.rand_like(x), x)


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_is_the_published_loss_in_float64(normalise: bool, agrees) -> None:
    """He et al. 2022 in numpy, each patch by itself: the squared error over what is masked and body; tolerance 1e-5."""
    torch.manual_seed(0)
    method = MAE(ENCODERS["vit"](3), decoder_depth=1, decoder_width=16, decoder_heads=2, normalise=normalise)
    batch = small_batch(method, (16, 16, 16))
    keep, masked = method.visible_and_masked(batch)
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(batch["views"][0], keep, masked).double().numpy()
    x, body = batch["views"][0].double().numpy(), batch["valid_views"][0].numpy()
    total = count = 0.0
    for b in range(3):
        for n, patch in enumerate(masked[b].tolist()):
            i, j, k = (8 * int(v) for v in np.unravel_index(patch, (2, 2, 2)))
            place = (b, 0, slice(i, i + 8), slice(j, j + 8), slice(k, k + 8))
            inside = body[place].ravel() > 0
            voxels = x[place].ravel()[inside]
            if normalise:
                voxels = (voxels - voxels.mean()) / np.sqrt(voxels.var(ddof=1) + 1e-6)
            total += ((predicted[b, n][inside] - voxels) ** 2).sum()
            count += inside.sum()
    agrees("MAE", "masked patches", computed, total / count)
    assert masked.shape[1] == 6


def test_mae_s_decoder_and_loss_equal_lightly_s(agrees) -> None:
    """The decoder of lightly 1.6 with the same weights and its own bookkeeping of tokens; tolerance 1e-5."""
    torch.manual_seed(0)
    method = MAE(ENCODERS["vit"](2), decoder_depth=2, decoder_width=16, decoder_heads=2).eval()
    batch = small_batch(method, (32, 32))
    batch["valid_views"][0].fill_(1.0)
    x, (keep, masked) = batch["views"][0], method.visible_and_masked(batch)
    theirs = MaskedVisionTransformerDecoderTIMM(
        16, 16, depth=2, num_heads=2, num_prefix_tokens=0, norm_layer=torch.nn.LayerNorm, mask_token=method.mask_token
    )
    own = {k: v for k, v in method.state_dict().items() if k.split(".")[0] in ("blocks", "norm")}
    theirs.load_state_dict(as_timm(own) | {"mask_token": method.mask_token, "pos_embed": positions((4, 4), 16)[None]})
    with torch.no_grad():
        whole = lightly_utils.repeat_token(theirs.mask_token, (3, 16))
        whole = lightly_utils.set_at_index(whole, keep, method.project(method.encoder.tokens(x, keep)))
        predicted = method.head(lightly_utils.get_at_index(theirs.decode(theirs.add_pos_embed(whole)), masked))
        patches = lightly_utils.get_at_index(lightly_utils.patchify(x, 8), masked)
        loss = torch.nn.functional.mse_loss(predicted, lightly_utils.normalize_mean_var(patches))
        apart = (method.predict(x, keep, masked) - predicted).abs().max()
        agrees("MAE", "decoder and loss", apart, 0)
        agrees("MAE", "decoder and loss", method.loss(batch), loss)


def as_timm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of torch's transformer blocks by timm's names."""
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj": "attn.proj"}
    names |= {"linear1": "mlp.fc1", "linear2": "mlp.fc2"}
    renamed = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[key] = value
    return renamed


def test_mae_does_not_see_what_it_hides_nor_count_air() -> None:
    torch.manual_seed(0)
    method = MAE(ENCODERS["vit"](2), decoder_width=24, decoder_depth=1)
    batch = small_batch(method, (32, 32))
    keep, masked = method.visible_and_masked(batch)
    x = batch["views"][0]
    other = with_other_masked(x, masked, method.encoder)
    assert not torch.equal(other, x)
    assert torch.equal(method.predict(other, keep, masked), method.predict(x, keep, masked))
    assert torch.equal(take(to_patches(other, (8, 8)), keep), take(to_patches(x, (8, 8)), keep))
    loss = method.loss(batch)
    seen = torch.zeros(3, 16, 1).scatter(1, keep[..., None], 1.0).reshape(3, 1, 4, 4)
    air = (batch["valid_views"][0] == 0) & (torch.nn.functional.interpolate(seen, scale_factor=8) == 0)
    batch["views"] = [torch.where(air, 7.0, x)]
    assert torch.allclose(method.loss(batch), loss, atol=1e-6)
    batch["valid_views"] = [torch.zeros_like(batch["valid_views"][0])]
    assert float(method.loss(batch).detach()) == 0.0


def test_mae_shows_the_seen_as_it_is_and_the_masked_by_its_prediction() -> None:
    torch.manual_seed(0)
    method = MAE(ENCODERS["vit"](3), normalise=False, decoder_width=24, decoder_depth=1)
    batch = small_batch(method, (16, 16, 16))
    keep, masked = method.visible_and_masked(batch)
    shown = {name: to_patches(x, (8, 8, 8)) for name, x in method.reconstruct(batch).items()}
    for name in ("corrupted", "restored"):
        assert torch.equal(take(shown[name], keep), take(shown["source"], keep))
    assert take(shown["corrupted"], masked).abs().max() == 0
    assert torch.equal(take(shown["restored"], masked), method.predict(batch["views"][0], keep, masked))


@pytest.mark.parametrize("normalise", [True, False])
def test_spark_is_the_published_loss_in_float64(normalise: bool, agrees) -> None:
    """Tian et al. 2023, section 3.3, in numpy, each block by itself; tolerance 1e-5."""
    torch.manual_seed(0)
    method = SparK(ENCODERS["unet"](2), normalise=normalise)
    batch = small_batch(method, (16, 16))
    seen = method.visible_of(batch)
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(batch["views"][0], seen).double().numpy()
    x, body = batch["views"][0].double().numpy(), batch["valid_views"][0].numpy()
    total = count = 0.0
    for b, i, j in np.ndindex(3, 4, 4):
        place = (b, 0, slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
        if seen[b, 0, 4 * i, 4 * j] == 0:
            inside = body[place] > 0
            voxels = x[place][inside]
            if normalise:
                voxels = (voxels - voxels.mean()) / np.sqrt(voxels.var(ddof=1) + 1e-6)
            total += ((predicted[place][inside] - voxels) ** 2).sum()
            count += inside.sum()
    agrees("SparK", "masked blocks", computed, total / count)
    assert (1 - seen).flatten(1).mean(1).tolist() == [0.625] * 3  # 10 of 16 blocks


def test_visible_only_is_a_sparse_convolution_with_norms_over_what_is_seen(agrees) -> None:
    """Against numpy in float64, place by place: sums over visible neighbours, statistics over visible places."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.BatchNorm2d(3)).double()
    torch.nn.init.normal_(layer[1].weight), torch.nn.init.normal_(layer[1].bias)
    x, seen = torch.randn(2, 2, 8, 8).double(), torch.zeros(2, 1, 8, 8).double()
    seen[0, :, :4, 4:], seen[1, :, 4:, :4] = 1, 1
    with visible_only(layer, seen):
        computed = layer(x * seen).detach().numpy()
    w, bias = layer[0].weight.detach().numpy(), layer[0].bias.detach().numpy()
    given, places = np.pad((x * seen).numpy(), ((0, 0), (0, 0), (1, 1), (1, 1))), []
    summed = np.zeros((2, 3, 4, 4))
    for b, i, j in np.ndindex(2, 4, 4):
        if seen[b, 0, 2 * i, 2 * j]:
            summed[b, :, i, j] = (w * given[b, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]).sum((1, 2, 3)) + bias
            places.append((b, i, j))
    b, i, j = np.array(places).T
    values = summed[b, :, i, j]
    scaled = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    expected = np.zeros_like(summed)
    expected[b, :, i, j] = scaled * layer[1].weight.detach().numpy() + layer[1].bias.detach().numpy()
    agrees("SparK", "sparse encoding", np.abs(computed - expected).max(), 0)
    assert np.allclose(layer[1].running_mean, 0.1 * values.mean(0), atol=1e-6)
    assert np.allclose(layer[1].running_var, 0.9 + 0.1 * values.var(0, ddof=1), atol=1e-6)
    assert not layer[0]._forward_hooks, "the layers are left as they were"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["unet", "resnet"])
def test_spark_keeps_masked_blocks_empty_at_every_level_and_does_not_see_them(encoder: str, dims: int) -> None:
    torch.manual_seed(0)
    method = SparK(ENCODERS[encoder](dims))
    batch = small_batch(method, (32,) * dims, 2)
    x, seen = batch["views"][0], method.visible_of(batch)
    with visible_only(method.encoder, seen):
        pyramid = method.encoder.features(x * seen)
    for level in pyramid:
        small = torch.nn.functional.interpolate(seen, size=level.shape[2:])
        assert level.masked_select(small == 0).abs().max() == 0
        assert level.masked_select(small == 1).abs().mean() > 0
    method.eval()  # batch statistics would change with every pass
    with torch.no_grad():
        assert torch.equal(method.predict(torch.where(seen > 0, x, 9.0), seen), method.predict(x, seen))


@pytest.mark.parametrize(("order", "normalise"), [("raster", True), ("slice", True), ("raster", False)])
def test_aim_is_the_published_loss_in_float64(order: str, normalise: bool, agrees) -> None:
    """El-Nouby et al. 2024, equation 2 with its prefix, in numpy, patch by patch; tolerance 1e-5."""
    torch.manual_seed(0)
    method = AIM(ENCODERS["vit thick slices"](3), order, 1, 16, normalise)
    batch = small_batch(method, (16, 16, 8))
    prefix = method.prefix_of(batch)
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(batch["views"][0], prefix).double().numpy()
    x, body = batch["views"][0].double().numpy(), batch["valid_views"][0].numpy()
    places = list(np.ndindex(2, 2, 2))
    if order == "slice":
        places.sort(key=lambda place: place[2])
    total = count = 0.0
    for b in range(3):
        for n in range(max(1, int(prefix[b])), 8):
            i, j, k = places[n]
            cut = (b, 0, slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8), slice(4 * k, 4 * k + 4))
            inside = body[cut].ravel() > 0
            voxels = x[cut].ravel()[inside]
            if normalise:
                voxels = (voxels - voxels.mean()) / np.sqrt(voxels.var(ddof=1) + 1e-6)
            total += ((predicted[b, n - 1][inside] - voxels) ** 2).sum()
            count += inside.sum()
    agrees("AIM", "next patch", computed, total / count)


@pytest.mark.parametrize("order", ["raster", "slice"])
def test_aim_predicts_a_patch_from_those_before_it_alone(order: str) -> None:
    torch.manual_seed(0)
    method = AIM(ENCODERS["vit"](3), order, head_depth=1, head_width=16)
    batch = small_batch(method, (16, 16, 24))
    x, prefix = batch["views"][0], torch.tensor([1, 4, 9])
    follows, before = method.sequence(x), method.predict(batch["views"][0], prefix)
    assert sorted(follows.tolist()) == list(range(12))
    if order == "slice":
        assert follows[:4].tolist() == [0, 3, 6, 9], "the first slice of patches comes first"
    changed = with_other_masked(x, follows[6].expand(3, 1), method.encoder)  # the 7th patch of the sequence
    apart = (method.predict(changed, prefix) - before).abs().amax(2) > 1e-6  # entry n predicts patch n + 1
    assert apart.tolist() == [[n >= 6 for n in range(11)], [n >= 6 for n in range(11)], [True] * 11]
    assert all(0 < p < 12 for p in method.prefix_of(batch).tolist())


def test_aim_s_attention_is_lightly_s() -> None:
    method = AIM(ENCODERS["vit"](2), head_depth=1, head_width=16)
    seen = {}
    method.encoder.tokens = lambda x, attend: seen.update(attend=attend) or torch.zeros(2, 6, 24)
    prefix = torch.tensor([2, 5])
    method.predict(torch.zeros(2, 1, 16, 24), prefix)
    theirs = MaskedCausalAttention(24, 2)._get_attention_mask(torch.zeros(2, 6, 24), torch.arange(6) >= prefix[:, None])
    assert torch.equal(seen["attend"], theirs[:, 0])


def test_ibot_is_the_published_loss_in_float64(agrees) -> None:
    """Zhou et al. 2022, equations 2 and 3, in numpy, view by view and patch by patch; tolerance 1e-5."""
    torch.manual_seed(0)
    method = IBOT(ENCODERS["vit"](2), 0.5, 0.7, prototypes=8, hidden_width=16, bottleneck=8)
    method.dino.center.normal_(), method.ibot.center.value.normal_()
    batch = small_batch(method, (32, 32))
    batch["views"].append(batch["views"][0].flip(2))
    batch["valid_views"].append(batch["valid_views"][0].flip(2))
    x, mask = torch.cat(batch["views"]), method.mask_of(batch)
    counted = method.counted(mask, torch.cat(batch["valid_views"]))
    student = torch.nn.Sequential(method.encoder, method.head)
    with torch.no_grad():
        said, said_of_patches = (t.double().numpy() for t in method.logits(method.teacher, x, counted))
        answered, of_patches = (t.double().numpy() for t in method.logits(student, method.masked(x, mask), counted))
        centres = (
            method.dino.center.double().numpy().reshape(1, 8),
            method.ibot.center.value.double().numpy().reshape(1, 8),
        )
        computed = float(method.loss(batch))
        moved = (method.dino.center.double().numpy(), method.ibot.center.value.double().numpy())
        method.dino.center.copy_(torch.tensor(centres[0]).reshape(method.dino.center.shape))
        method.ibot.center.value.copy_(torch.tensor(centres[1]).reshape(method.ibot.center.value.shape))
        method.patch_weight += 1
        of_patches_alone = float(method.loss(batch)) - computed

    def cross_entropy(teacher: np.ndarray, pupil: np.ndarray, centre: np.ndarray) -> np.ndarray:
        wanted = np.exp((teacher - centre) / 0.04)  # the temperature of the first step
        guessed = np.exp(pupil / 0.1)
        return -(wanted / wanted.sum(1, keepdims=True) * np.log(guessed / guessed.sum(1, keepdims=True))).sum(1)

    views = (
        cross_entropy(said[:3], answered[3:], centres[0]).mean()
        + cross_entropy(said[3:], answered[:3], centres[0]).mean()
    ) / 2
    whose, patches = counted.nonzero()[:, 0].numpy(), cross_entropy(said_of_patches, of_patches, centres[1])
    by_view = [patches[whose == view].mean() for view in range(6) if (whose == view).any()]
    agrees("IBOT", "views and patches", computed, views + 0.7 * sum(by_view) / 6)
    agrees("IBOT", "patches alone", of_patches_alone, sum(by_view) / 6)
    for before, after, seen in zip(centres, moved, (said, said_of_patches)):
        agrees("IBOT", "centres", np.abs(after.ravel() - (0.9 * before.ravel() + 0.1 * seen.mean(0))).max(), 0)
    assert mask.flatten(1).mean(1).tolist() == [0.5] * 6


def test_ibot_hides_from_the_student_and_does_not_count_air() -> None:
    torch.manual_seed(0)
    method = IBOT(ENCODERS["vit"](3), prototypes=8, hidden_width=16, bottleneck=8)
    batch = small_batch(method, (16, 16, 16))
    batch["views"].append(batch["views"][0]), batch["valid_views"].append(batch["valid_views"][0])
    x, mask = torch.cat(batch["views"]), method.mask_of(batch)
    assert torch.equal(method.masked(torch.where(mask > 0, 9.0, x), mask), method.masked(x, mask))
    assert method.counted(mask, torch.ones_like(mask)).float().sum(1).tolist() == [2.0] * 6  # of 8 patches
    assert not method.counted(mask, torch.zeros_like(mask)).any()
    batch["valid_views"] = [torch.zeros(3, 1, 16, 16, 16)] * 2
    assert torch.isfinite(method.loss(batch))
    assert torch.isfinite(method.ibot.center.value).all()


def test_a_patch_of_air_or_of_one_voxel_has_a_finite_target() -> None:
    patches, counted = torch.rand(1, 3, 8), torch.ones(1, 3, 8)
    counted[0, 0], counted[0, 1, 1:] = 0, 0
    target, mean, deviation = targets(patches, counted)
    assert torch.isfinite(target).all()
    assert float(target[0, 1, 0]) == 0.0
    assert torch.allclose(target * deviation + mean, patches, atol=1e-6)
    assert target[0, 2].mean().abs() < 1e-6
    assert abs(float(target[0, 2].var()) - 1) < 1e-3


def test_settings_that_cannot_work_are_said_before_the_first_step() -> None:
    encoder = ENCODERS["vit"](3)
    with pytest.raises(
        MedsslError, match="MAE came with a ResidualUNet: expected an encoder of patches; pass --encoder ViT"
    ):
        MAE(ENCODERS["unet"](3))
    with pytest.raises(MedsslError, match="SparK came with a ViT, which has a Linear: expected convolutions"):
        SparK(encoder)
    with pytest.raises(MedsslError, match=r"holds 1 blocks of \(4, 4, 4\) voxels"):
        SparK(ENCODERS["unet"](3)).check((4, 4, 4), 4)
    with pytest.raises(MedsslError, match=r"gives a map of \(1, 1\) for a crop of \(64, 64\)"):
        SparK(EfficientNet(2, width=0.1, depth=0.3)).check(
            (64, 64), 4
        )  # squeeze-and-excitation averages what is masked
    with pytest.raises(MedsslError, match="AIM came with a ResidualUNet: expected an encoder of patches"):
        AIM(ENCODERS["unet"](3))
    with pytest.raises(MedsslError, match="holds one patch"):
        AIM(encoder).check((8, 8, 8), 4)
    with pytest.raises(MedsslError, match="head_depth is 0"):
        AIM(encoder, head_depth=0)
    with pytest.raises(MedsslError, match="has 4 slices, the last axis: expected more than the 4"):
        NextSlice(ENCODERS["unet"](3)).check((16, 16, 4), 4)
    with pytest.raises(MedsslError, match="ahead is 5 along frames: expected a whole number from 1 to 4"):
        NextSlice(ENCODERS["unet frames"](3), "frames", 5)
    with pytest.raises(MedsslError, match="--crop 16 16 16"):
        MaskedMotion(ENCODERS["unet frames"](3)).check((8, 16, 20), 4)
    with pytest.raises(MedsslError, match="motion_weight -1"):
        MaskedMotion(ENCODERS["unet frames"](3), motion_weight=-1)
    with pytest.raises(MedsslError, match="IBOT came with a ResidualUNet: expected an encoder of patches"):
        IBOT(ENCODERS["unet"](3))
    with pytest.raises(MedsslError, match="patch_weight -1"):
        IBOT(encoder, patch_weight=-1)
    with pytest.raises(MedsslError, match="of which mask_ratio 0.3 masks 0"):
        IBOT(encoder).check((8, 8, 8), 4)
    with pytest.raises(MedsslError, match="mask_ratio is 1.0"):
        MAE(encoder, mask_ratio=1.0)
    with pytest.raises(MedsslError, match="decoder_width 10"):
        MAE(encoder, decoder_width=10)
    with pytest.raises(MedsslError, match="--crop 24 16 16"):
        MAE(encoder).check((22, 16, 16), 4)
    with pytest.raises(MedsslError, match=r"holds 1 patches of \(8, 8, 8\) voxels, of which mask_ratio 0.75 masks 1"):
        MAE(encoder).check((8, 8, 8), 4)
