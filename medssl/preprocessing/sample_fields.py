"""What a sample holds besides its scan: the fields that a method can ask for by name.

    class Mine(Method):
        sample_fields = ("report",)                          # a name, or a field with settings, such as Partner("aligned")

    fields = resolve(method.sample_fields)
    scans, remarks = select_scans(fields, manifest)          # only the scans that have what the fields need
    crops = Crops(cache, scans["scan"], size, seed, fields=readers(fields, scans))

    report        `report`: a text for each scan
    partner       `partner (B, C, *source)` and `partner_valid (B, 1, *source)`: another scan of the patient
    coordinates   `coordinates (B, dims, *source)`: where in its scan each voxel lies, made on the device
    frames        nothing: the channels of the cache must be the frames of a sequence

To add a field, add a class here. Readers run in the processes that load scans.
"""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import scan_of_frame
from medssl.preprocessing.crops import Crops, FieldReader, start_inside

Positives = Literal["patient", "aligned", "neighbour"]


class SampleField(ABC):
    """One field. Subclasses are frozen dataclasses: equal settings make equal fields."""

    name: ClassVar[str]

    def select(self, manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """The rows of the scans that have what the field needs, and remarks for the user.

        Raises:
            MedsslError: No scan has it, or too few have.
        """
        return manifest, []

    def reader(self, manifest: pd.DataFrame) -> FieldReader | None:
        """The reader that adds the field to each sample; None if the loader has nothing to add."""
        return None

    def on_device(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The entries to add to a whole batch, on the device of the batch."""
        return {}


@dataclass(frozen=True)
class Report(SampleField):
    """The report of each scan, as text."""

    name = "report"

    def select(self, manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        selected = manifest[manifest["scan"].isin(reports_in(manifest))]
        if len(selected) < 2:
            raise MedsslError(
                f"{len(selected)} of {len(manifest)} scans to pretrain on have a report: expected two or more; "
                f"see which scans the column --report of the labels leaves empty"
            )
        missing = len(manifest) - len(selected)
        return selected, [f"{missing} of {len(manifest)} scans have no report and are left out"] if missing else []

    def reader(self, manifest: pd.DataFrame) -> ReportReader:
        return ReportReader(reports_in(manifest))


@dataclass(frozen=True)
class ReportReader(FieldReader):
    """Adds `report`.

    Attributes:
        texts: The report of each scan.
    """

    texts: dict[str, str]

    def read(self, crops: Crops, scan: str, start: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
        return {"report": self.texts[scan]}


@dataclass(frozen=True)
class Partner(SampleField):
    """Another scan of the same patient, cut at the same relative place; without one, the scan itself.

    Attributes:
        positives: "patient", any other scan of the patient; "aligned", one on the same grid; "neighbour", the next frames
            of the same 4D scan, or the scan itself a few slices further along its coarsest axis, or its last.
        max_offset: Largest distance in slices to a neighbour in the scan itself.
    """

    positives: Positives = "patient"
    max_offset: int = 4

    name = "partner"

    def select(self, manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        paired = sum(map(bool, self.partners(manifest).values()))
        near = self.positives == "neighbour"
        if not paired and not near:
            warnings.warn(
                "no scan has a partner, so this is plain SimCLR; patients need several scans (index --patient COLUMN), or take "
                "--method.positives neighbour",
                stacklevel=2,
            )
        rest = "their own neighbouring slices" if near else "a second view of themselves"
        share = f"{paired} of {len(manifest)} scans ({paired / len(manifest):.0%})"
        return manifest, [f"{share} have a partner; the others are paired with {rest}"]

    def reader(self, manifest: pd.DataFrame) -> PartnerReader:
        return PartnerReader(self.partners(manifest), self.max_offset if self.positives == "neighbour" else 0)

    def partners(self, manifest: pd.DataFrame) -> dict[str, list[str]]:
        """scan -> the other scans that may be its positive."""
        grids = manifest["shape"].map(tuple)
        series = manifest["scan"].map(scan_of_frame)
        keys = {"patient": [manifest["patient"]], "aligned": [manifest["patient"], grids], "neighbour": [series]}
        partners = {}
        for _, scans in manifest.groupby([k.rename(str(i)) for i, k in enumerate(keys[self.positives])])["scan"]:
            members = sorted(scans)
            for i, scan in enumerate(members):
                candidates = members[max(0, i - 1) : i + 2] if self.positives == "neighbour" else members
                partners[scan] = [other for other in candidates if other != scan]
        return partners


@dataclass(frozen=True)
class PartnerReader(FieldReader):
    """Adds `partner` and `partner_valid`.

    Attributes:
        partners: The scans that may be the positive of each scan.
        max_offset: Largest distance in slices to a neighbour in the scan itself.
    """

    partners: dict[str, list[str]]
    max_offset: int

    def read(self, crops: Crops, scan: str, start: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
        """A partner at the same relative place; without partners the scan itself, moved by at most `max_offset` slices."""
        cache, size, others = crops.cache, crops.size, self.partners.get(scan, [])
        other = others[generator.integers(len(others))] if others else scan
        last, other_last = ([n - s for n, s in zip(cache.shape(x), size)] for x in (scan, other))  # largest starts
        place = [round(s * b / a) if a > 0 and b > 0 else b // 2 for s, a, b in zip(start, last, other_last)]
        if self.max_offset and not others:
            axis = max(range(len(place)), key=lambda i: (cache.spacing_mm[i], i))
            move = int(generator.integers(1, self.max_offset + 1)) * (1 if generator.random() < 0.5 else -1)
            place[axis] = start_inside(place[axis] + move, cache.shape(scan)[axis], size[axis])
        source = cache.read(other, place, size)
        valid = crops.valid(other, place, source)
        return {"partner": torch.from_numpy(source), "partner_valid": torch.from_numpy(valid)}


@dataclass(frozen=True)
class Coordinates(SampleField):
    """Where in its scan each voxel of the source lies, -1..1 along each axis from the first voxel to the last."""

    name = "coordinates"

    def on_device(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        size, device = batch["source"].shape[2:], batch["source"].device
        steps = torch.stack(torch.meshgrid(*[torch.arange(n, device=device) for n in size], indexing="ij"))
        limits = (batch["start"], (batch["extent"] - 1).clamp(min=1))
        start, last = (t.reshape(*t.shape, *[1] * len(size)) for t in limits)
        return {"coordinates": 2 * (start + steps[None]) / last - 1}


@dataclass(frozen=True)
class Frames(SampleField):
    """The frames of a sequence, as the channels of the cache."""

    name = "frames"

    def select(self, manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        single = (manifest["frames"].fillna(1) < 2).sum()
        if single:
            raise MedsslError(
                f"{single} of {len(manifest)} scans to pretrain on hold one frame: the method expected sequences; index 4D "
                f"scans and prepare them with --frames sequence, or take another --method"
            )
        return manifest, []


FIELDS = {field.name: field for field in (Report(), Partner(), Coordinates(), Frames())}


def resolve(fields: Iterable[str | SampleField]) -> list[SampleField]:
    """The fields, each name replaced by the field of that name with its default settings.

    Raises:
        MedsslError: There is no field of that name, or one field is requested with two settings.
    """
    by_name: dict[str, SampleField] = {}
    for requested in fields:
        if isinstance(requested, str) and requested not in FIELDS:
            raise MedsslError(f"there is no sample field {requested!r}: expected one of {', '.join(FIELDS)}")
        field = FIELDS[requested] if isinstance(requested, str) else requested
        if by_name.setdefault(field.name, field) != field:
            raise MedsslError(
                f"the sample field {field.name} is requested as {by_name[field.name]} and as {field}: expected the same "
                f"settings, since a batch holds it once; give both methods the same"
            )
    return list(by_name.values())


def select_scans(fields: Iterable[SampleField], manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the scans that have what all fields need, and remarks for the user.

    Args:
        fields: The fields that a method asks for.
        manifest: The scans to choose from.

    Raises:
        MedsslError: A field finds no scan, or too few.
    """
    remarks = []
    for field in fields:
        manifest, more = field.select(manifest)
        remarks += more
    return manifest, remarks


def readers(fields: Iterable[SampleField], manifest: pd.DataFrame) -> list[FieldReader]:
    """The readers of the fields that the loader must add to each sample.

    Args:
        fields: The fields that a method asks for.
        manifest: The scans that `select_scans` chose.
    """
    return [reader for field in fields if (reader := field.reader(manifest)) is not None]


def reports_in(manifest: pd.DataFrame) -> dict[str, str]:
    """scan -> report text, for the scans that have one.

    Raises:
        MedsslError: The cache holds no reports.
    """
    if "report" not in manifest:
        raise MedsslError(
            "there are no reports in this cache: expected text for each scan; join it with `medssl index --labels FILE.csv "
            "--report COLUMN`, then prepare again"
        )
    reports = manifest.set_index("scan")["report"].dropna()
    return {str(scan): str(text) for scan, text in reports.items()}
