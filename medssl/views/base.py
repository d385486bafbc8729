"""A view: one change to a batch of scans on its device. Drawing the parameters is separate from applying them.

One int64 key per sample decides everything: `params = view.draw(keys)`, then `view(x, params)`. The same key gives the same
view whatever the batch split, worker count or device order, and a mask gets the same move as its image.

    view = Compose([Gamma(), Noise()])
    params = view.draw(make_keys(seed=0, parts=(torch.arange(8),)))
    y = view(x, params)                                    # (B, C, *S) -> (B, C, *crop)

    json.dumps(to_plain(take(params, slice(3, 4))))        # the view that sample 3 got; `from_plain` reads it back

To write a view of your own, subclass `View` in any file and define `parameters_of` and `apply_to`;
`medssl.views.check_view` tests it against this contract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded
from medssl.views.random import derive_keys, uniform

Params = dict[str, Any]
Range = tuple[float, float]  # low, high


class View(Recorded, nn.Module, ABC):
    """Base class of all views: what is drawn, and how it is applied to 2D or 3D scans.

    A subclass defines `parameters_of` and `apply_to`, and `move_mask` as well if it moves voxels. One whose constructor
    has arguments without defaults also overrides `examples`.

    Attributes:
        probability: The chance that a sample gets the view at all.
        dims: The numbers of spatial axes that the view supports.
        channels: The only number of channels that it supports; None for any.
        differentiable: Whether a gradient reaches the input.

    Example:
        >>> class Scale(View):
        ...     def parameters_of(self, keys):
        ...         return {"factor": uniform(keys, 1, 0.9, 1.1)[:, 0]}
        ...
        ...     def apply_to(self, x, params):
        ...         return x * per_sample(params["factor"], x)
    """

    probability: float = 1.0
    dims: tuple[int, ...] = (2, 3)
    channels: int | None = None
    differentiable: bool = True
    must_be_recordable = False  # a view may wrap any function, such as a MONAI transform

    @abstractmethod
    def parameters_of(self, keys: Tensor) -> Params:
        """Parameters from the keys (B,): a dict of bool, int64 or float32 tensors with B rows each."""

    @abstractmethod
    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        """The changed batch.

        Args:
            x: (B, C, *S) float32, which must not be written to.
            params: What `parameters_of` returned for these samples.
        """

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        """The mask (B, C, *S), moved as the image is; unchanged unless the view moves voxels.

        Args:
            mask: (B, C, *S), of any dtype.
            params: What `parameters_of` returned for these samples.
        """
        return mask

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        """Views of this class for `dims` spatial axes, with all settings that matter, for the tests of the contract."""
        return (cls(),)

    def draw(self, keys: Tensor) -> Params:
        """Parameters for a batch.

        Args:
            keys: (B,) int64, one key per sample, see `medssl.views.make_keys`.

        Returns:
            A dict of tensors with B rows each; "on" (bool) says which samples get the view, if not all do.
        """
        if keys.ndim != 1 or keys.dtype != torch.int64 or not len(keys):
            raise MedsslError(
                f"keys of shape {tuple(keys.shape)}, {keys.dtype}: expected one int64 key per sample; see make_keys"
            )
        if not 0 <= self.probability <= 1:
            raise MedsslError(f"probability {self.probability} of {type(self).__name__}: expected a number from 0 to 1")
        params = self.parameters_of(keys)
        if self.probability < 1:
            params["on"] = uniform(derive_keys(keys, 977), 1)[:, 0] < self.probability
        return params

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, *S) -> (B, C, *crop), in the dtype of x.

        Args:
            x: (B, C, *S), floating point.
            params: What `draw` returned for these samples.

        Raises:
            MedsslError: The batch has the wrong shape, dtype, number of channels, or values that are not finite.
        """
        self.check_input(x, params)
        return torch.cat([self.change(part.float(), own).to(x.dtype) for part, own in sample_chunks(x, params)])

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        """The same move for a mask; only moves in space change it, and no new value appears.

        Args:
            mask: (B, C, *S), of any dtype.
            params: What `draw` returned for these samples.
        """
        return torch.cat([change_selected(self.move_mask, part, own) for part, own in sample_chunks(mask, params)])

    def with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Image and mask together; the results of `forward` and `mask`, but faster where both are resampled.

        Args:
            x: (B, C, *S), floating point.
            mask: (B, C, *S), of any dtype.
            params: What `draw` returned for these samples.
        """
        self.check_input(x, params)
        masks = mask.split(_chunk_length(x))
        changed = [
            self.change_with_mask(part.float(), own_mask, own)
            for (part, own), own_mask in zip(sample_chunks(x, params), masks)
        ]
        images, moved = zip(*changed)
        return torch.cat(images).to(x.dtype), torch.cat(moved)

    def change(self, x: Tensor, params: Params) -> Tensor:
        """`forward` for float32 that has been checked: changes only the samples that get the view.

        Args:
            x: (B, C, *S) float32.
            params: What `draw` returned for these samples.
        """
        return change_selected(self.apply_to, x, params)

    def change_with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """`with_mask` for float32 that has been checked.

        Args:
            x: (B, C, *S) float32.
            mask: (B, C, *S), of any dtype.
            params: What `draw` returned for these samples.
        """
        return self.change(x, params), self.mask(mask, params)

    def check_input(self, x: Tensor, params: Params) -> None:
        """Raise MedsslError for a batch that the view cannot take.

        Values are checked on the CPU only: a GPU would have to wait for the answer, and there the loss is checked.

        Args:
            x: The batch that came in.
            params: The parameters that came with it.
        """
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


class Compose(View):
    """Views one after the other, each with keys of its own.

    Example:
        >>> from medssl.views.intensity import Gamma, Noise
        >>> view = Compose([Gamma(), Noise()])
    """

    def __init__(self, views: Sequence[View]):
        super().__init__()
        self.views = nn.ModuleList(views)
        self.differentiable = all(view.differentiable for view in views)
        self.channels = next((view.channels for view in views if view.channels), None)

    def parameters_of(self, keys: Tensor) -> Params:
        return {str(i): view.draw(derive_keys(keys, i)) for i, view in enumerate(self.parts())}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self.parts()):
            x = view.change(x, params[str(i)])
        return x

    def mask(self, mask: Tensor, params: Params) -> Tensor:
        for i, view in enumerate(self.parts()):
            mask = view.mask(mask, params[str(i)])
        return mask

    def change_with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        for i, view in enumerate(self.parts()):
            x, mask = view.change_with_mask(x, mask, params[str(i)])
        return x, mask

    def parts(self) -> list[View]:
        """The views, in order."""
        return list(self.views)  # type: ignore[arg-type]


def leaves(view: View, params: Params) -> Iterator[tuple[View, Params]]:
    """The single views inside of any nesting of `Compose`, in order, with the parameters of each.

    Args:
        view: A view, `Compose` or not.
        params: What it drew.
    """
    if not isinstance(view, Compose):
        yield view, params
        return
    for i, part in enumerate(view.parts()):
        yield from leaves(part, params[str(i)])


def moves_voxels(view: View) -> bool:
    """Whether a single view moves voxels, and so a mask with them."""
    return type(view).move_mask is not View.move_mask or type(view).mask is not View.mask


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One value per sample in a shape (B, 1, ..., 1) that broadcasts over x.

    Args:
        values: (B,).
        x: (B, C, *S).
    """
    return values.reshape(-1, *[1] * (x.ndim - 1))


def broadcast_along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Values along one spatial axis, in a shape that broadcasts over x.

    Args:
        values: (n,), or one row per sample (B, n).
        x: (B, C, *S), with n voxels along `axis`.
        axis: Spatial axis, counted from 0.
    """
    shape = [1] * x.ndim
    shape[0], shape[axis + 2] = (len(values) if values.ndim == 2 else 1), values.shape[-1]
    return values.reshape(shape)


def check_range(name: str, value: float | Sequence[float], minimum: float = 0.0, maximum: float = math.inf) -> None:
    """Raise MedsslError for a number, or a pair, that is not between the limits and in order.

    Args:
        name: What it is called in the message.
        value: A number, or a pair (low, high).
        minimum: The lowest value that is accepted.
        maximum: The highest value that is accepted.
    """
    low, high = (value, value) if isinstance(value, int | float) else tuple(value)
    if not minimum <= low <= high <= maximum:
        kind = "a number" if isinstance(value, int | float) else "low <= high, both"
        raise MedsslError(f"{name} is {value}: expected {kind} from {minimum:g} to {maximum:g}")


def check_axes(axes: Sequence[int], x: Tensor) -> Sequence[int]:
    """The axes as they are; raises MedsslError where the batch does not have them.

    Args:
        axes: Spatial axes, counted from 0.
        x: (B, C, *S).
    """
    dims = x.ndim - 2
    if not all(0 <= axis < dims for axis in axes):
        raise MedsslError(
            f"axes {tuple(axes)} came with an image of {dims} axes: expected numbers from 0 to {dims - 1}"
        )
    return axes


def take(params: Params, index: Tensor | slice) -> Params:
    """The parameters of some samples of a batch: `take(params, slice(3, 4))` is what sample 3 got.

    Args:
        params: Parameters of a batch.
        index: Numbers of the samples, (K,) int64, or a slice.
    """
    return {name: take(v, index) if isinstance(v, dict) else v[index] for name, v in params.items()}


def to_plain(params: Params) -> dict[str, Any]:
    """Parameters as nested lists of numbers, for JSON or YAML; `from_plain` restores every bit."""
    return {name: to_plain(v) if isinstance(v, dict) else v.tolist() for name, v in params.items()}


def from_plain(plain: dict[str, Any], device: torch.device | str = "cpu") -> Params:
    """What `to_plain` returned, as tensors again: whole numbers int64, others float32, and bool.

    Args:
        plain: Nested lists of numbers.
        device: Where the tensors are made.
    """
    return {
        name: from_plain(v, device) if isinstance(v, dict) else torch.tensor(v, device=device)
        for name, v in plain.items()
    }


def sample_chunks(x: Tensor, params: Params) -> Iterator[tuple[Tensor, Params]]:
    """A batch in chunks of a few samples, with their parameters: a CPU is fastest on what its cache holds.

    Args:
        x: (B, C, *S).
        params: Parameters of the B samples.
    """
    step = _chunk_length(x)
    for at in range(0, len(x), step):
        yield x[at : at + step], take(params, slice(at, at + step)) if step < len(x) else params


def change_selected(change: Callable[[Tensor, Params], Tensor], x: Tensor, params: Params) -> Tensor:
    """`change` for the samples that get the view: a CPU computes only those, a GPU computes all and need not wait.

    Args:
        change: What changes a batch (B, C, *S) by its parameters.
        x: (B, C, *S).
        params: Parameters of the B samples; "on" says which get the view.
    """
    on = params.get("on")
    if on is None:
        return change(x, params)
    if x.device.type != "cpu":
        return torch.where(per_sample(on, x), change(x, params), x)
    chosen = on.nonzero()[:, 0]
    if len(chosen) in (0, len(x)):
        return change(x, params) if len(chosen) else x
    return x.index_copy(0, chosen, change(x[chosen], take(params, chosen)))


def _chunk_length(x: Tensor) -> int:
    """Samples per chunk: all of them on a GPU; on a CPU about a million numbers, but at least one sample per thread."""
    return len(x) if x.device.type != "cpu" else max(torch.get_num_threads(), 2**20 // x[0].numel())


def _length(params: Params) -> int | None:
    """How many samples the parameters are for; None for a view that draws nothing."""
    lengths = (_length(v) if isinstance(v, dict) else len(v) for v in params.values())
    return next((n for n in lengths if n is not None), None)
