"""MONAI's Swin UNETR, self-supervised on CT, in its three files (Tang et al., CVPR 2022, arXiv 2111.14791; Apache-2.0).

    medssl import model_swinvit.pt --as monai --out runs/swin

model_swinvit.pt has `module.layers1...` and `mlp.fc1`; the weights of 50,000 scans (arXiv 2307.16896) have `encoder.layers1.0.0...`;
self_supervised_nv_swin_unetr_5050.pt has `module.swinViT...`, and MONAI's own `SwinUNETR` has `swinViT...` beside a decoder. What the
network's convolutions to its decoder learned (`encoder1` to `encoder10`) has no place in the encoder, and the receipt says so.
Width, depths, heads, window and version are read from the tensors.
"""

from __future__ import annotations

import re

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.swin_unetr import SwinUNETR
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source, Tensors, parts_of, with_in_channels

SWIN = re.compile(r"(?P<prefix>.*?)(?P<name>(patch_embed\.|layers[1-4]c?\.).*)")
SOFT_TISSUE_HU = (-175.0, 250.0)
RENAMED = {".mlp.fc1.": ".mlp.linear1.", ".mlp.fc2.": ".mlp.linear2."}


class Monai(Source):
    """Swin UNETR's transformer under any of its prefixes."""

    licence = "Apache-2.0"
    typical = (r"layers1\.0\.(0\.)?blocks\.0\.attn\.relative_position_bias_table$", r"patch_embed\.proj\.weight$")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        scans = ExpectedScans("CT", (1.5, 1.5, 2.0), (96, 96, 96), SOFT_TISSUE_HU, "HU, clipped, as 0 to 1", "RAS")
        return swin(stored.tensors(self.payloads), encoder, scans)


def swin(tensors: Tensors, encoder: Encoder | None, expects: ExpectedScans) -> Converted:
    """The transformer of Swin UNETR among the tensors of a file.

    Args:
        tensors: All tensors of the file.
        encoder: What the user named; it is checked later, tensor by tensor.
        expects: The scans that it was trained on.

    Raises:
        MedsslError: There is none.
    """
    inside, left_out = parts_of(tensors, SWIN, "pretext heads and decoder")
    names = {name: _monai_name(name) for name in inside}
    inside = {names[name]: value for name, value in inside.items()}
    if "patch_embed.proj.weight" not in inside:
        raise MedsslError(
            f"the file has no patch_embed.proj.weight, but {', '.join(list(tensors)[:5])}: expected the transformer of Swin UNETR"
        )
    renamed = [f"net.{new}" for old, new in names.items() if old != new]
    return Converted(
        _swin_like(inside, encoder),
        {f"net.{name}": value for name, value in inside.items()},
        expects,
        adapted={"names of another version of MONAI": renamed} if renamed else {},
        left_out=left_out,
    )


def _monai_name(name: str) -> str:
    """A name of the published files as MONAI's network has it."""
    name = re.sub(r"^(layers[1-4]\.0\.)0\.", r"\1", name)
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def _swin_like(tensors: Tensors, encoder: Encoder | None) -> Encoder:
    stem = tensors["patch_embed.proj.weight"]
    if encoder is not None:
        return with_in_channels(encoder, stem.shape[1])
    dims = stem.ndim - 2
    depths = tuple(
        len({match[1] for name in tensors if (match := re.match(rf"layers{i}\.0\.blocks\.(\d+)\.", name))})
        for i in range(1, 5)
    )
    tables = [tensors.get(f"layers{i}.0.blocks.0.attn.relative_position_bias_table") for i in range(1, 5)]
    if any(table is None for table in tables):
        raise MedsslError(f"the file has blocks {depths} in its four stages: expected four stages of Swin UNETR")
    heads = tuple(table.shape[1] for table in tables if table is not None)
    assert tables[0] is not None
    window = (round(tables[0].shape[0] ** (1 / dims)) + 1) // 2
    use_v2 = any(name.startswith("layers1c.") for name in tensors)
    return SwinUNETR(dims, stem.shape[1], stem.shape[0], depths, heads, window, use_v2)
