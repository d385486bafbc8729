"""A DICOM header's short fields, decoded straight from their bytes: half the cost of making pydicom elements.

Whatever is not plain (another character set, several texts, a sequence, a number that is none) is left to pydicom, so
`Fields(dataset).get(keyword)` gives what `dataset.get(keyword)` gives.

    fields = Fields(pydicom.dcmread("0001.dcm", stop_before_pixels=True))
    fields.get("PixelSpacing")               # [0.7, 0.7]
"""

from __future__ import annotations

import functools
import re
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

TEXTS = {"CS", "LO", "SH", "UI"}
NUMBERS = {"DS": float, "IS": int}
PLAIN = re.compile(rb"[!-~]([ -~]*[!-~])?")  # ASCII that begins and ends with a letter, a figure or a sign


class Fields:
    """A pydicom Dataset with a faster `get` by keyword; all else is the dataset's own."""

    __slots__ = ("_dataset",)

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of a field as `Dataset.get` gives it: str, int, float, a list of them, or `default`."""
        tag, vr = _known(keyword)
        if tag not in self._dataset:
            return default
        raw = self._dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value and raw.VR in (None, vr):
            value = _plain(raw.value, vr, raw.is_little_endian)
            if value is not None:
                return value
        return self._dataset.get(keyword, default)

    def __contains__(self, keyword: str) -> bool:
        return _known(keyword)[0] in self._dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


@functools.cache
def _known(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)


def _plain(raw: bytes, vr: str, little: bool) -> Any:
    """The value of bytes that leave no doubt, None for all others."""
    if vr == "US" and len(raw) == 2:
        return int.from_bytes(raw, "little" if little else "big")
    words = raw.rstrip(b"\0 ").split(b"\\")
    if any(not PLAIN.fullmatch(word) for word in words):
        return None
    if vr in NUMBERS:
        return _numbers(words, NUMBERS[vr])
    if vr not in TEXTS or (vr != "CS" and len(words) > 1):
        return None
    texts = [word.decode("ascii") for word in words]
    return texts if len(texts) > 1 else texts[0]


def _numbers(words: list[bytes], number: type) -> Any:
    try:
        values = [number(word) for word in words]
    except ValueError:
        return None
    return values if len(values) > 1 else values[0]
