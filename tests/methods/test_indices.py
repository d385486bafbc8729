"""Scan numbers stay whole, a scan is never its own negative, and no branch holds a collective call for one device alone."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders import ResNet, ViT
from medssl.methods import IBOT, MAE, MoCo, SimCLR, SimMIM
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
    assert method.bank.bank[:4, -1].tolist() == [257, 258, 1001, 70001]


@pytest.mark.parametrize("method", [lambda: SimCLR(resnet()), lambda: MoCo(resnet(), version="v3")])
def test_a_scan_is_not_its_own_negative(method):
    """Where the batch is larger than the cohort, its scans come twice: nothing is left to tell apart in this one."""
    torch.manual_seed(0)
    trained = method()
    assert trained.loss(two_view_batch([5, 5, 5])).item() == pytest.approx(0, abs=1e-6)
    assert trained.loss(two_view_batch([5, 6, 7])).item() > 0.1


def test_a_branch_with_a_collective_call_is_taken_by_all_devices_or_none(monkeypatch):
    """iBOT's centre is averaged over devices; a device without a counted patch left the others waiting."""
    method = IBOT(ViT(dims=2, patch=(8, 8), width=32, depth=1, heads=2), prototypes=16)
    batch = two_view_batch([0, 1]) | {"valid_views": [torch.ones(2, 1, 32, 32)] * 2}
    calls = []
    monkeypatch.setattr(method.ibot, "forward", lambda *_, **__: calls.append(1) or torch.tensor(0.0))
    method.loss(batch)
    assert len(calls) == 1
    monkeypatch.setattr(devices, "gather_all", lambda x: torch.cat([x, torch.zeros_like(x)]))
    method.loss(batch)
    assert len(calls) == 1


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
