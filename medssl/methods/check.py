"""Test a method of your own against the contract of `Method`.

check_method(Mine(ResNet(dims=2)), size=(32, 32))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.preprocessing.data_spec import DataSpec
from medssl.views.random import make_keys


def synthetic_batch(encoder: Encoder, size: Sequence[int], count: int = 4) -> dict[str, Any]:
    """A batch such as the loader gives, of smooth noise, for checks and estimates.

    Args:
        encoder: Whose number of channels the scans have.
        size: Voxels of the source along each axis.
        count: Samples in the batch.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, encoder.in_channels, *[max(2, n // 8) for n in size], generator=generator)
    source = nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear" if len(size) == 2 else "trilinear")
    numbers = torch.arange(count)
    return {
        "partner": source * 0.9,
        "partner_valid": torch.ones_like(source[:, :1], dtype=torch.bool),
        "source": source,
        "valid": torch.ones_like(source[:, :1], dtype=torch.bool),
        "scan": numbers,
        "patient": numbers,
        "report": [f"Nodule of {n} mm." for n in range(count)],
        "spacing_mm": torch.ones(count, len(size)),
        "key": make_keys(0, (numbers,)),
        "start": torch.zeros(count, len(size), dtype=torch.int64),
        "extent": torch.tensor([list(size)] * count),
    }


def check_method(method: Method, size: Sequence[int], batch_size: int = 4) -> None:
    """Check that the views and the loss depend on the keys alone, and that the loss trains the encoder.

    Args:
        method: The method to check; its views are set up anew.
        size: Voxels of the crop along each axis.
        batch_size: Samples in the batch.

    Raises:
        MedsslError: The method does not work with such a crop or batch.
        AssertionError: The method breaks the contract.
    """
    method.check(size, batch_size)
    method.set_up_views(DataSpec(len(size), method.encoder.in_channels, "MR"), size)
    batch = synthetic_batch(method.encoder, method.source_size(size), batch_size)
    made = method.make_views(dict(batch))
    for i, view in enumerate(made["views"]):
        assert tuple(view.shape[:2]) == (batch_size, method.encoder.in_channels), f"a view is {tuple(view.shape)}"
        assert i or tuple(view.shape[2:]) == tuple(size), (
            f"the first view is {tuple(view.shape)}, the crop {tuple(size)}"
        )
        assert all(n <= limit for n, limit in zip(view.shape[2:], size)), (
            f"a view, {tuple(view.shape)}, exceeds the crop"
        )
        method.encoder.check_size(view.shape[2:])  # a local crop is smaller, of a size that the encoder takes
    again = method.make_views(dict(batch))
    assert all(torch.equal(a, b) for a, b in zip(made["views"], again["views"])), "the same keys gave other views"
    loss = method.loss(made)
    assert loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}"
    assert torch.isfinite(loss), f"the loss is {loss}"
    loss.backward()
    trained = [p for p in method.encoder.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained), "no gradient reaches the encoder"
    stopped = [getattr(method, name) for name in method.stop_gradient if hasattr(method, name)]
    assert all(p.grad is None for module in stopped for p in module.parameters()), "a gradient passes the stop-gradient"
    check_reconstruction(method, made)


def check_reconstruction(method: Method, batch: dict[str, Any]) -> None:
    """Raise AssertionError unless a restoring method shows pictures of the view's shape, damaged by the keys alone.

    Args:
        method: The method to check.
        batch: A batch that `make_views` has filled.
    """
    shown, again = method.reconstruct(batch), method.reconstruct(batch)
    if shown is None or again is None:
        return
    assert {"source", "corrupted", "restored"} <= set(shown), f"reconstruct gives {sorted(shown)}"
    shape = batch["views"][0].shape
    assert all(x.shape == shape for x in shown.values()), f"a reconstruction is not of the view's shape {tuple(shape)}"
    assert torch.equal(shown["corrupted"], again["corrupted"]), "the damage is not a function of the keys"
