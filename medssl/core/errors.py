"""What medssl says when it cannot go on: one sentence with what came in, what was expected, what to do.

    raise MedsslError("spacing_mm is (1.0, 0.0, 1.0): expected three positive numbers; pass --spacing-mm 1 1 1")

Messages carry numbers, tags and pseudonyms. They never carry a path, a name or any text from a header,
unless the user typed that text in this very command.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedsslError(Exception):
    """A problem the user can mend; the command line prints it without a traceback and exits with 2."""


class Stopped(MedsslError):
    """Work stopped by hand or by a signal, with nothing lost; the command line exits with 130."""


class DiskFull(MedsslError):
    """No room to write a result; whatever else is tried would fail too."""


class ScanError(MedsslError):
    """One scan that cannot be read or trusted: it is left out and reported, the others go on."""


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """'; did you mean A or B? known: A, B, C' for an unknown word, to end an error message with; each with the prefix."""
    names = sorted(set(known))
    lower = {name.lower(): name for name in names}
    close = [lower[hit] for hit in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.5)]
    guess = f"; did you mean {' or '.join(prefix + hit for hit in close)}?" if close else ";"
    return f"{guess} known: {', '.join(prefix + name for name in names)}"
