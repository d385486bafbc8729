"""PatientContrast: two scans of one patient are alike, scans of other patients are not.

Azizi et al., Big Self-Supervised Models Advance Medical Image Classification (its multi-instance contrastive learning,
MICLe), ICCV 2021 (arXiv 2101.05224); neighbouring slices as positives: Zeng et al., Positional Contrastive Learning for
Volumetric Medical Image Segmentation, MICCAI 2021 (arXiv 2106.09157).

    medssl pretrain --data CACHE --method PatientContrast                                   # any other scan of the patient
    medssl pretrain --data CACHE --method PatientContrast --method.positives aligned        # T1 with T2 on one grid
    medssl pretrain --data CACHE --method PatientContrast --method.positives neighbour --method.apart 4

The partner's crop lies at the same relative place of its scan, so that scans on one grid meet voxel by voxel. A scan
without a partner is paired with a second view of itself, as in SimCLR; `pretrain` says how many those are. Scans of a
patient are never each other's negatives.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pandas as pd
from lightly.models.modules import SimCLRProjectionHead
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.datasets.manifest import scan_of_frame
from medssl.encoders.base import Encoder
from medssl.methods.shared.contrast import Similarity, check_temperature, nt_xent
from medssl.methods.shared.two_views import TwoViews

say = rank_zero_only(Console(stderr=True).print)


class PatientContrast(TwoViews):
    """positives: "patient", any other scan of the patient; "aligned", one on the same grid; "neighbour", the next frames of
    the same 4D scan, or the same scan up to `apart` voxels (slices) further along its coarsest axis, or its last.

    temperature, projection, similarity, chunk: as in SimCLR.
    """

    def __init__(
        self,
        encoder: Encoder,
        positives: Literal["patient", "aligned", "neighbour"] = "patient",
        apart: int = 4,
        temperature: float = 0.2,
        projection: int = 128,
        similarity: Similarity = "cosine",
        chunk: int = 0,
    ):
        super().__init__(encoder, chunk)
        check_temperature(temperature)
        if apart < 1:
            raise MedsslError(f"apart is {apart}: expected 1 slice or more between neighbours")
        self.positives, self.apart, self.temperature = positives, apart, temperature
        self.projection, self.similarity = projection, similarity
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, projection)

    def usable(self, manifest: pd.DataFrame) -> pd.DataFrame:
        paired = sum(map(bool, self.partners(manifest).values()))
        near = self.positives == "neighbour"
        rest = "their own neighbouring slices" if near else "a second view of themselves"
        say(f"{paired} of {len(manifest)} scans ({paired / len(manifest):.0%}) have a partner; the others meet {rest}")
        if not paired and not near:
            warnings.warn(
                "no scan has a partner, so this is plain SimCLR; patients need several scans (index --patient COLUMN), or take "
                "--method.positives neighbour",
                stacklevel=2,
            )
        return manifest

    def crop_settings(self, manifest: pd.DataFrame) -> dict[str, Any]:
        return {"partners": self.partners(manifest), "apart": self.apart if self.positives == "neighbour" else 0}

    def partners(self, manifest: pd.DataFrame) -> dict[str, list[str]]:
        """scan -> the other scans that may be its positive."""
        grids = manifest["shape"].map(tuple)
        series = manifest["scan"].map(scan_of_frame)
        keys = {"patient": [manifest["patient"]], "aligned": [manifest["patient"], grids], "neighbour": [series]}
        found = {}
        for _, scans in manifest.groupby([k.rename(str(i)) for i, k in enumerate(keys[self.positives])])["scan"]:
            members = sorted(scans)
            for i, scan in enumerate(members):
                near = members[max(0, i - 1) : i + 2] if self.positives == "neighbour" else members
                found[scan] = [other for other in near if other != scan]
        return found

    def view_source(self, batch: dict[str, Any], view: int) -> tuple[Tensor, Tensor]:
        return (batch["partner"], batch["partner_valid"]) if view else (batch["source"], batch["valid"])

    def loss(self, batch: dict[str, Any]) -> Tensor:
        a, b = self.projections(batch)
        return nt_xent(a, b, batch["patient"], self.temperature, self.similarity)
