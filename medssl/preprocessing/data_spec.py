"""What every scan of a cohort has in common: one object in place of five values passed side by side.

    cache.data_spec                                    # DataSpec(dims=3, channels=1, modality='CT', ...)
    recipes.contrastive(DataSpec(2, modality="MR"), size=(64, 64))

A cache provides it, views are built for it, and the record of a run keeps it. It is compared once with an encoder, and once
with the run whose model is applied.
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
    """The part of an encoder that must agree with the scans."""

    dims: int
    in_channels: int


@dataclass(frozen=True)
class DataSpec:
    """The scans of one cohort, as a network meets them.

    Attributes:
        dims: 2 for images (H, W), 3 for volumes (X, Y, Z).
        channels: Channels of every scan.
        modality: DICOM's code, or the name of a family (CT, MR, XRAY, US, RGB, OT).
        spacing_mm: Spacing of the voxels along each axis; the median of images, 1 mm where it is unknown.
        size: (H, W) that images were resampled to; None where each keeps its own.

    Raises:
        MedsslError: A value is out of range, or the modality is unknown.
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
        """The family that decides the scale of intensities and the views.

        It is that of the modality, but a photograph without three channels counts as OT, and an image of unknown modality
        with three channels as a photograph.
        """
        family = family_of(self.modality)
        if family.name == "RGB" and self.channels != 3:
            return FAMILIES["OT"]
        return FAMILIES["RGB"] if self.dims == 2 and self.channels == 3 and family.name == "OT" else family

    def to_record(self) -> dict[str, Any]:
        """The fields, for the record of a run; `from_record` reads them back."""
        return asdict(self)

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> DataSpec:
        """The scans that a run was made with, from the `config` of its record.

        Raises:
            MedsslError: The record lacks one of the fields.
        """
        values = config.get("data_spec", config)  # records of format 1 have the fields among the other settings
        missing = [name for name in ("dims", "modality", "spacing_mm") if name not in values]
        if missing:
            raise MedsslError(
                f"the run's record lacks the {missing[0]} of its scans: expected the record of a pretraining run, a "
                "fine-tuned model or a study; run it again"
            )
        channels = values.get("channels", 1)  # studies of format 1 did not record them
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
        """Check that a model trained on scans like `trained` can be applied to these.

        Raises:
            MedsslError: Dimensions, modality or channels differ, the spacing of volumes by more than 5%, or the size of
                images.
        """
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
                f"these images have a size of {self.size or 'their own each'}: the model was trained at {trained.size}; prepare "
                f"the scans with --size {' '.join(map(str, trained.size))}"
            )

    def warn_of_spacing(self, pretrained: DataSpec) -> None:
        """Warn if an encoder was pretrained at another spacing than that of these scans."""
        if not self.same_spacing(pretrained):
            warnings.warn(
                f"pretrained at a spacing of {pretrained.spacing_mm} mm, used at {self.spacing_mm} mm: expected the same; "
                "prepare both caches at one spacing",
                stacklevel=3,
            )

    def same_spacing(self, other: DataSpec) -> bool:
        """Whether the spacings agree within 5% along each axis."""
        return self.dims == other.dims and all(
            abs(own - reference) <= SAME_SPACING * reference
            for own, reference in zip(self.spacing_mm, other.spacing_mm)
        )
