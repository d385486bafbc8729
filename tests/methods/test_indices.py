"""Scan numbers stay whole, a scan is never its own negative, and no branch holds a collective call for one device alone."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders import ResNet, ViT
from medssl.methods import IBOT, MAE, MoCo, SimCLR, SimMIM
from medssl.methods.moco import Queue
from medssl.methods.shared import devices
from medssl.training.config import TrainConfig
from medssl.training.engine import Group, adamw


def two_view_batch(scans):
    views = [torch.randn(len(scans), 1, 32, 32) for _ in range(2)]
    return {"views": views, "scan": torch.tensor(scans), "key": torch.arange(len(scans))}


def resnet():
    return ResNet(dims=2, depth=10, width=4)


def test_scan_numbers_survive_bfloat16():
    """bfloat16 holds whole numbers up to 256: 257 and 258 were one scan, so 8 entries were barred in place of 1."""
    method = MoCo(resnet(), queue=8)
    with torch.autocast("cpu", torch.bfloat16):
        method.queue_loss(two_view_batch([257, 258, 1001, 70001]))
    assert method.keys.scans.tolist() == [257, 258, 1001, 70001, *[-1] * 4]
    method.to(torch.bfloat16)  # as --precision bf16-true does
    assert method.keys.scans.tolist()[:4] == [257, 258, 1001, 70001]


def test_the_queue_holds_the_newest_keys_where_batches_do_not_divide_it():
    queue = Queue(5, 3)
    for first in (0, 2, 4):
        queue.add(torch.full((2, 3), float(first)), torch.tensor([first, first + 1]))
    assert queue.scans.tolist() == [5, 1, 2, 3, 4]
    queue.add(torch.zeros(7, 3), torch.arange(10, 17))
    assert sorted(queue.scans.tolist()) == [12, 13, 14, 15, 16]


@pytest.mark.parametrize("method", [lambda: SimCLR(resnet()), lambda: MoCo(resnet(), version="v3")])
def test_a_scan_is_not_its_own_negative(method):
    """Where the batch is larger than the cohort, its scans come twice: nothing is left to tell apart in this one."""
    torch.manual_seed(0)
    trained = method()
    assert trained.loss(two_view_batch([5, 5, 5])).item() == pytest.approx(0, abs=1e-6)
    assert trained.loss(two_view_batch([5, 6, 7])).item() > 0.1


def test_ibot_gathers_alike_whether_it_counts_a_patch_or_none(monkeypatch):
    """Its centre is a mean over devices: one that counted none, and so did not gather, left the others waiting."""
    method = IBOT(ViT(dims=2, patch=(8, 8), width=32, depth=1, heads=2), prototypes=16)
    calls, gather_all = [], devices.gather_all
    monkeypatch.setattr(devices, "gather_all", lambda x: calls.append(tuple(x.shape)) or gather_all(x))
    made, centres = [], []
    for body in (torch.ones, torch.zeros):
        calls.clear()
        batch = two_view_batch([0, 1]) | {"valid_views": [body(2, 1, 32, 32)] * 2}
        assert torch.isfinite(method.loss(batch))
        made.append(list(calls))
        centres.append(method.ibot.center.value.clone())
    assert made[0] == made[1] != []
    assert torch.equal(centres[0], centres[1])  # with nothing to count it stays
    assert centres[0].abs().sum() > 0


@pytest.mark.parametrize(
    "method", [lambda: SimMIM(resnet()), lambda: MAE(ViT(dims=2, patch=(8, 8), width=32, depth=1, heads=2))]
)
def test_mask_tokens_are_not_decayed(method):
    trained = method()
    groups = adamw([Group(trained)], TrainConfig(steps=4))["optimizer"].param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(trained.mask_token)] == 0
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    weights = [m.weight for m in trained.modules() if isinstance(m, layers) and m.weight.requires_grad]
    assert weights
    assert all(decay[id(weight)] > 0 for weight in weights)
