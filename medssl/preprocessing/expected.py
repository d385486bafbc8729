"""The scans that public weights were trained on, and what to say where a cohort is of another kind.

expected = ExpectedScans(modality="CT", spacing_mm=(1.5, 1.5, 2.0), window_hu=(-175.0, 250.0), size=(96, 96, 96))
expected.check(cache.data_spec)                    # refuses MR, warns of another spacing
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import SAME_SPACING, DataSpec
from medssl.scans.modality import family_of


@dataclass(frozen=True)
class ExpectedScans:
    """What the publisher of weights says of the scans that they were trained on.

    Attributes:
        modality: Code or family of the scans; None where the weights are for any, as those of photographs are.
        spacing_mm: Spacing of the voxels along R, A and S; None where each scan kept its own.
        size: Voxels of a crop (or of an image) along each axis; None where nothing is said.
        window_hu: For CT: HU that became 0 and 1.
        intensity: How intensities were scaled, in words.
        orientation: Directions of the array axes.
    """

    modality: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    window_hu: tuple[float, float] | None = None
    intensity: str = ""
    orientation: str = ""

    def to_record(self) -> dict[str, Any]:
        """The fields, for the record of a run."""
        return asdict(self)

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> Self | None:
        """What a run of `medssl import` recorded; None for a run that was trained here.

        Args:
            config: The `config` of the run's record.
        """
        if (values := config.get("expects")) is None:
            return None
        lists = ("spacing_mm", "size", "window_hu")
        fields: dict[str, Any] = {k: tuple(v) if k in lists and v is not None else v for k, v in values.items()}
        return cls(**fields)

    def data_spec(self, dims: int, channels: int) -> DataSpec:
        """The scans as the record of a run describes them; what is not known has its default.

        Args:
            dims: 2 for images, 3 for volumes.
            channels: Channels of a scan.
        """
        size = self.size if dims == 2 else None
        return DataSpec(dims, channels, self.modality or "OT", self.spacing_mm or (), size)

    def check(self, scans: DataSpec) -> None:
        """Check whether the weights can be applied to scans, and warn of what is not as it was in their training.

        Args:
            scans: The scans.

        Raises:
            MedsslError: The weights expect HU, and the scans have none.
        """
        if self.window_hu is not None and not scans.family.in_hu:
            raise MedsslError(
                f"the public weights expect CT in HU, {self.window_hu[0]:g} to {self.window_hu[1]:g}: these scans are "
                f"{scans.modality}; take weights that were trained on such scans"
            )
        for mismatch in self._mismatches(scans):
            warnings.warn(f"public weights: {mismatch}", stacklevel=3)

    def _mismatches(self, scans: DataSpec) -> list[str]:
        found = []
        if self.modality is not None and family_of(self.modality) != scans.family:
            found.append(f"they were trained on {self.modality}, these scans are {scans.modality}")
        if self.spacing_mm is not None and not _near(scans.spacing_mm, self.spacing_mm):
            found.append(
                f"they were trained at a spacing of {self.spacing_mm} mm, these scans have {scans.spacing_mm}; prepare them with "
                f"--spacing-mm {' '.join(f'{mm:g}' for mm in self.spacing_mm)}"
            )
        if scans.dims == 2 and self.size is not None and scans.size != self.size:
            found.append(
                f"they were trained on images of {self.size} pixels, these have {scans.size or 'their own size each'}; prepare "
                f"them with --size {' '.join(map(str, self.size))}"
            )
        return found


def check_expected(config: Mapping[str, Any], scans: DataSpec) -> None:
    """Check whether the encoder of a run can be used on scans; warn where they are of another kind than those it was trained on.

    Args:
        config: The `config` of the record of a pretraining or of an import.
        scans: The scans.

    Raises:
        MedsslError: Public weights expect HU, and the scans have none.
    """
    expected = ExpectedScans.from_record(config)
    if expected is None:
        scans.warn_of_spacing(DataSpec.from_record(config))
    else:
        expected.check(scans)


def same_spacing(config: Mapping[str, Any], scans: DataSpec) -> bool:
    """Whether the encoder of a run was trained at the spacing of these scans; true where the publisher of weights says none.

    Args:
        config: The `config` of the record of a pretraining or of an import.
        scans: The scans.
    """
    expected = ExpectedScans.from_record(config)
    if expected is None:
        return scans.same_spacing(DataSpec.from_record(config))
    return expected.spacing_mm is None or _near(scans.spacing_mm, expected.spacing_mm)


def _near(spacing_mm: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    return len(spacing_mm) == len(expected) and all(
        abs(own - wanted) <= SAME_SPACING * wanted for own, wanted in zip(spacing_mm, expected)
    )
