"""Tests that any view can be put through, your own included.

check_view(MyView(), dims=3)                           # returns, or raises an AssertionError that says what is wrong
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Compose, Params, View, from_plain, take, to_plain
from medssl.views.intensity import Gamma, Noise
from medssl.views.random import make_keys


def examples_of(view_class: type[View], dims: int) -> tuple[View, ...]:
    """Views of a class to try it with, for 2 or 3 spatial axes.

    Args:
        view_class: A class of views.
        dims: Number of spatial axes, 2 or 3.
    """
    return (Compose([Gamma(), Noise()]),) if view_class is Compose else view_class.examples(dims)


def check_view(view: View, dims: int, size: Sequence[int] | None = None, channels: int = 1, batch: int = 3) -> None:
    """Check that a view keeps the contract of `View`, in every point that can be tried from outside.

    Args:
        view: The view to check.
        dims: The number of spatial axes to try, 2 or 3.
        size: Voxels per axis of the batch that is tried; 24 each by default.
        channels: Its number of channels.
        batch: Its number of samples.

    Raises:
        AssertionError: The view breaks the contract; the message says in which point.
    """
    shape = tuple(size or (24,) * dims)
    x = torch.linspace(0, 1, batch * channels * math.prod(shape)).reshape(batch, channels, *shape)
    keys = make_keys(7, (torch.arange(batch),))
    params = view.draw(keys)
    before = x.clone()
    whole = view(x, params)
    assert torch.equal(x, before), f"{view} writes into its input"
    assert whole.shape[:2] == x.shape[:2], f"{view} turned {tuple(x.shape)} into {tuple(whole.shape)}"
    assert torch.isfinite(whole).all(), f"{view} gives values that are not finite"
    _check_replay(view, x, keys, params, whole)
    _check_input_kinds(view, x, params, whole)
    _check_mask(view, x, params, whole)
    _check_rejections(view, x, params)


def _check_replay(view: View, x: Tensor, keys: Tensor, params: Params, whole: Tensor) -> None:
    """The result depends on the parameters alone, those on the keys alone, each sample on its own; all can be recorded."""
    assert torch.equal(whole, view(x, params)), f"{view} is not a function of its parameters"
    assert torch.equal(whole, view(x, view.draw(keys))), f"{view} draws other parameters from the same keys"
    recorded = json.loads(json.dumps(to_plain(params), allow_nan=False))
    assert torch.equal(whole, view(x, from_plain(recorded))), f"{view} differs after its parameters were recorded"
    single = torch.cat([view(x[i : i + 1], view.draw(keys[i : i + 1])) for i in range(len(x))])
    assert torch.allclose(whole, single, atol=1e-5), f"{view} depends on the other samples of the batch"
    replayed = view(x[-1:], take(params, slice(len(x) - 1, None)))
    assert torch.allclose(whole[-1:], replayed, atol=1e-5), f"{view} does not replay one sample"
    if "on" in params:
        off = view(x, {**params, "on": torch.zeros_like(params["on"])})
        assert torch.equal(off, x), f"{view} changes samples that should not get it"


def _check_input_kinds(view: View, x: Tensor, params: Params, whole: Tensor) -> None:
    """Constant, half-precision, strided and differentiated input."""
    for value in (0.0, 1.0):
        constant = view(torch.full_like(x, value), params)
        assert torch.isfinite(constant).all(), f"{view} is not finite on constant input"
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)):
        narrow = x.to(dtype)
        result, expected = view(narrow, params), view(narrow.float(), params)
        assert result.dtype == dtype, f"{view} turns {dtype} into {result.dtype}"
        difference = (result.float() - expected).abs().max()
        assert difference <= tolerance * expected.abs().max() + 1e-6, f"{view} is {difference} away in {dtype}"
    strided = x.transpose(1, -1).contiguous().transpose(1, -1)
    assert torch.allclose(view(strided, params), whole, atol=1e-5), f"{view} depends on the memory layout of its input"
    if view.differentiable:
        leaf = x.clone().requires_grad_()
        view(leaf, params).square().sum().backward()
        assert leaf.grad is not None, f"{view} passes no gradient on"
        assert torch.isfinite(leaf.grad).all(), f"{view} has a gradient that is not finite"


def _check_mask(view: View, x: Tensor, params: Params, whole: Tensor) -> None:
    """The mask comes back in the size of the image, with its own labels and dtype, and the same from `with_mask`."""
    mask = (x[:, :1] * 3).floor()
    for kind in (mask, mask.long(), mask > 0):
        moved = view.mask(kind, params)
        assert moved.shape[2:] == whole.shape[2:], f"{view} moves image and mask to different sizes"
        assert moved.dtype == kind.dtype, f"{view} turns a mask of {kind.dtype} into {moved.dtype}"
        invented = set(moved.unique().tolist()) - set(kind.unique().tolist()) - {0}
        assert not invented, f"{view} invents mask labels"
    image, moved = view.with_mask(x, mask, params)
    assert torch.allclose(image, whole, atol=1e-5), f"{view} moves the image differently when a mask comes with it"
    assert torch.equal(moved, view.mask(mask, params)), f"{view} moves the mask differently when an image comes with it"


def _check_rejections(view: View, x: Tensor, params: Params) -> None:
    """Meaningless input raises MedsslError."""
    broken = x.clone()
    broken[-1, 0].view(-1)[5] = math.nan
    meaningless = {"whole numbers": x.long(), "NaN": broken, "an empty batch": x[:0], "wrong axes": x[0, 0]}
    for description, wrong in meaningless.items():
        try:
            view(wrong, params)
        except MedsslError:
            continue
        raise AssertionError(f"{view} accepts {description}: expected a MedsslError")
