"""Texts that a person would take for the same: `1` and `1.0`, `Cyst` and `cyst`, two ways to store an accent.

written_in_two_ways(["1", "1.0", "2"])        # [("1", "1.0")]

They are never taken for the same here, since only who wrote them knows; they are reported.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

DIFFERENCES = "capitals, spaces, accents, zeros of a number or characters that cannot be seen"
MISSING_WORDS = frozenset(
    {"na", "n/a", "n.a.", "#n/a", "<na>", "nan", "null", "none", "nil", "missing", "-", "--", "?", "."}
)
UNSEEN = ("Cf", "Cc")  # Unicode's categories of characters for format and control


def written_in_two_ways(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of different texts that a person would take for the same, sorted.

    Args:
        texts: The texts, in any order.

    >>> written_in_two_ways(["cyst", "Cyst", "tumour", "01", "1"])
    [('01', '1'), ('Cyst', 'cyst')]
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        groups[_as_read(text)].add(text)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _as_read(text: str) -> str:
    """The text without what a reader does not see, or does not heed."""
    seen = "".join(character for character in text if unicodedata.category(character) not in UNSEEN)
    plain = " ".join(unicodedata.normalize("NFKC", seen).casefold().split()).replace("\u2212", "-")
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"^(-?\d+)\.0+$", r"\1", plain))
