"""What every pretext is: an encoder, the views it wants, and a loss on them.

    class Mine(Method):
        def views(self, data_spec, size):
            return (recipes.masked(data_spec, size),)

        def loss(self, batch):
            return self.encoder(batch["views"][0]).square().mean()

    medssl pretrain --method mypackage.Mine --data CACHE

The loader yields `source (B, C, *source)`, `valid (B, 1, *source)` (body, not air), `scan`, `patient`, `spacing_mm`, the
source's `start` in the scan and the scan's `extent` (B, dims, voxels), and one `key` a sample; `make_views` turns them
into `views`, a list of (B, C, *crop), and `valid_views` on the device the batch is on, and for a method that asks for
them `place_views`: where in its scan each voxel of a view lies. Labels never enter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded
from medssl.encoders.base import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.engine import adamw
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys, make_keys


class Method(Recorded, pl.LightningModule, ABC):
    """A pretext. Subclasses are final.

    decoder: trained by the pretext, it goes along into segmentation; None where there is none.
    least_batch: the smallest batch the loss has a meaning for.
    places: whether the loss asks for `place_views`, each (B, dims, *crop), -1..1 from the scan's first voxel to its last.
    stop_gradient: what the loss sends no gradient to, for the record; an attribute's name where it is a module.
    """

    decoder: nn.Module | None
    least_batch: int = 1
    places: bool = False
    stop_gradient: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = None
        self._views: nn.ModuleList = nn.ModuleList()
        self.optimise: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.05, "warmup": 50, "steps": 1000}

    @abstractmethod
    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        """The views of a scan that the loss compares, each giving (B, C, *size)."""

    @abstractmethod
    def loss(self, batch: dict[str, Any]) -> Tensor:
        """A scalar from `batch["views"]`, a list of (B, C, *size)."""

    @property
    def kept(self) -> Encoder:
        """The encoder that the run keeps and watches; a teacher's, where the paper keeps the teacher."""
        return self.encoder

    def watch(self) -> dict[str, float]:
        """What else than the loss is worth a curve (momentum, temperature, ...), as it stands now; see metrics.csv."""
        return {}

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor] | None:
        """What a restoring pretext saw and made of it: source, corrupted, restored, each (B, C, *size)."""
        return None

    def source_size(self, crop: Sequence[int]) -> tuple[int, ...]:
        """How large a source the views cut the crop from."""
        return tuple(round(1.5 * n) for n in crop)

    def usable(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """The rows of the scans that can be learned from, said out loud where some cannot; raises MedsslError where none."""
        return manifest

    def crop_settings(self, manifest: pd.DataFrame) -> dict[str, Any]:
        """What `Crops` has to be told to yield more than the scan itself (`partners`, `reports`); manifest: as `usable`."""
        return {}

    def view_source(self, batch: dict[str, Any], view: int) -> tuple[Tensor, Tensor]:
        """What view number `view` is cut from: (B, C, *source), and its body (B, 1, *source)."""
        return batch["source"], batch["valid"]

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        """Raise MedsslError before the first step where this method cannot work with such a crop or batch."""
        self.encoder.check_size(crop)
        if batch_size < self.least_batch:
            raise MedsslError(
                f"--batch-size {batch_size} is too small for {type(self).__name__}: expected {self.least_batch} or more, "
                f"its loss or its head compares the samples of a batch"
            )

    def set_up_views(self, data_spec: DataSpec, size: Sequence[int]) -> None:
        """Fix what `make_views` applies; `pretrain` calls it once."""
        views = self.views(data_spec, tuple(size))
        for view in views:
            recipes.check_modality(view, data_spec)
        self._views = nn.ModuleList(views)

    @torch.no_grad()
    def make_views(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add `views` and `valid_views` to a batch, where it lies, from its `source` and keys."""
        views = [view for view in self._views if isinstance(view, View)]
        params = [view.draw(derive_keys(batch["key"], i)) for i, view in enumerate(views)]
        sources = [self.view_source(batch, i) for i in range(len(views))]
        made = [view.with_mask(x.float(), body.float(), p) for view, p, (x, body) in zip(views, params, sources)]
        batch["views"], batch["valid_views"] = [image for image, _ in made], [body for _, body in made]
        if self.places:
            places = places_of(batch)
            batch["place_views"] = [view.mask(places, p) for view, p in zip(views, params)]
        return batch

    def configure_optimizers(self) -> Any:
        return adamw([(self, 1.0)], **self.optimise)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        loss = self.loss(self.make_views(batch))
        if not torch.isfinite(loss):
            raise MedsslError(
                f"the loss of {type(self).__name__} is {loss.item()} at step {self.global_step}: expected a finite number; "
                f"lower --lr, or use --precision 32-true; the last checkpoint is from before this step"
            )
        self.log("loss", loss.detach(), prog_bar=True)
        return loss


def sequences(manifest: pd.DataFrame, method: str) -> pd.DataFrame:
    """The manifest of scans whose frames the cache holds as channels; raises MedsslError where one is still."""
    still = (manifest["frames"].fillna(1) < 2).sum()
    if still:
        raise MedsslError(
            f"{still} of {len(manifest)} scans to pretrain on hold one frame: {method} expected sequences; index 4D scans and "
            f"prepare them with --frames sequence, or take another --method"
        )
    return manifest


def places_of(batch: dict[str, Any]) -> Tensor:
    """(B, dims, *source): where in its scan each voxel of the source lies, -1..1 an axis from the first voxel to the last."""
    size = batch["source"].shape[2:]
    steps = torch.stack(torch.meshgrid(*[torch.arange(n, device=batch["source"].device) for n in size], indexing="ij"))
    start, last = (t.reshape(*t.shape, *[1] * len(size)) for t in (batch["start"], (batch["extent"] - 1).clamp(min=1)))
    return 2 * (start + steps[None]) / last - 1


def synthetic_batch(encoder: Encoder, size: Sequence[int], count: int = 4) -> dict[str, Any]:
    """A batch such as the loader gives, of smooth noise, for checks and estimates."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, encoder.in_channels, *[max(2, n // 8) for n in size], generator=generator)
    source = nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear" if len(size) == 2 else "trilinear")
    numbers = torch.arange(count)
    return {
        "partner": source * 0.9, "partner_valid": torch.ones_like(source[:, :1], dtype=torch.bool),
        "source": source, "valid": torch.ones_like(source[:, :1], dtype=torch.bool), "scan": numbers, "patient": numbers,
        "report": [f"Nodule of {n} mm." for n in range(count)], "spacing_mm": torch.ones(count, len(size)), "key": make_keys(0, (numbers,)),
        "start": torch.zeros(count, len(size), dtype=torch.int64), "extent": torch.tensor([list(size)] * count),
    }  # fmt: skip


def check_method(method: Method, size: Sequence[int], batch_size: int = 4) -> None:
    """Raise AssertionError unless `method` keeps the contract: a finite scalar that trains every weight, by keys alone."""
    method.check(size, batch_size)
    method.set_up_views(DataSpec(len(size), method.encoder.in_channels, "MR"), size)
    batch = synthetic_batch(method.encoder, method.source_size(size), batch_size)
    made = method.make_views(dict(batch))
    for i, view in enumerate(made["views"]):
        assert tuple(view.shape[:2]) == (batch_size, method.encoder.in_channels), f"a view is {tuple(view.shape)}"
        assert i or tuple(view.shape[2:]) == tuple(size), (
            f"the first view is {tuple(view.shape)}, the crop {tuple(size)}"
        )
        assert all(n <= most for n, most in zip(view.shape[2:], size)), f"a view, {tuple(view.shape)}, exceeds the crop"
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
    shown = method.reconstruct(made)
    assert shown is None or {"source", "corrupted", "restored"} <= set(shown)
