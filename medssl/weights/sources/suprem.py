"""SuPreM: Swin UNETR and SegResNet trained with the labels of 9,262 CT (Li et al., ICLR 2024; CC-BY-NC-ND).

    medssl import supervised_suprem_segresnet_2100.pth --as suprem --accept-license --out runs/suprem

Its licence forbids derivatives. Of its three networks the UNet3D is one that no encoder of medssl has, and is refused.
"""

from __future__ import annotations

import re

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.segresnet import SegResNet
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source, Tensors, parts_of, with_in_channels
from medssl.weights.sources.monai import SOFT_TISSUE_HU, swin

SEGRESNET = re.compile(r"(?P<prefix>.*?)(?P<name>(convInit\.|down_layers\.).*)")
SCANS = ExpectedScans("CT", (1.5, 1.5, 1.5), (96, 96, 96), SOFT_TISSUE_HU, "HU, clipped, as 0 to 1", "RAS")


class Suprem(Source):
    """SuPreM's Swin UNETR or SegResNet."""

    licence = "CC-BY-NC-ND-4.0: no commercial use, no derivatives"
    forbids_derivatives = True
    payloads = ("net", "state_dict")
    typical = (r"^module\.(backbone\.)?(convInit\.conv\.weight|swinViT\.patch_embed\.proj\.weight)$",)

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = stored.tensors(self.payloads)
        if any("down_tr" in name for name in tensors):
            raise MedsslError(
                "the file holds SuPreM's UNet3D, an architecture that medssl has not: expected its Swin UNETR or SegResNet"
            )
        if any("convInit." in name for name in tensors):
            return _segresnet(tensors, encoder)
        return swin(tensors, encoder, SCANS)


def _segresnet(tensors: Tensors, encoder: Encoder | None) -> Converted:
    inside, left_out = parts_of(tensors, SEGRESNET, "decoder and heads")
    stem = inside["convInit.conv.weight"]
    if encoder is None:
        places = [match for name in inside if (match := re.match(r"down_layers\.(\d+)\.(\d+)\.conv1\.", name))]
        levels = sorted({int(match[1]) for match in places})
        counts = tuple(len({match[2] for match in places if int(match[1]) == level}) for level in levels)
        encoder = SegResNet(stem.ndim - 2, stem.shape[1], stem.shape[0], counts)
    built = with_in_channels(encoder, stem.shape[1])
    return Converted(built, {f"net.{name}": value for name, value in inside.items()}, SCANS, left_out=left_out)
