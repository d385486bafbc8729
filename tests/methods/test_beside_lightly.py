"""With the same weights our losses are those of lightly's parts as its examples wire them; and what the comparison says."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightly.models import utils

import medssl.methods
from medssl.encoders import ResNet
from medssl.encoders.tokens import to_patches
from medssl.methods.check import synthetic_batch
from medssl.preprocessing.data_spec import DataSpec
from tests.benchmarks.beside_lightly import Pupil, Setting, compared, pair, row
from tests.benchmarks.lightly_methods import RIVALS

SIZE = (32, 32)


def both(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Our method and lightly's with the same weights, and a batch with its views; batch norms as in evaluation."""
    torch.manual_seed(0)
    ours: Any = getattr(medssl.methods, name)(ResNet(2, 1, 10, 8, max_pool=False, norm="instance"))
    theirs: Any = RIVALS[name](copy.deepcopy(ours.encoder), ours, SIZE)
    for part in ("head", "predictor"):
        if hasattr(ours, part) and name != "DINO":
            getattr(theirs, part).load_state_dict(getattr(ours, part).state_dict())
    if hasattr(ours, "teacher") and name != "DINO":
        theirs.teacher_head.load_state_dict(ours.head.state_dict())
    ours.set_up_views(DataSpec(2, modality="MR"), SIZE)
    batch = ours.make_views(synthetic_batch(ours.encoder, ours.source_size(SIZE)))
    return ours.eval(), theirs.eval(), batch


@pytest.mark.parametrize("name", ["SimCLR", "SimSiam", "BYOL", "BarlowTwins", "VICReg"])
def test_a_loss_is_that_of_lightlys_wiring(name: str) -> None:
    ours, theirs, batch = both(name)
    expected = theirs.loss(batch)
    if name == "BYOL":  # ours is the paper's squared distance, lightly's the mean cosine of the two directions
        expected = 4 + 4 * expected
    torch.testing.assert_close(ours.loss(batch), expected, atol=1e-5, rtol=1e-5)


def test_moco_is_that_of_lightlys_wiring() -> None:
    ours, theirs, batch = both("MoCo")
    bank = theirs.criterion.memory_bank
    bank(torch.zeros(1, ours.projection))  # lightly draws its bank at the first call
    bank.bank = ours.keys.entries.clone()
    torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), atol=1e-5, rtol=1e-5)


def of_the_old_form(head: Any) -> dict[str, torch.Tensor]:
    """The weights of our head of prototypes under the names that lightly's has."""
    last = head.last_layer.parametrizations.weight
    others = {k: v for k, v in head.state_dict().items() if "last_layer" not in k}
    return others | {"last_layer.weight_g": last.original0, "last_layer.weight_v": last.original1}


def test_dino_is_that_of_lightlys_wiring_at_every_temperature_of_the_schedule() -> None:
    ours, theirs, batch = both("DINO")
    weights = of_the_old_form(ours.head)
    theirs.head.load_state_dict(weights)
    theirs.teacher_head.load_state_dict(weights)
    for step in (0, 7, 50):
        ours.progress.step = theirs.progress.step = step
        ours.progress.total_steps = theirs.progress.total_steps = 100
        torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.dino.center, theirs.criterion.center, atol=1e-6, rtol=1e-5)


def test_dino_trains_as_lightlys_does_where_no_batch_norm_sees_several_views() -> None:
    ours, theirs, batch = both("DINO")
    weights = of_the_old_form(ours.head)
    theirs.head.load_state_dict(weights)
    theirs.teacher_head.load_state_dict(weights)
    for method in (ours, theirs):
        method.double()  # AdamW makes whole steps of gradients that are rounding errors
    batch["views"] = [view.double() for view in batch["views"]]
    train = replace(
        Setting().train, steps=5, warmup=1, weight_decay=0.0
    )  # decay knows the new form of weight norm alone
    pupils, begun = [Pupil(ours, train), Pupil(theirs, train)], ours.final_encoder.net.conv1.weight.clone()
    for _ in range(train.steps):
        for pupil in pupils:
            pupil.step(batch)
    assert (ours.final_encoder.net.conv1.weight - begun).abs().max() > 1e-6
    for mine, other in ((ours.final_encoder, theirs.final_encoder), (ours.encoder, theirs.backbone)):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), atol=1e-7, rtol=1e-5)


class EachViewByItself(medssl.methods.SimSiam):
    """SimSiam whose batch norms see one view at a time, as lightly's do."""

    def project(self, *views: torch.Tensor) -> torch.Tensor:
        return torch.cat([super(EachViewByItself, self).project(view) for view in views])


@pytest.mark.parametrize(("kind", "same"), [(EachViewByItself, True), (medssl.methods.SimSiam, False)])
def test_simsiam_trains_as_lightlys_does_but_for_what_its_batch_norms_see(kind: type[Any], same: bool) -> None:
    torch.manual_seed(0)
    ours = kind(ResNet(2, 1, 10, 8, max_pool=False))
    theirs: Any = RIVALS["SimSiam"](copy.deepcopy(ours.encoder), ours, SIZE)
    for part in ("head", "predictor"):
        getattr(theirs, part).load_state_dict(getattr(ours, part).state_dict())
    ours.set_up_views(DataSpec(2, modality="MR"), SIZE)
    batch = ours.make_views(synthetic_batch(ours.encoder, ours.source_size(SIZE)))
    batch["views"] = [view.double() for view in batch["views"]]
    pupils = [Pupil(method.double(), replace(Setting().train, steps=5, warmup=1)) for method in (ours, theirs)]
    for _ in range(5):
        for pupil in pupils:
            pupil.step(batch)
    apart = max((a - b).abs().max() for a, b in zip(ours.encoder.parameters(), theirs.backbone.parameters()))
    assert (apart < 1e-9) if same else (apart > 1e-3)


def patches(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Our method and lightly's on one small ViT, and a batch with its views."""
    setting = Setting()
    ours, theirs = pair(name, setting, seed=0)
    ours.set_up_views(DataSpec(2, modality="MR"), setting.size)
    return ours, theirs, ours.make_views(synthetic_batch(ours.encoder, ours.source_size(setting.size)))


def test_ibot_is_that_of_lightlys_wiring_for_the_same_masks(monkeypatch) -> None:
    ours, theirs, batch = patches("IBOT")
    weights = of_the_old_form(ours.head)
    theirs.head.load_state_dict(weights)
    theirs.teacher_head.load_state_dict(weights)
    mask = to_patches(ours.mask_of(batch), ours.patch).mean(2).reshape(-1, *ours.encoder.grid(SIZE)) > 0
    monkeypatch.setattr(utils, "random_block_mask", lambda size: mask)
    for _ in range(2):  # the second time with centres that have moved
        torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), atol=1e-5, rtol=1e-5)


def test_aim_is_that_of_lightlys_wiring_for_the_same_prefixes(monkeypatch) -> None:
    ours, theirs, batch = patches("AIM")
    theirs.head.load_state_dict(ours.head.state_dict())
    after = torch.arange(64) >= ours.prefix_of(batch)[:, None]
    monkeypatch.setattr(utils, "random_prefix_mask", lambda size, max_prefix_length: after)
    torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["MAE", "SimMIM"])
def test_lightlys_restoring_methods_learn_the_batch_that_they_are_shown(name: str) -> None:
    _, theirs, batch = patches(name)
    pupil, losses = Pupil(theirs, Setting().train), []
    for _ in range(12):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same masks each time
            losses.append(float(theirs.loss(batch)))
        pupil.step(batch)
    assert losses[-1] < losses[0]


def test_the_comparison_tells_a_difference_beyond_the_spread_of_the_seeds() -> None:
    def scored(ours: float, lightly: float) -> dict[str, Any]:
        return {code: {"knn": value} for code, value in (("ours", ours), ("lightly", lightly), ("untrained", 0.8))}

    noisy = compared([scored(0.90, 0.91), scored(0.93, 0.90), scored(0.92, 0.93)], "knn")
    assert abs(noisy["difference"]) < noisy["half"]
    assert "| yes | 3 and 3 of 3 |" in row("A", "knn", noisy, 3)
    apart = compared([scored(0.90, 0.95), scored(0.90, 0.94), scored(0.79, 0.84)], "knn")
    deviation = np.std([-0.05, -0.04, -0.05], ddof=1)
    assert apart["half"] == pytest.approx(4.302653 * deviation / np.sqrt(3))
    assert "| no | 2 and 3 of 3 |" in row("A", "knn", apart, 3)
