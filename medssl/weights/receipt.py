"""What came of a file of weights: which tensors of the encoder were loaded, adapted or left random, and which of the file left out.

    print("\\n".join(receipt.lines()))
    receipt.share                                      # 0.987: share of the encoder's parameters that the file gave

Imports no torch, so that pages can show a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 3  # names of tensors in a line


@dataclass(frozen=True)
class Part:
    """Some of the tensors.

    Attributes:
        tensors: How many.
        parameters: Numbers in them, running statistics of norms included.
        names: Names of the first three.
    """

    tensors: int = 0
    parameters: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], names: Iterable[str]) -> Self:
        """The tensors of these names.

        Args:
            tensors: Tensors by name.
            names: Names among them.
        """
        chosen = list(names)
        return cls(len(chosen), sum(tensors[name].numel() for name in chosen), tuple(chosen[:SHOWN]))

    def __str__(self) -> str:
        more = ", ..." if self.tensors > len(self.names) else ""
        listed = f": {', '.join(self.names)}{more}" if self.names else ""
        return f"{self.tensors:,} tensors, {self.parameters:,} parameters{listed}"


@dataclass(frozen=True)
class Receipt:
    """The account of one import.

    Attributes:
        loaded: Tensors of the encoder that are the file's, as they are.
        adapted: How -> tensors of the encoder that were made from the file's.
        left_out: Why -> tensors of the file that the encoder has no place for.
        random: Tensors of the encoder that the file does not have.
        share: Share of the encoder's parameters that the file gave.
        notes: What else is to be known.
    """

    loaded: Part
    adapted: dict[str, Part]
    left_out: dict[str, Part]
    random: Part
    share: float
    notes: tuple[str, ...] = field(default_factory=tuple)

    def lines(self) -> list[str]:
        """The receipt as text, one line for each part."""
        rows = [("loaded", str(Part(self.loaded.tensors, self.loaded.parameters)))]
        rows += [("adapted", f"{Part(part.tensors, part.parameters)} ({how})") for how, part in self.adapted.items()]
        rows += [("left out", f"{part} ({why})") for why, part in self.left_out.items()]
        rows += [("left random", str(self.random))]
        rows += [("share", f"{100 * self.share:.1f}% of the encoder's parameters are the file's")]
        rows += [("note", note) for note in self.notes]
        return [f"{name:<12}{text}" for name, text in rows]

    def to_record(self) -> dict[str, Any]:
        """The receipt as data, for the record of the run."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The receipt in the record of a run.

        Args:
            record: What `to_record` gave, or the same read back from JSON.
        """

        def part(values: Mapping[str, Any]) -> Part:
            return Part(values["tensors"], values["parameters"], tuple(values["names"]))

        groups = ({key: part(item) for key, item in record[name].items()} for name in ("adapted", "left_out"))
        adapted, left_out = groups
        notes = tuple(record["notes"])
        return cls(part(record["loaded"]), adapted, left_out, part(record["random"]), record["share"], notes)
