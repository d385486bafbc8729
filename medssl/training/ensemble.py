"""Several models and several views of a scan as one model, whose probabilities are the mean of theirs.

    model = Ensemble([first, second], [mirror(2), *SCALES])
    model(x).softmax(1)                       # (B, classes, *S): the mean over 2 models x 4 views

Each view is a change of the input and the change that takes a map of probabilities back. Every view of every model is one
pass more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.views.recipes import mirrored_axes

PredictionView = Literal["mirrored", "scaled"]


@dataclass(frozen=True)
class TestView:
    """One view.

    Attributes:
        change: (B, C, *S) -> (B, C, *S).
        back: A map (B, classes, *S) of the changed scan -> of the scan.
    """

    change: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


class Ensemble(nn.Module):
    """The mean of the probabilities of models, over views of their input.

    Args:
        models: Models of one task, (B, C, *S) -> (B, classes) or (B, classes, *S) logits.
        views: Views beside the scan as it is.
    """

    def __init__(self, models: Sequence[nn.Module], views: Sequence[TestView] = ()):
        super().__init__()
        self.models, self.views = nn.ModuleList(models), list(views)

    @property
    def passes(self) -> int:
        """How often a scan passes a model."""
        return len(self.models) * (1 + len(self.views))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities, so that a softmax gives the mean itself."""
        total: Any = 0
        for model in self.models:
            total = total + model(x).float().softmax(1)
            for view in self.views:
                shares = model(view.change(x)).float().softmax(1)
                total = total + (view.back(shares) if shares.ndim == x.ndim else shares)
        return (total / self.passes).clamp(min=1e-12).log()


def prediction_views(names: Sequence[PredictionView], data_spec: DataSpec) -> list[TestView]:
    """The views by their names.

    Args:
        names: mirrored: along each axis where no side is lost. scaled: a tenth smaller, and a tenth larger.
        data_spec: The scans, which know whether they have a side.

    Raises:
        MedsslError: The scans have a side, so none is mirrored.
    """
    views: list[TestView] = []
    if "mirrored" in names:
        axes = mirrored_axes(data_spec)
        if not axes:
            raise MedsslError(
                f"mirrored views of {data_spec.dims}D {data_spec.modality} would exchange left and right: expected scans "
                "without a side; use scaled views"
            )
        views += [mirror(2 + axis) for axis in axes]
    if "scaled" in names:
        views += [scale(0.9), scale(1.1)]
    return views


def mirror(axis: int) -> TestView:
    """A view mirrored along an axis of (B, C, *S)."""
    return TestView(lambda x: x.flip(axis), lambda shares: shares.flip(axis))


def scale(factor: float) -> TestView:
    """A view resampled about its middle, so that what it shows is `factor` times as large; beyond the edge it is repeated."""
    return TestView(lambda x: _resized(x, factor), lambda shares: _resized(shares, 1 / factor))


def _resized(x: Tensor, factor: float) -> Tensor:
    dims = x.ndim - 2
    matrix = x.new_zeros(len(x), dims, dims + 1)
    for axis in range(dims):
        matrix[:, axis, axis] = 1 / factor
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
