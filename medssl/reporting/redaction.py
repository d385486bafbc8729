"""Messages without paths: a record may hold what a user typed, and a page may be shown to others."""

from __future__ import annotations

import re

PATH = re.compile(r"(?<![\w.])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\]+[^\s/\\\"',;:]+){2,}[/\\]*")


def without_paths(text: str) -> str:
    """Return the text with `[path]` in place of everything that looks like a path.

    >>> without_paths("cannot write /home/ann/scans/x.nii: disk is full, 3/4 done")
    'cannot write [path]: disk is full, 3/4 done'
    """
    return PATH.sub("[path]", text)
