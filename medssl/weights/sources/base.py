"""The contract of a layout of public weights: whether a file has it, and which tensor of an encoder each of its tensors is.

    class Mine(Source):
        licence = "Apache-2.0"
        typical = (r"^backbone\\.stem\\.",)
        def convert(self, stored, encoder): ...

The class is one file in this folder, and `--as` has the file's name. What several layouts need is here too: dropping prefixes, and
taking tensors apart by their names.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.core.spec import describe, rebuild
from medssl.encoders import Encoder
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import PAYLOADS, Stored

Tensors = dict[str, Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPHS = "photographs on the scale 0..1, minus the mean, divided by the deviation of each channel"


@dataclass
class Converted:
    """A file of weights, as an encoder takes it.

    Attributes:
        encoder: The architecture of the file, with the channels that the file was trained with.
        tensors: The tensors by the encoder's names.
        expects: The scans that the weights were trained on.
        adapted: How -> names of tensors that are not the file's as they were.
        left_out: Why -> tensors of the file that the encoder has no place for.
        mean: Mean that the weights expect to be subtracted from each channel, on the scale 0..1.
        std: Deviation by which they expect it to be divided.
        axes: Directions of the file's array axes, where its kernels were not turned to ours.
        licence: The licence, where the file or its model says another than the layout.
        notes: What else the receipt has to say.
    """

    encoder: Encoder
    tensors: Tensors
    expects: ExpectedScans = field(default_factory=ExpectedScans)
    adapted: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, Tensors] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    axes: str = "RAS"
    licence: str = ""
    notes: list[str] = field(default_factory=list)


class Source(ABC):
    """One layout of public weights."""

    licence: ClassVar[str] = "not stated in the file: see where you have it from"
    forbids_derivatives: ClassVar[bool] = False  # whether the licence does: fine-tuned weights must then not be shared
    payloads: ClassVar[tuple[str, ...]] = PAYLOADS  # names in the file that its tensors may lie below
    typical: ClassVar[tuple[str, ...]] = ()  # patterns, each of which fits some name in a file of this layout

    @abstractmethod
    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        """The file as an encoder takes it.

        Args:
            stored: The content of the file.
            encoder: The architecture that the user names; where the layout says which one it is, it may be None.

        Raises:
            MedsslError: The file has another layout, or the encoder is another one.
        """

    @classmethod
    def signs(cls, names: Iterable[str]) -> int:
        """How many of the patterns that are typical of the layout fit a name in the file."""
        listed = list(names)
        return sum(any(re.search(pattern, name) for name in listed) for pattern in cls.typical)


def without_prefix(tensors: Tensors, prefixes: Sequence[str]) -> Tensors:
    """The tensors without prefixes that all names have, such as "module.", one after the other.

    Args:
        tensors: Tensors by name.
        prefixes: Prefixes, each of which is removed where every name has it.
    """
    for prefix in prefixes:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def take_out(tensors: Tensors, reasons: Mapping[str, str]) -> tuple[Tensors, dict[str, Tensors]]:
    """The tensors that stay, and those that the encoder has no place for.

    Args:
        tensors: Tensors by name.
        reasons: Why -> pattern of the names that are left out for this reason.
    """
    stay, left_out = dict(tensors), dict[str, Tensors]()
    for why, pattern in reasons.items():
        names = [name for name in stay if re.search(pattern, name)]
        if names:
            left_out[why] = {name: stay.pop(name) for name in names}
    return stay, left_out


def parts_of(tensors: Tensors, pattern: re.Pattern[str], others: str) -> tuple[Tensors, dict[str, Tensors]]:
    """The tensors of one part of a network without the prefix that they have in a file, and all others.

    Args:
        tensors: Tensors by name.
        pattern: Fits the whole name of a tensor of that part; its groups are `prefix` and `name`.
        others: What the others are called in the receipt.

    Raises:
        MedsslError: The part is there under several prefixes, such as a student's and a teacher's.
    """
    matches = {name: match for name in tensors if (match := pattern.fullmatch(name))}
    prefixes = sorted({match["prefix"] for match in matches.values()})
    chosen = [prefix for prefix in prefixes if "student" in prefix] if len(prefixes) > 1 else prefixes
    if len(prefixes) > 1 and len(chosen) != 1:
        raise MedsslError(
            f"the file holds several networks, under {', '.join(prefixes)}: expected one; save the one that you want with "
            "torch.save and import that file"
        )
    inside = {match["name"]: tensors[name] for name, match in matches.items() if match["prefix"] in chosen}
    rest = {
        name: value for name, value in tensors.items() if name not in matches or matches[name]["prefix"] not in chosen
    }
    return inside, {others: rest} if rest else {}


def with_in_channels(encoder: Encoder, channels: int) -> Encoder:
    """A new encoder of the same architecture for another number of channels.

    Args:
        encoder: The encoder; its class takes `in_channels`.
        channels: Channels of a scan.
    """
    spec: dict[str, Any] = describe(encoder)
    spec["init_args"]["in_channels"] = channels
    return rebuild(spec, type(encoder), external=encoder)


def named(encoder: Encoder | None, kind: str, example: str) -> Encoder:
    """The encoder that the user named. Raises MedsslError where there is none, or one of another kind.

    Args:
        encoder: What `--encoder` gave.
        kind: Name of the class that the layout needs.
        example: The option as it is typed.
    """
    if encoder is None or type(encoder).__name__ != kind:
        given = "none" if encoder is None else type(encoder).__name__
        raise MedsslError(f"the encoder is {given}: such a file does not say its architecture; name it, as {example}")
    return encoder
