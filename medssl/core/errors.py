"""Errors that a user can act on: one sentence with the value received, what was expected and what to do.

    raise MedsslError("spacing_mm is (1.0, 0.0, 1.0): expected three positive numbers; pass --spacing-mm 1 1 1")

Messages hold numbers, DICOM tags and pseudonyms. They never hold a path, a name or text from a header, unless the user
typed that text in this very command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class MedsslError(Exception):
    """A problem that the user can fix; the command line prints the message without a traceback and exits with 2."""


class Stopped(MedsslError):
    """The user or a signal stopped the work; its state is saved, and the command line exits with 130."""


class DiskFull(MedsslError):
    """There is no room to write a result, so every further write would fail too."""


class Diverged(MedsslError):
    """A loss is no longer a finite number, so the training cannot go on with these settings."""


class ScanError(MedsslError):
    """One scan cannot be read or trusted; it is left out and reported, and the work goes on with the others."""


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: the names most like it, then all of them.

    Args:
        word: The unknown name.
        known: The names that exist.
        prefix: Written before each name, such as "--".

    >>> nearest("SimCRL", ["SimCLR", "MAE"])
    '; did you mean SimCLR? known: MAE, SimCLR'
    """
    names = sorted(set(known))
    by_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=3, cutoff=0.5)
    suggestion = " or ".join(prefix + by_lower_case[name] for name in close)
    question = f"; did you mean {suggestion}?" if close else ";"
    return f"{question} known: {', '.join(prefix + name for name in names)}"


def visible(text: str) -> str:
    r"""A text for a terminal: characters that would move its cursor, colour it or turn the line around are spelled out.

    >>> visible("an arm called \x1b[2J")
    'an arm called \\x1b[2J'
    """
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)
