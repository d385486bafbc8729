"""Relational methods: every loss in float64, geometry and answers by hand."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.methods import Jigsaw, Method, RelativeLocation, Rotation, VoCo, VolumeFusion
from medssl.methods.check import synthetic_batch
from medssl.methods.jigsaw import far_permutations
from medssl.methods.shared.relation import cut_tiles
from medssl.methods.voco import overlaps
from medssl.methods.volume_fusion import dice_loss
from medssl.preprocessing.data_spec import DataSpec

ENCODERS = {
    "resnet": lambda d: ResNet(d, depth=10, width=4, max_pool=False),
    "unet": lambda d: ResidualUNet(d, width=4, blocks=(1, 1, 1)),
}
CLASSIFIERS = {"Rotation": Rotation, "RelativeLocation": RelativeLocation, "Jigsaw": partial(Jigsaw, permutations=20)}


def made(method: Method, size: tuple[int, ...], count: int = 4, seed: int = 0) -> dict:
    """A batch with views."""
    torch.manual_seed(seed)
    method.set_up_views(DataSpec(len(size), modality="MR"), size)
    return method.make_views(synthetic_batch(method.encoder, method.source_size(size), count))


def places(dims: int, edge: int, count: int) -> torch.Tensor:
    """(count, dims, *S): each voxel holds its own coordinates, so that a tile tells where it was cut."""
    grid = torch.meshgrid(*[torch.arange(float(edge))] * dims, indexing="ij")
    return torch.stack(grid)[None].repeat(count, *[1] * (dims + 1))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_loss_is_the_cross_entropy_of_the_right_answer_in_float64(name: str, agrees) -> None:
    """Reference: minus the logarithm of the softmax at the answer, in numpy; tolerance 1e-5."""
    method = CLASSIFIERS[name](ENCODERS["unet"](2)).eval()
    batch = made(method, (32, 32), 6)
    with torch.no_grad():
        parts, right = method.ask(batch)
        logits = method.answer(parts).double().numpy()
        computed = float(method.loss(batch))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    agrees(name, "answer", computed, -np.log(scores[np.arange(6), right.numpy()]).mean())
    assert method.monitored_values()["accuracy"] == pytest.approx((logits.argmax(1) == right.numpy()).mean())


def test_tiles_are_what_numpy_cuts() -> None:
    x = torch.rand(2, 3, 9, 8, 7)
    starts = torch.tensor([[[0, 1, 2], [4, 3, 3]], [[5, 4, 0], [1, 1, 1]]])
    computed = cut_tiles(x, starts, (4, 4, 3))
    assert computed.shape == (2, 2, 3, 4, 4, 3)
    for b, n in itertools.product(range(2), range(2)):
        i, j, k = starts[b, n].tolist()
        assert torch.equal(computed[b, n], x[b, :, i : i + 4, j : j + 4, k : k + 3])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_second_tile_lies_where_the_answer_says_and_apart_from_the_first(dims: int) -> None:
    method = RelativeLocation(ENCODERS["unet"](dims))
    method.own_intensity.brightness = method.own_intensity.contrast = 0.0
    batch = synthetic_batch(method.encoder, (64,) * dims, 300)
    batch["views"] = [places(dims, 64, 300)]
    parts, right = method.ask(batch)
    tile, pitch, reach = method.layout((64,) * dims)
    assert tile == (16,) * dims
    corners = parts.flatten(3)[..., 0].round()  # (B, 2, dims)
    assert corners.min() >= 0
    assert corners.max() <= 64 - 16
    apart = corners[:, 1] - corners[:, 0]
    ways = [w for w in itertools.product((-1, 0, 1), repeat=dims) if any(w)]
    assert len(set(right.tolist())) == len(ways)
    for step, answer in zip(apart, right.tolist()):
        assert all(abs(s - w * p) <= 2 * r for s, w, p, r in zip(step.tolist(), ways[answer], pitch, reach))
        assert step.abs().max() > 16, "the tiles touch: a line could go on from one into the other"
    assert len({tuple(c) for c in corners[:, 0].tolist()}) > 3, "the first tile is never moved"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_puzzle_put_together_by_the_answer_is_the_scan(dims: int) -> None:
    method = Jigsaw(ENCODERS["unet"](dims), permutations=30)
    method.own_intensity.brightness = method.own_intensity.contrast = 0.0
    batch = synthetic_batch(method.encoder, (45,) * dims, 40)
    batch["views"] = [places(dims, 45, 40)]
    parts, right = method.ask(batch)
    assert parts.shape[3:] == (12,) * dims  # the largest multiple of 4 in 64/75 of 15
    cells = list(itertools.product(range(3), repeat=dims))
    corners = parts.flatten(3)[..., 0]
    for drawn, answer in zip(corners, right.tolist()):
        for corner, cell in zip(drawn, method.orders[answer].tolist()):
            inside = corner - torch.tensor(cells[cell]) * 15
            assert inside.min() >= -1e-3
            assert inside.max() <= 3 + 1e-3  # a tile stays in its cell
    assert len({tuple((c % 15).round().tolist()) for c in corners.flatten(0, 1)}) > 3, (
        "tiles always at one place of a cell"
    )


def test_permutations_are_far_apart_all_different_and_always_the_same() -> None:
    """Reference: the paper's algorithm 1 written out for 4 tiles; for more, farther apart than random ones are."""
    everything = np.array(list(itertools.permutations(range(4))))
    chosen = [everything[0]]
    for _ in range(5):
        left = [p for p in everything if not any((p == c).all() for c in chosen)]
        chosen.append(max(left, key=lambda p: sum((p != c).sum() for c in chosen)))
    assert np.array_equal(far_permutations(4, 6), np.array(chosen))
    for tiles, count in ((8, 100), (27, 50)):
        computed = far_permutations(tiles, count)
        assert np.array_equal(computed, far_permutations.__wrapped__(tiles, count))
        assert (np.sort(computed, axis=1) == np.arange(tiles)).all()
        apart = np.array([(a != b).sum() for a, b in itertools.combinations(computed, 2)])
        assert apart.min() >= 2
        assert apart.mean() > tiles - 1.1, "no farther apart than random ones"


@pytest.mark.parametrize("dims", [2, 3])
def test_voco_is_the_papers_equations_in_float64(dims: int, agrees) -> None:
    """Wu et al. 2024, equations 1 to 5 (similarity, prediction, regularisation), pair by pair in numpy; tolerance 1e-5."""
    method = VoCo(ENCODERS["unet"](dims), grid=2, queries=3, apart_weight=0.7).eval()
    batch = made(method, (16,) * dims, 2)
    features = []
    method.head.register_forward_hook(lambda _, given, out: features.append(out))
    with torch.no_grad():
        computed = float(method.loss(batch))
        base_starts, query_starts, tile = method.starts(batch)
    assert tile == [8] * dims
    z = features[0].double().numpy().reshape(2, -1, 128)
    bases, queries = z[:, : 2**dims], z[:, 2**dims :]
    placed, away = [], []
    for b, (own, others) in enumerate(zip(queries, bases)):
        for i, q in enumerate(own):
            for j, k in enumerate(others):
                share = np.prod(
                    [max(0, 8 - abs(int(s) - int(t))) / 8 for s, t in zip(query_starts[b, i], base_starts[b, j])]
                )
                placed.append(-np.log(1 - abs(share - max(0, cosine(q, k)))))
        away += [abs(cosine(k, m)) for k, m in itertools.combinations(others, 2)]
    agrees("VoCo", "place and base crops", computed, np.mean(placed) + 0.7 * np.mean(away))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_base_crops_fill_the_field_and_the_shares_of_a_crop_add_to_one() -> None:
    """The shares against a count of voxels; the field of the paper gives the paper's 16 base crops."""
    method = VoCo(ENCODERS["unet"](3), grid=4)
    assert method.grid_of((384, 384, 96)) == [4, 4, 1]
    assert method.grid_of((64, 64, 64)) == [4, 4, 4]
    batch = {"views": [torch.zeros(5, 1, 16, 16, 8)], "key": synthetic_batch(method.encoder, (16, 16, 8), 5)["key"]}
    bases, queries, tile = method.starts(batch)
    shares = overlaps(queries, bases, tile)
    assert torch.allclose(shares.sum(2), torch.ones(5, 4), atol=1e-5)
    owner = torch.full((16, 16, 8), -1)
    for n, start in enumerate(bases[0].tolist()):
        owner[tuple(slice(s, s + t) for s, t in zip(start, tile))] = n
    assert (owner >= 0).all()
    for q, start in enumerate(queries[0].tolist()):
        inside = owner[tuple(slice(s, s + t) for s, t in zip(start, tile))].flatten()
        counted = torch.bincount(inside, minlength=bases.shape[1]) / inside.numel()
        assert torch.allclose(shares[0, q], counted.float(), atol=1e-6)


def test_no_gradient_of_the_place_reaches_the_base_crops() -> None:
    method = VoCo(ENCODERS["unet"](2), grid=2, apart_weight=0.0).eval()
    batch = made(method, (16, 16), 2)
    features = []
    method.head.register_forward_hook(lambda _, given, out: features.append(out))
    loss = method.loss(batch)
    grads = torch.autograd.grad(loss, features[0])[0].unflatten(0, (2, 8))
    assert grads[:, :4].abs().max() == 0
    assert grads[:, 4:].abs().max() > 0


def test_volume_fusion_is_dice_and_cross_entropy_over_what_is_body_in_either_scan(agrees) -> None:
    """Dice and cross-entropy of 5 classes in numpy, float64; tolerance 1e-5."""
    method = VolumeFusion(ENCODERS["unet"](2))
    batch = made(method, (32, 32), 3)
    body = (torch.rand(3, 1, 32, 32) > 0.6).float()
    batch["valid_views"] = [body]
    with torch.no_grad():
        computed = float(method.loss(batch))
        fused, classes, counted = method.fuse(batch)
        logits = method.decoder(method.encoder.features(fused)).double().numpy()
    assert torch.equal(counted[0, 0] > 0, (body[0, 0] > 0) | (body[1, 0] > 0))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.stack([classes.numpy() == k for k in range(5)], 1)
    keep = counted.double().numpy()
    entropy = -(np.log(shares) * truth * keep).sum() / keep.sum()
    dice = [
        2 * (shares[:, k] * truth[:, k] * keep[:, 0]).sum() / ((shares[:, k] + truth[:, k]) * keep[:, 0]).sum()
        for k in range(5)
    ]
    agrees("VolumeFusion", "Dice and cross-entropy", computed, entropy + 1 - np.mean(dice))


def test_dice_agrees_with_monai(agrees) -> None:
    from monai.losses import DiceLoss

    torch.manual_seed(0)
    logits, classes = torch.randn(2, 4, 8, 8, 8), torch.randint(0, 4, (2, 8, 8, 8))
    reference = DiceLoss(softmax=True, to_onehot_y=True, batch=True)(logits, classes[:, None])
    agrees("VolumeFusion", "Dice", dice_loss(logits, classes, torch.ones(2, 1, 8, 8, 8)), reference)


def test_fused_scans_are_what_their_classes_say_and_boxes_are_as_large_as_stated() -> None:
    method = VolumeFusion(ENCODERS["unet"](3), boxes=(1, 1))
    batch = made(method, (32, 32, 32), 60)
    fused, classes, _ = method.fuse(batch)
    x = batch["views"][0].double()
    other = torch.cat([x[1:], x[:1]])
    a = classes[:, None].double() / 4
    assert torch.allclose(fused.double(), a * x + (1 - a) * other, atol=1e-5)
    edges = [c.nonzero().amax(0) - c.nonzero().amin(0) + 1 for c in classes if c.any()]
    assert 40 < len(edges) < 60  # one in five boxes has the coefficient 0
    assert all((c.nonzero().amax(0) - c.nonzero().amin(0) + 1).prod() == (c > 0).sum() for c in classes if c.any())
    assert torch.stack(edges).min() >= 1
    assert torch.stack(edges).max() <= 21
    many = VolumeFusion(ENCODERS["unet"](3)).classes_of(batch["key"], (32, 32, 32))
    assert torch.equal(many[7:9], VolumeFusion(ENCODERS["unet"](3)).classes_of(batch["key"][7:9], (32, 32, 32)))
    shares = torch.bincount(many.flatten(), minlength=5) / many.numel()
    assert shares.min() > 0.05, "a class hardly ever comes"


def test_settings_that_cannot_work_are_said_before_the_first_step() -> None:
    encoder = ENCODERS["unet"](2)
    with pytest.raises(MedsslError, match=r"a tile is a quarter of it.*instance norm.*--crop 32 32"):
        RelativeLocation(encoder).check((16, 16), 4)
    RelativeLocation(encoder).check((32, 32), 4)
    with pytest.raises(MedsslError, match=r"a tile is a quarter of it.*--crop 64 64"):
        RelativeLocation(ENCODERS["resnet"](2)).check((48, 48), 4)
    with pytest.raises(MedsslError, match=r"it must hold 3 tiles along each axis.*instance norm.*--crop 32 32"):
        Jigsaw(encoder).check((16, 16), 4)
    Jigsaw(encoder).check((32, 32), 4)
    with pytest.raises(MedsslError, match="--crop 32 16"):
        Jigsaw(encoder).check((33, 16), 4)
    with pytest.raises(MedsslError, match=r"does not divide into \[4, 4\] base crops.*--crop 32 16"):
        VoCo(encoder).check((36, 16), 4)
    with pytest.raises(MedsslError, match=r"instance norm.*--crop 32 32"):
        VoCo(encoder).check((16, 16), 4)
    with pytest.raises(MedsslError, match="grid is 1"):
        VoCo(encoder, grid=1)
    with pytest.raises(MedsslError, match="too small for VolumeFusion"):
        VolumeFusion(encoder).check((16, 16), 1)
    with pytest.raises(MedsslError, match="boxes is"):
        VolumeFusion(encoder, boxes=(5, 2))
    with pytest.raises(MedsslError, match="jitter is 0.5"):
        RelativeLocation(encoder, jitter=0.5)
    with pytest.raises(MedsslError, match="permutations is 25, grid is 2"):
        Jigsaw(encoder, permutations=25, grid=2)
    with pytest.raises(MedsslError, match="permutations is 1, grid is 3"):
        Jigsaw(encoder, permutations=1)
