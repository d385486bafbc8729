"""PatientContrast: two scans of one patient are alike, scans of other patients are not.

Azizi et al., Big Self-Supervised Models Advance Medical Image Classification (its multi-instance contrastive learning,
MICLe), ICCV 2021 (arXiv 2101.05224); neighbouring slices as positives: Zeng et al., Positional Contrastive Learning for
Volumetric Medical Image Segmentation, MICCAI 2021 (arXiv 2106.09157).

    medssl pretrain --data CACHE --method PatientContrast                                   # any other scan of the patient
    medssl pretrain --data CACHE --method PatientContrast --method.positives aligned        # T1 with T2 on one grid
    medssl pretrain --data CACHE --method PatientContrast --method.positives neighbour --method.apart 4

The partner's crop lies at the same relative place of its scan, so that scans on one grid meet voxel by voxel. A scan
without a partner is paired with a second view of itself, as in SimCLR; `pretrain` reports how many those are. Scans of a
patient are never each other's negatives.
"""

from __future__ import annotations

from typing import Any

from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.contrast import Similarity, check_temperature, nt_xent
from medssl.methods.shared.two_views import TwoViews
from medssl.preprocessing.sample_fields import Partner, Positives


class PatientContrast(TwoViews):
    """NT-Xent of two scans of each patient.

    Args:
        positives: "patient", any other scan of the patient; "aligned", one on the same grid; "neighbour", the next frames
            of the same 4D scan, or the same scan some slices further along its coarsest axis, or its last.
        apart: How many slices a neighbour in the same scan lies away at most.
        temperature: As in SimCLR.
        projection: As in SimCLR.
        similarity: As in SimCLR.
        chunk: As in SimCLR.

    Raises:
        MedsslError: `temperature` is not above 0, or `apart` is below 1.
    """

    partner_views = (1,)

    def __init__(
        self,
        encoder: Encoder,
        positives: Positives = "patient",
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
        self.sample_fields = (Partner(positives, apart),)
        self.head = SimCLRProjectionHead(encoder.out_dim, encoder.out_dim, projection)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        a, b = self.projections(batch)
        return nt_xent(a, b, batch["patient"], self.temperature, self.similarity)
