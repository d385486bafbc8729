"""Text in CSV files that a spreadsheet would run: it gets an apostrophe in front, which spreadsheets take for `this is text`.

as_text("=1+1")        # "'=1+1"
"""

from __future__ import annotations

import re

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how it begins
NUMBER = re.compile(r"[+-][\d.,]+( \[[^\]]*\])?")  # which begins so too: +0.031 [0.010, 0.052]


def as_text(value: object) -> object:
    """Return a value of a table as a spreadsheet may read it; one that is no text as it is.

    >>> as_text("=1+1"), as_text("+0.031 [0.010, 0.052]"), as_text(3)
    ("'=1+1", '+0.031 [0.010, 0.052]', 3)
    """
    risky = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if risky else value
