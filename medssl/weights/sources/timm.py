"""Any 2D model of timm, and files of others that hold such a model's tensors in timm's order (Apache-2.0, code).

    medssl import model.safetensors --as timm --encoder Timm --encoder.name convnext_tiny --out runs/convnext
    medssl import efficientnet-lite0-57934424.pth --as timm --encoder Timm --encoder.name tf_efficientnet_lite0 \\
        --mean 0.498 --std 0.502 --out runs/lite0

Size, mean, deviation and licence are those of the model's configuration in timm, or of the `config.json` beside the file, which also
names the model. A file with other names is taken in its order only where every tensor, the classifier's too, has the shape and the
kind (weight, bias, running mean) of timm's.
"""

from __future__ import annotations

import re
from typing import Any

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.timm_model import Timm as TimmEncoder
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.adapt import resampled
from medssl.weights.reading import Stored
from medssl.weights.sources.base import (
    PHOTOGRAPHS,
    Converted,
    Source,
    Tensors,
    named,
    take_out,
    with_in_channels,
    without_prefix,
)

EXAMPLE = "--encoder Timm --encoder.name convnext_tiny"
IN_ORDER = "names of another library, matched to timm's in the order of the file"
RESAMPLED = "positions resampled to another grid of patches"


class Timm(Source):
    """A model of timm by its own names, or in its own order."""

    licence = "as the model's card on the hub says"
    typical = (r"^(blocks|stages|features|layers)\.\d+", r"^(patch_embed|stem|conv_stem|stem_0)\.?")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        if encoder is None and (name := stored.about.get("architecture")):
            encoder = TimmEncoder(name=str(name))
        asked: Any = named(encoder, "Timm", EXAMPLE)
        tensors = without_prefix(stored.tensors(self.payloads), ("module.", "_orig_mod.", "model."))
        return converted_for(asked, tensors, stored.about)


def converted_for(encoder: Any, tensors: Tensors, about: dict[str, Any] | None = None) -> Converted:
    """Tensors of timm's model as our encoder takes them.

    Args:
        encoder: The encoder `Timm` of the model's name.
        tensors: The file's tensors, without prefix.
        about: The `config.json` beside the file.

    Raises:
        MedsslError: They are those of another model.
    """
    configuration = dict(encoder.net.pretrained_cfg) | dict((about or {}).get("pretrained_cfg", {}))
    adapted: dict[str, list[str]] = {}
    own = encoder.net.state_dict()
    if len(tensors.keys() & own.keys()) < len(own) / 2:
        tensors = _in_order(encoder, tensors)
        adapted[IN_ORDER] = list(tensors)
    first = f"{configuration.get('first_conv')}.weight"
    if first in tensors:
        encoder = with_in_channels(encoder, tensors[first].shape[1])
    tensors, left_out = take_out(tensors, {"classifier": _classifier(configuration)})
    fitted = _with_positions(encoder, tensors)
    adapted |= {RESAMPLED: [name for name in fitted if fitted[name] is not tensors[name]]}
    size = configuration.get("input_size")
    return Converted(
        encoder,
        {f"net.{name}": value for name, value in fitted.items()},
        ExpectedScans(size=tuple(size[1:]) if size else None, intensity=PHOTOGRAPHS),
        adapted={how: [f"net.{name}" for name in names] for how, names in adapted.items() if names},
        left_out=left_out,
        mean=tuple(configuration.get("mean", (0.0,))),
        std=tuple(configuration.get("std", (1.0,))),
        licence=str(configuration.get("license") or ""),
    )


def _in_order(encoder: Any, tensors: Tensors) -> Tensors:
    """The tensors with timm's names, where each has the shape and the kind of timm's at its place; MedsslError elsewhere."""
    import timm

    whole = timm.create_model(encoder.name, pretrained=False).state_dict()
    first = ", ".join(list(tensors)[:5])
    if len(whole) != len(tensors):
        raise MedsslError(
            f"the file has {len(tensors)} tensors, {first}, ...; timm's {encoder.name} has {len(whole)}, {', '.join(list(whole)[:5])}, "
            "...: expected the same names, or all tensors in the same order; name the file's own model with --encoder.name"
        )
    pairs = list(zip(whole.items(), tensors.items()))
    for (name, wanted), (other, value) in pairs:
        if wanted.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise MedsslError(
                f"{other} of the file has the shape {tuple(value.shape)} where timm's {encoder.name} has {name} of "
                f"{tuple(wanted.shape)}: expected the same names, or the same order; name the file's own model with --encoder.name"
            )
    return {name: value for (name, _), (_, value) in pairs}


def _classifier(configuration: dict[str, Any]) -> str:
    names = configuration.get("classifier") or "head.fc"
    return "^(" + "|".join(re.escape(name) for name in ([names] if isinstance(names, str) else names)) + r")\."


def _with_positions(encoder: Any, tensors: Tensors) -> Tensors:
    """The tensors with learned positions for the encoder's own grid of patches."""
    wanted = encoder.net.state_dict().get("pos_embed")
    given = tensors.get("pos_embed")
    if wanted is None or given is None or wanted.shape == given.shape or given.ndim != 3:
        return tensors
    prefix = 0 if getattr(encoder.net, "no_embed_class", False) else getattr(encoder.net, "num_prefix_tokens", 1)
    edge = round((given.shape[1] - prefix) ** 0.5)
    grid = encoder.net.patch_embed.grid_size
    return tensors | {"pos_embed": resampled(given, (edge, edge), grid, prefix)}
