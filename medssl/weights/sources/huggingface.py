"""DINOv2 as transformers writes it, RAD-DINO among them (Oquab et al. 2023, arXiv 2304.07193; Perez-Garcia et al. 2024, arXiv 2401.10815).

    medssl import hf:microsoft/rad-dino --as huggingface --out runs/rad-dino
    medssl import FOLDER --as huggingface --out runs/rad-dino        # model.safetensors, config.json, preprocessor_config.json

The tensors get timm's names; query, key and value are joined. The number of heads is in `config.json`; mean and deviation are in
`preprocessor_config.json`, and are those of ImageNet where it is not there.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.timm_model import Timm
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

WIDTHS = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
RENAMED = (
    (r"^embeddings\.(cls_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
JOINED = re.compile(r"(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)")


class HuggingFace(Source):
    """DINOv2, with registers or without."""

    licence = "Apache-2.0 (DINOv2), MIT (RAD-DINO)"
    typical = (r"^(dinov2\.)?embeddings\.cls_token$", r"encoder\.layer\.0\.layer_scale1\.lambda1$")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = without_prefix(stored.tensors(self.payloads), ("dinov2.", "dinov2_with_registers."))
        tensors, left_out = take_out(tensors, {"mask token and heads": r"mask_token$|^(classifier|head)\."})
        if "embeddings.cls_token" not in tensors:
            raise MedsslError(
                f"the file has no embeddings.cls_token, but {', '.join(list(tensors)[:5])}: expected DINOv2 as transformers writes it; of "
                "other models there is a file with timm's names, for --as timm"
            )
        built = encoder or _like(tensors, stored.about)
        renamed, joined = _with_timms_names(tensors)
        adapted = {"query, key and value joined": joined}
        if "reg_token" in renamed:  # timm adds no position to the class token of such a model
            places = renamed["pos_embed"]
            renamed |= {"cls_token": renamed["cls_token"] + places[:, :1], "pos_embed": places[:, 1:]}
            adapted["position of the class token added to it"] = ["cls_token", "pos_embed"]
        scale = stored.about.get("preprocessor", {})
        size = stored.about.get("image_size")
        return Converted(
            built,
            {f"net.{name}": value for name, value in renamed.items()},
            ExpectedScans(size=(size, size) if isinstance(size, int) else None, intensity=PHOTOGRAPHS),
            adapted={how: [f"net.{name}" for name in names] for how, names in adapted.items()},
            left_out=left_out,
            mean=tuple(scale.get("image_mean", IMAGENET_MEAN)),
            std=tuple(scale.get("image_std", IMAGENET_STD)),
            notes=[]
            if scale
            else ["no preprocessor_config.json beside the file: mean and deviation are those of ImageNet"],
        )


def _like(tensors: Tensors, about: dict[str, Any]) -> Encoder:
    """timm's model of the same width, depth, heads, patch, registers and size."""
    width = tensors["embeddings.cls_token"].shape[2]
    patch = tensors["embeddings.patch_embeddings.projection.weight"]
    depth = len({match[1] for name in tensors if (match := re.match(r"encoder\.layer\.(\d+)\.", name))})
    grid = round((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    heads = about.get("num_attention_heads") or width // 64
    registers = "_reg4" if "embeddings.register_tokens" in tensors else ""
    options: dict[str, Any] = {"img_size": grid * patch.shape[2]}
    if (
        width not in WIDTHS
        or patch.shape[2] != 14
        or depth != {1024: 24, 1536: 40}.get(width, 12)
        or heads != width // 64
    ):
        options |= {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch.shape[2]}
    name = f"vit_{WIDTHS.get(width, 'small')}_patch14{registers}_dinov2"
    return Timm(2, patch.shape[1], name, options)


def _with_timms_names(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """The tensors by timm's names, and the names of those that were joined."""
    renamed: Tensors = {}
    for name, value in tensors.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    joined = []
    for name in list(renamed):
        if match := JOINED.fullmatch(name):
            parts = [
                renamed.pop(f"{match[1]}.attention.attention.{part}.{match[2]}") for part in ("query", "key", "value")
            ]
            joined.append(f"{match[1]}.attn.qkv.{match[2]}")
            renamed[joined[-1]] = torch.cat(parts)
    return renamed, joined
