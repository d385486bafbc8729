"""What every scan of a cohort has in common: one object in place of five values passed side by side.

    cache.data_spec                                    # DataSpec(dims=3, channels=1, modality='CT', ...)
    recipes.contrastive(DataSpec(2, modality="MR"), size=(64, 64))

A cache makes it, the views are made for it, a run's record carries it, and it is checked once against an encoder, and
once against the run whose model is to be used.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from medssl.core.errors import MedsslError
from medssl.scans.modality import FAMILIES, Family, family_of

SAME_SPACING = 0.05


class Shaped(Protocol):
    """What of an encoder must agree with the scans."""

    dims: int
    in_channels: int


@dataclass(frozen=True)
class DataSpec:
    """The scans of one cohort, as a network meets them.

    dims: 2 for images (H, W), 3 for volumes (X, Y, Z). channels: of every scan. modality: DICOM's code, or a family's name
    (CT, MR, XRAY, US, RGB, OT). spacing_mm: between voxels, one number an axis; of images the median, 1 mm where nothing is
    known. size: (H, W) that images were resampled to, None where each keeps its own.

    Raises:
        MedsslError: a value that cannot be.
    """

    dims: int
    channels: int = 1
    modality: str = "OT"
    spacing_mm: tuple[float, ...] = ()
    size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dims not in (2, 3) or self.channels < 1:
            raise MedsslError(f"dims is {self.dims}, channels {self.channels}: expected dims 2 or 3, 1 channel or more")
        spacing_mm = tuple(float(mm) for mm in self.spacing_mm) or (1.0,) * self.dims
        if len(spacing_mm) != self.dims or min(spacing_mm) <= 0:
            raise MedsslError(f"spacing_mm is {spacing_mm}: expected {self.dims} numbers above 0")
        family_of(self.modality)
        object.__setattr__(self, "spacing_mm", spacing_mm)
        object.__setattr__(self, "size", tuple(self.size) if self.size else None)

    @property
    def family(self) -> Family:
        """What views and intensities go by: the modality's family, except that a photograph in grey counts as OT, and an
        image of unknown modality with three channels as a photograph."""
        family = family_of(self.modality)
        if family.name == "RGB" and self.channels != 3:
            return FAMILIES["OT"]
        return FAMILIES["RGB"] if self.dims == 2 and self.channels == 3 and family.name == "OT" else family

    def to_record(self) -> dict[str, Any]:
        """The values for a run's record; `from_record` reads them back."""
        return asdict(self)

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> DataSpec:
        """What a run's scans were, from its record's `config`.

        Raises:
            MedsslError: the record does not say it.
        """
        values = config.get("data_spec", config)  # records of 0.1 have the values among the other settings
        missing = [name for name in ("dims", "modality", "spacing_mm") if name not in values]
        if missing:
            raise MedsslError(
                f"the run's record does not say the {missing[0]} of its scans: expected the record of a pretraining run, a "
                "fine-tuned model or a study; run it again"
            )
        channels = values.get("channels", 1)  # studies of 0.1 did not record them, and nothing was checked against one
        return cls(values["dims"], channels, values["modality"], tuple(values["spacing_mm"]), values.get("size"))

    def check_encoder(self, encoder: Shaped) -> None:
        """Raise MedsslError unless the encoder was built for scans like these."""
        if (encoder.dims, encoder.in_channels) != (self.dims, self.channels):
            raise MedsslError(
                f"the encoder was built for dims={encoder.dims}, in_channels={encoder.in_channels}: the cache holds "
                f"{self.dims}D scans of {self.channels} channel(s); pass --encoder.dims {self.dims} "
                f"--encoder.in_channels {self.channels}"
            )

    def check_model(self, trained: DataSpec) -> None:
        """Raise MedsslError unless a model trained on scans like `trained` can be applied to these: the same dimensions,
        modality and channels, spacing within 5% (volumes) and the same size (images)."""
        if (self.dims, self.modality, self.channels) != (trained.dims, trained.modality, trained.channels):
            raise MedsslError(
                f"these scans are {self.dims}D {self.modality} with {self.channels} channel(s): the model was made for "
                f"{trained.dims}D {trained.modality} with {trained.channels} channel(s)"
            )
        if self.dims == 3 and not self.same_spacing(trained):
            raise MedsslError(
                f"these volumes have a spacing of {self.spacing_mm} mm: the model was trained at {trained.spacing_mm} mm; "
                f"prepare the scans with --spacing-mm {' '.join(f'{mm:g}' for mm in trained.spacing_mm)}"
            )
        if self.dims == 2 and trained.size and self.size != trained.size:
            raise MedsslError(
                f"these images have a size of {self.size or 'their own'}: the model was trained at {trained.size}; prepare "
                f"the scans with --size {' '.join(map(str, trained.size))}"
            )

    def warn_of_spacing(self, pretrained: DataSpec) -> None:
        """Warn where an encoder was pretrained at another spacing than it is about to be trained at."""
        if not self.same_spacing(pretrained):
            warnings.warn(
                f"pretrained at a spacing of {pretrained.spacing_mm} mm, used at {self.spacing_mm} mm: expected the same; "
                "prepare both caches at one spacing",
                stacklevel=3,
            )

    def same_spacing(self, other: DataSpec) -> bool:
        """Whether the spacing is that of the other, within 5% of it along each axis."""
        return self.dims == other.dims and all(
            abs(mine - its) <= SAME_SPACING * its for mine, its in zip(self.spacing_mm, other.spacing_mm)
        )
