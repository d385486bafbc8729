"""Backbones that lightly and lightly-train trained: torchvision's or timm's names, or the numbers of a `Sequential` (MIT).

    medssl import exported_last.pt --as lightly --out runs/lightly
    medssl import last.ckpt --as lightly --out runs/simclr             # `backbone.4.0.conv1.weight`, as lightly's examples build it
    medssl import exported_last.pt --as lightly --encoder Timm --encoder.name convnext_tiny --out runs/lightly

A checkpoint holds the heads and often a momentum backbone too: the backbone is taken, the others are left out.
"""

from __future__ import annotations

import re

from medssl.encoders import Encoder
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PHOTOGRAPHS,
    Converted,
    Source,
    Tensors,
    take_out,
    without_prefix,
)
from medssl.weights.sources.timm import converted_for
from medssl.weights.sources.torchvision import resnet_like

BACKBONE = r"^(model\.)?(student_)?backbone\.|^student\.backbone\."
PARTS = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}  # of torchvision's ResNet
AS_TRAINED = "photographs unless you trained on others: give --mean and --std as you had them"


class Lightly(Source):
    """A backbone of lightly."""

    licence = "yours, if you trained it; else as its publisher says"
    typical = (
        r"^(model\.)?(student_)?backbone\.(0|conv1|patch_embed\.proj|stem)\b",
        r"backbone\.(4|layer1|blocks|stages)\.0\.",
    )

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = stored.tensors(self.payloads)
        left_out: dict[str, Tensors] = {}
        if any(re.search(BACKBONE, name) for name in tensors):
            heads = f"^(?!{BACKBONE.replace('^', '')})"
            tensors, left_out = take_out(tensors, {"heads and momentum networks": heads})
            tensors = {re.sub(BACKBONE, "", name): value for name, value in tensors.items()}
        tensors = without_prefix(tensors, ("module.",))
        if all(name.partition(".")[0] in PARTS for name in tensors):
            tensors = {f"{PARTS[name.partition('.')[0]]}.{name.partition('.')[2]}": v for name, v in tensors.items()}
        if encoder is not None and type(encoder).__name__ == "Timm":
            converted = converted_for(encoder, tensors)
            converted.left_out |= left_out
            converted.licence = self.licence
            return converted
        tensors, classifier = take_out(tensors, {"classifier": r"^fc\."})
        built = resnet_like(tensors, encoder)
        scans = ExpectedScans(intensity=PHOTOGRAPHS)
        named = {f"net.{name}": value for name, value in tensors.items()}
        return Converted(
            built,
            named,
            scans,
            left_out=left_out | classifier,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            notes=[AS_TRAINED],
        )
