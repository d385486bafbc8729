"""CT-FM: MONAI's SegResEncoder, contrasted within 148,000 CT (Pai et al. 2025, arXiv 2501.09001; Apache-2.0).

    medssl import model.safetensors --as ctfm --out runs/ctfm

It was trained on arrays that run from foot to head, front to back and right to left (SPL): the imported encoder turns each scan so and its
levels back, since kernels of strided convolutions cannot be mirrored exactly. It has batch norms: keep their statistics by fine-tuning with
--encoder-share 0, or in batches of more than two.
"""

from __future__ import annotations

import re

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.segresnet import SegResEncoder
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source, Tensors, parts_of, with_in_channels

INSIDE = re.compile(r"(?P<prefix>.*?)(?P<name>(conv_init\.|layers\.\d+\.(blocks|downsample)\.).*)")


class CtFm(Source):
    """A SegResEncoder under any prefix."""

    licence = "Apache-2.0"
    typical = (r"conv_init\.weight$", r"layers\.0\.blocks\.0\.conv1\.weight$")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = stored.tensors(self.payloads)
        inside, left_out = parts_of(tensors, INSIDE, "heads and decoder")
        stem = inside.get("conv_init.weight")
        if stem is None:
            raise MedsslError(
                f"the file has no conv_init.weight, but {', '.join(list(tensors)[:5])}: expected a SegResEncoder of MONAI"
            )
        built = with_in_channels(encoder or _like(inside), stem.shape[1])
        scans = ExpectedScans(
            "CT",
            (1.0, 1.0, 3.0),
            (128, 128, 32),
            (-1024.0, 2048.0),
            "HU, clipped, as 0 to 1",
            "SPL, turned by the encoder",
        )
        return Converted(
            built,
            {f"net.{name}": value for name, value in inside.items()},
            scans,
            left_out=left_out,
            axes="SPL",
            notes=["batch norms: their running statistics are the file's; above 1,500 HU a cache's scale ends"],
        )


def _like(tensors: Tensors) -> Encoder:
    places = [match for name in tensors if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.conv1\.", name))]
    levels = sorted({int(match[1]) for match in places})
    counts = tuple(len({match[2] for match in places if int(match[1]) == level}) for level in levels)
    stem = tensors["conv_init.weight"]
    norm = "batch" if any(name.endswith("running_mean") for name in tensors) else "instance"
    return SegResEncoder(stem.ndim - 2, stem.shape[1], stem.shape[0], counts, norm)  # type: ignore[arg-type]
