"""How a setting of a record is written: as text without paths, cut where it is long.

value_text([1, 2])        # "[1, 2]"
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from medssl.reporting.redaction import without_paths

LONGEST_TEXT = 200  # characters of a value


def value_text(value: Any) -> str:
    """Return a setting as text; a long one is cut, with a digest by which two can be compared."""
    text = without_paths(value if isinstance(value, str) else json.dumps(value))
    if len(text) < LONGEST_TEXT:
        return text
    return f"{text[:80]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
