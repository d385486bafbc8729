"""VoCo's Swin UNETR, pretrained on 160,000 CT (Wu et al., CVPR 2024 and arXiv 2410.09890; Apache-2.0).

    medssl import VoCo_B_SSL_head.pt --as voco --out runs/voco

The payload is the first present of state_dict, network_weights, net and student. The network is the second version of Swin UNETR: its
`layers1c` to `layers4c` are lost where it is built without `use_v2`, so the version is read from the tensors.
"""

from __future__ import annotations

from medssl.encoders import Encoder
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source
from medssl.weights.sources.monai import SOFT_TISSUE_HU, swin


class Voco(Source):
    """VoCo's transformer."""

    licence = "Apache-2.0"
    payloads = ("state_dict", "network_weights", "net", "student")
    typical = (
        r"layers1\.0\.blocks\.0\.attn\.relative_position_bias_table$",
        r"patch_embed\.proj\.weight$",
        r"layers1c\.0\.layer\.conv1\.conv\.weight$",
    )

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        scans = ExpectedScans("CT", (1.5, 1.5, 1.5), (96, 96, 96), SOFT_TISSUE_HU, "HU, clipped, as 0 to 1", "RAS")
        return swin(stored.tensors(self.payloads), encoder, scans)
