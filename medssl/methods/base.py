"""What every pretraining method is: an encoder, the views that it compares or restores, and a loss on them.

    class Mine(Method):
        def views(self, data_spec, size):
            return (recipes.masked(data_spec, size),)

        def loss(self, batch):
            return self.encoder(batch["views"][0]).square().mean()

    medssl pretrain --method mypackage.Mine --data CACHE

The loader yields `source (B, C, *source)`, `valid (B, 1, *source)` (body, not air), `scan`, `patient`, `spacing_mm`, the
source's `start` in the scan and the scan's `extent` (B, dims, voxels), and one `key` a sample; `make_views` turns them
into `views`, a list of (B, C, *crop), and `valid_views` on the device the batch is on, and for a method that asks for
coordinates `coordinate_views`: where in its scan each voxel of a view lies. Labels never enter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded
from medssl.encoders.base import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.sample_fields import SampleField, resolve
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys
from medssl.views.reflect import reflect_padding


@dataclass
class TrainingProgress:
    """How far the training of a method is; `training/module.py` keeps it up to date.

    Attributes:
        step: Optimiser steps done.
        total_steps: Optimiser steps of the whole run.
        batches_per_step: How many batches' gradients are accumulated.
    """

    step: int = 0
    total_steps: int = 1000
    batches_per_step: int = 1


class Method(Recorded, nn.Module, ABC):
    """A pretraining method: `views` and `loss`, and where the paper needs them the other methods below.

    Args:
        encoder: What is pretrained.

    Attributes:
        decoder: Trained with the encoder, for segmentation to start from; None where there is none.
        min_batch_size: The smallest batch that the loss is defined for.
        sample_fields: What a sample must hold besides the scan, by name; see `preprocessing/sample_fields.py`.
        partner_views: The numbers of the views that are cut from the partner instead of the scan.
        hides_padding: Whether what lies beyond a scan's edge is its mirror image instead of air, since padding gives away
            where in the scan something lies.
        stop_gradient: What no gradient of the loss reaches, for the record; an attribute's name where it is a module.
        experimental: Whether the method was not shown to learn: in our set-ups its encoder was not ahead of an untrained one
            in each of three seeds. `--help` says so, and the class's docstring has the numbers.
        progress: How far the training is.
    """

    decoder: nn.Module | None
    min_batch_size: int = 1
    sample_fields: tuple[str | SampleField, ...] = ()
    partner_views: tuple[int, ...] = ()
    hides_padding: bool = False
    stop_gradient: tuple[str, ...] = ()
    experimental: bool = False

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = None
        self._views: nn.ModuleList = nn.ModuleList()
        self.progress = TrainingProgress()

    @abstractmethod
    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        """The views of a scan that the loss needs, each giving (B, C, *size).

        Args:
            data_spec: What the scans have in common.
            size: Voxels of the crop along each axis.
        """

    @abstractmethod
    def loss(self, batch: dict[str, Any]) -> Tensor:
        """A scalar from `batch["views"]`, a list of (B, C, *size)."""

    @property
    def final_encoder(self) -> Encoder:
        """The encoder that the run saves and monitors: the teacher's, where the paper uses the teacher afterwards."""
        return self.encoder

    def before_step(self) -> None:
        """Called once an optimiser step, when the gradients are complete and before they are clipped and applied."""

    def after_step(self) -> None:
        """Called once an optimiser step, after the weights have changed: moves a teacher, for example."""

    def monitored_values(self) -> dict[str, float]:
        """Current values other than the loss that deserve a curve in `metrics.csv`, such as a momentum."""
        return {}

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor] | None:
        """For a method that restores: the images "source", "corrupted" and "restored", each (B, C, *size)."""
        return None

    @classmethod
    def examples(cls) -> tuple[dict[str, Any], ...]:
        """Settings to try the contract with; a class that has arguments without defaults overrides it."""
        return ({},)

    def source_size(self, crop: Sequence[int]) -> tuple[int, ...]:
        """The size of the source that the views cut the crop from."""
        return tuple(round(1.5 * n) for n in crop)

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        """Raise MedsslError before the first step where this method cannot work with such a crop or batch.

        Args:
            crop: Voxels of the crop along each axis.
            batch_size: Samples in a batch of one device.
        """
        self.encoder.check_size(crop)
        if batch_size < self.min_batch_size:
            raise MedsslError(
                f"--batch-size {batch_size} is too small for {type(self).__name__}: expected {self.min_batch_size} or more, "
                f"its loss or its head compares the samples of a batch"
            )

    def set_up_views(self, data_spec: DataSpec, size: Sequence[int]) -> None:
        """Fix what `make_views` applies; `pretrain` calls it once.

        Args:
            data_spec: What the scans have in common.
            size: Voxels of the crop along each axis.
        """
        views = self.views(data_spec, tuple(size))
        for view in views:
            recipes.check_modality(view, data_spec)
        self._views = nn.ModuleList(views)

    @torch.no_grad()
    def make_views(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add `views` and `valid_views` to a batch, where it lies, from its `source` and keys."""
        views = [view for view in self._views if isinstance(view, View)]
        params = [view.draw(derive_keys(batch["key"], i)) for i, view in enumerate(views)]
        for field in resolve(self.sample_fields):
            batch |= field.on_device(batch)
        if self.hides_padding:
            batch["source"] = reflect_padding(batch["source"], batch["start"], batch["extent"])
        partner = ("partner", "partner_valid")
        sources = [
            [batch[name] for name in (partner if i in self.partner_views else ("source", "valid"))]
            for i in range(len(views))
        ]
        dtype = next(self.parameters()).dtype  # float32, unless the method was converted, as by `double()`
        made = [view.with_mask(x.float(), body.float(), p) for view, p, (x, body) in zip(views, params, sources)]
        batch["views"], batch["valid_views"] = [image.to(dtype) for image, _ in made], [body for _, body in made]
        if "coordinates" in batch:
            places = [view.mask(batch["coordinates"].float(), p) for view, p in zip(views, params)]
            batch["coordinate_views"] = [place.to(dtype) for place in places]
        return batch
