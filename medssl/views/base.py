"""A view: one change to a batch of scans, drawn apart from being applied, where the batch lies.

One int64 key a sample says everything: `params = view.draw(keys)`, then `view(x, params)`. The same key gives the same
view whatever the batch split, worker count or device order, and a mask gets the same move as its image.

    view = Compose([Gamma(), Noise()])
    params = view.draw(make_keys(seed=0, parts=(torch.arange(8),)))
    y = view(x, params)                                    # (B, C, *S) -> (B, C, *crop)

    json.dumps(to_plain(take(params, slice(3, 4))))        # the very view that sample 3 got; `from_plain` brings it back

A view of your own is one subclass with `parameters_of` and `apply_to`, in any file; `check_view` proves it.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError

Params = dict[str, Any]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def mix(keys: Tensor, salt: Tensor | int) -> Tensor:
    """New int64 keys from old ones and a number (splitmix64; Steele et al., OOPSLA 2014)."""
    z = keys + (salt + 1) * torch.tensor(_GOLDEN, device=keys.device)
    for shift, kept, factor in ((30, 0x3FFFFFFFF, _MIX_1), (27, 0x1FFFFFFFFF, _MIX_2), (31, 0x1FFFFFFFF, 1)):
        z.bitwise_xor_((z >> shift).bitwise_and_(kept)).mul_(factor)
    return z


def make_keys(seed: int, parts: Sequence[Tensor | int]) -> Tensor:
    """(B,) keys from a seed and what tells the samples apart (step, scan, view), each (B,) or a number."""
    device = next((p.device for p in parts if isinstance(p, Tensor)), None)
    keys = torch.tensor([seed], dtype=torch.int64, device=device)
    for part in parts:
        keys = mix(keys, part)
    return mix(keys, 0)


def uniform(keys: Tensor, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(B, count) float32 in [low, high), a function of the keys alone."""
    numbers = torch.arange(1, count + 1, device=keys.device)
    bits = (mix(keys[:, None], numbers) >> 40) & 0xFFFFFF  # the top 24 bits: what a float32 holds
    return low + (high - low) * bits.float() / 2**24


def normal_like(x: Tensor, keys: Tensor) -> Tensor:
    """Standard normal noise of x's shape, sample b from keys[b] alone, the same on every device.

    Counter-based: each int64 of splitmix64 gives four uniform numbers of 16 bits, and these four normal ones (Box and
    Muller 1958), which end at 4.9 standard deviations. No generator, no loop, nothing that waits for a GPU.
    """
    noise = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    count, flat = noise[0].numel(), noise.flatten(1)
    bits = mix(keys[:, None], torch.arange(1, -(-count // 4) + 1, device=x.device)).view(
        torch.int16
    )  # (B, count or more)
    numbers, half = bits.float().add_(32768.5).div_(65536), -(-count // 2)
    radius, angle = numbers[:, :half].log_().mul_(-2).sqrt_(), numbers[:, half : 2 * half].mul_(2 * math.pi)
    torch.mul(radius, angle.cos(), out=flat[:, :half])
    torch.mul(radius[:, : count - half], angle[:, : count - half].sin_(), out=flat[:, half:])
    return noise.to(x.dtype)


def rows(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to meet x (B, C, *S)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def take(params: Params, index: Tensor | slice) -> Params:
    """The parameters of some samples of a batch: `take(params, slice(3, 4))` is what sample 3 got."""
    return {name: take(v, index) if isinstance(v, dict) else v[index] for name, v in params.items()}


def to_plain(params: Params) -> dict[str, Any]:
    """Parameters as lists and dicts of numbers, for JSON or YAML; every bit comes back with `from_plain`."""
    return {name: to_plain(v) if isinstance(v, dict) else v.tolist() for name, v in params.items()}


def from_plain(plain: dict[str, Any], device: torch.device | str = "cpu") -> Params:
    """What `to_plain` wrote, as tensors again: whole numbers int64, others float32, and bool."""
    return {
        name: from_plain(v, device) if isinstance(v, dict) else torch.tensor(v, device=device)
        for name, v in plain.items()
    }


class View(nn.Module, ABC):
    """Base of all views; subclasses say what they draw and how they apply it, for any number of axes.

    probability: the chance that a sample gets the view at all.
    dims: the numbers of axes it works for. channels: the one number of channels, None for any.
    differentiable: whether a gradient reaches the input.

    A subclass writes `parameters_of` (tensors of B rows: bool, int64 or float32) and `apply_to`, which gets float32 and
    must leave its input as it is; one that moves voxels writes `move_mask` too.
    """

    probability: float = 1.0
    dims: tuple[int, ...] = (2, 3)
    channels: int | None = None
    differentiable: bool = True

    def draw(self, keys: Tensor) -> Params:
        """Parameters for a batch, from one int64 key a sample, (B,); every tensor in them has B rows."""
        if keys.ndim != 1 or keys.dtype != torch.int64 or not len(keys):
            raise MedsslError(
                f"keys of shape {tuple(keys.shape)}, {keys.dtype}: expected one int64 key a sample; see make_keys"
            )
        if not 0 <= self.probability <= 1:
            raise MedsslError(f"probability {self.probability} of {type(self).__name__}: expected a number from 0 to 1")
        params = self.parameters_of(keys)
        if self.probability < 1:
            params["on"] = uniform(mix(keys, 977), 1)[:, 0] < self.probability
        return params

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, *S) -> (B, C, *crop), in the dtype of x."""
        self.refuse(x, params)
        return torch.cat([self.change(some.float(), p).to(x.dtype) for some, p in portions(x, params)])

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        """The same move for a mask (B, C, *S) of any dtype; only moves in space change it, and no new value appears."""
        return torch.cat([_where_on(self.move_mask, some, p) for some, p in portions(mask, params)])

    def both(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Image and mask at once, equal to one after the other, and quicker where both are resampled."""
        self.refuse(x, params)
        masks = mask.split(_step(x))
        made = [self.change_both(some.float(), m, p) for (some, p), m in zip(portions(x, params), masks)]
        images, moved = zip(*made)
        return torch.cat(images).to(x.dtype), torch.cat(moved)

    def change(self, x: Tensor, params: Params) -> Tensor:
        """`forward` for float32 that was looked at already: only the samples that are on are changed."""
        return _where_on(self.apply_to, x, params)

    def change_both(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        return self.change(x, params), self.mask(mask, params)

    def refuse(self, x: Tensor, params: Params) -> None:
        """Raise MedsslError for a batch that no view can take. Whether all is finite is looked at on the CPU only: a GPU
        would have to wait for the answer, and there the loss is looked at."""
        name, shape = type(self).__name__, tuple(x.shape)
        if not x.is_floating_point():
            raise MedsslError(f"{name} got a batch of {x.dtype}: expected floating point numbers; pass x.float()")
        if x.ndim - 2 not in self.dims:
            wanted = " or ".join("(B, C, H, W)" if n == 2 else "(B, C, X, Y, Z)" for n in self.dims)
            raise MedsslError(f"{name} got a batch of shape {shape}: expected {wanted}")
        if self.channels not in (None, x.shape[1]):
            raise MedsslError(f"{name} got {x.shape[1]} channels: expected {self.channels}; leave it out for others")
        if not x.numel():
            raise MedsslError(f"{name} got an empty batch of shape {shape}: expected one sample or more")
        if (drawn := _length(params)) not in (None, len(x)):
            raise MedsslError(
                f"{name} got {len(x)} samples and parameters of {drawn}: draw them from one key for each sample"
            )
        if x.device.type == "cpu" and not math.isfinite(x.detach().sum(dtype=torch.float32)):
            bad = (~x.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
            raise MedsslError(
                f"{name} got NaN or infinite values in samples {bad} of the batch: expected finite numbers; "
                f"leave those scans out, or look for a division by zero before this view"
            )

    @classmethod
    def example(cls, dims: int) -> View:
        """One with its defaults for 2 or 3 axes, for checks and sheets; overridden where something must be given."""
        return cls()

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        return mask

    @abstractmethod
    def parameters_of(self, keys: Tensor) -> Params: ...

    @abstractmethod
    def apply_to(self, x: Tensor, params: Params) -> Tensor: ...


class Compose(View):
    """Views one after the other, each with keys of its own."""

    def __init__(self, views: Sequence[View]):
        super().__init__()
        self.views = nn.ModuleList(views)
        self.differentiable = all(view.differentiable for view in views)
        self.channels = next((view.channels for view in views if view.channels), None)

    def parameters_of(self, keys: Tensor) -> Params:
        return {str(i): view.draw(mix(keys, i)) for i, view in enumerate(self._each())}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self._each()):
            x = view.change(x, params[str(i)])
        return x

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self._each()):
            mask = view.mask(mask, params[str(i)])
        return mask

    def change_both(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        for i, view in enumerate(self._each()):
            x, mask = view.change_both(x, mask, params[str(i)])
        return x, mask

    @classmethod
    def example(cls, dims: int) -> View:
        from medssl.views.intensity import Gamma, Noise

        return cls([Gamma(), Noise()])

    def _each(self) -> list[View]:
        return list(self.views)  # type: ignore[arg-type]


def portions(x: Tensor, params: Params) -> Iterator[tuple[Tensor, Params]]:
    """A batch as few samples at a time with their parameters: on a CPU a pipeline is quickest on what its cache holds."""
    step = _step(x)
    for at in range(0, len(x), step):
        yield x[at : at + step], take(params, slice(at, at + step)) if step < len(x) else params


def _step(x: Tensor) -> int:
    """Samples at a time: all of them on a GPU; on a CPU a million numbers, but one sample a thread."""
    return len(x) if x.device.type != "cpu" else max(torch.get_num_threads(), 2**20 // x[0].numel())


def _where_on(change: Callable[[Tensor, Params], Tensor], x: Tensor, params: Params) -> Tensor:
    """`change` for the samples that are on: on a CPU only those are computed, a GPU computes all and need not wait."""
    on = params.get("on")
    if on is None:
        return change(x, params)
    if x.device.type != "cpu":
        return torch.where(rows(on, x), change(x, params), x)
    chosen = on.nonzero()[:, 0]
    if len(chosen) in (0, len(x)):
        return change(x, params) if len(chosen) else x
    return x.index_copy(0, chosen, change(x[chosen], take(params, chosen)))


def _length(params: Params) -> int | None:
    """How many samples the parameters are for; None where a view draws nothing."""
    lengths = (_length(v) if isinstance(v, dict) else len(v) for v in params.values())
    return next((n for n in lengths if n is not None), None)


def check_view(view: View, dims: int, size: Sequence[int] | None = None, channels: int = 1, batch: int = 3) -> None:
    """Raise AssertionError unless `view` keeps the contract in every point that can be tried from outside."""
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
    _check_kinds(view, x, params, whole)
    _check_mask(view, x, params, whole)
    _check_words(view, x, params)


def _check_replay(view: View, x: Tensor, keys: Tensor, params: Params, whole: Tensor) -> None:
    """A function of its parameters, of the keys, of each sample alone; parameters that can be written down."""
    assert torch.equal(whole, view(x, params)), f"{view} is not a function of its parameters"
    assert torch.equal(whole, view(x, view.draw(keys))), f"{view} draws other parameters from the same keys"
    written = json.loads(json.dumps(to_plain(params), allow_nan=False))
    assert torch.equal(whole, view(x, from_plain(written))), f"{view} is another one after its parameters were written"
    single = torch.cat([view(x[i : i + 1], view.draw(keys[i : i + 1])) for i in range(len(x))])
    assert torch.allclose(whole, single, atol=1e-5), f"{view} depends on who else is in the batch"
    replayed = view(x[-1:], take(params, slice(len(x) - 1, None)))
    assert torch.allclose(whole[-1:], replayed, atol=1e-5), f"{view} does not replay one sample"
    if "on" in params:
        off = view(x, {**params, "on": torch.zeros_like(params["on"])})
        assert torch.equal(off, x), f"{view} changes samples that are off"


def _check_kinds(view: View, x: Tensor, params: Params, whole: Tensor) -> None:
    """Constant, half-precision, strided and differentiated input."""
    for value in (0.0, 1.0):
        constant = view(torch.full_like(x, value), params)
        assert torch.isfinite(constant).all(), f"{view} is not finite on constant input"
    for dtype, share in ((torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)):
        narrow = x.to(dtype)
        found, expected = view(narrow, params), view(narrow.float(), params)
        assert found.dtype == dtype, f"{view} turns {dtype} into {found.dtype}"
        apart = (found.float() - expected).abs().max()
        assert apart <= share * expected.abs().max() + 1e-6, f"{view} is {apart} away in {dtype}"
    strided = x.transpose(1, -1).contiguous().transpose(1, -1)
    assert torch.allclose(view(strided, params), whole, atol=1e-5), f"{view} depends on the memory layout of its input"
    if view.differentiable:
        leaf = x.clone().requires_grad_()
        view(leaf, params).square().sum().backward()
        assert leaf.grad is not None, f"{view} lets no gradient through"
        assert torch.isfinite(leaf.grad).all(), f"{view} has a gradient that is not finite"


def _check_mask(view: View, x: Tensor, params: Params, whole: Tensor) -> None:
    """The size of the image, the labels and the dtype of the mask, and the same from `both`."""
    mask = (x[:, :1] * 3).floor()
    for kind in (mask, mask.long(), mask > 0):
        moved = view.mask(kind, params)
        assert moved.shape[2:] == whole.shape[2:], f"{view} moves image and mask to different sizes"
        assert moved.dtype == kind.dtype, f"{view} turns a mask of {kind.dtype} into {moved.dtype}"
        invented = set(moved.unique().tolist()) - set(kind.unique().tolist()) - {0}
        assert not invented, f"{view} invents mask labels"
    image, moved = view.both(x, mask, params)
    assert torch.allclose(image, whole, atol=1e-5), f"{view} moves the image otherwise when a mask is there"
    assert torch.equal(moved, view.mask(mask, params)), f"{view} moves the mask otherwise when the image is there"


def _check_words(view: View, x: Tensor, params: Params) -> None:
    """Input that means nothing is refused in words."""
    broken = x.clone()
    broken[-1, 0].view(-1)[5] = math.nan
    for what, wrong in {
        "whole numbers": x.long(),
        "NaN": broken,
        "an empty batch": x[:0],
        "wrong axes": x[0, 0],
    }.items():
        try:
            view(wrong, params)
        except MedsslError:
            continue
        raise AssertionError(f"{view} takes {what} without a word")
