"""Numbers and words taken from a header's bytes are those that pydicom makes of them."""

from __future__ import annotations

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from medssl.scans import privacy
from medssl.scans.dicom.header import numbers, words

KINDS = {vr: read for vrs, read in ((("DS", "IS", "US"), numbers), (("CS", "UI"), words)) for vr in vrs}


def test_real_headers_read_as_pydicom_reads_them(shared):
    compared = 0
    for path in [p for name in ("dicom_series", "dicom_oracle") for p in shared(name).rglob("*") if p.is_file()]:
        try:
            first, second = (pydicom.dcmread(path, stop_before_pixels=True) for _ in range(2))
        except pydicom.errors.InvalidDicomError:
            continue
        for keyword in privacy.HEADER_FIELDS:
            tag = tag_for_keyword(keyword)  # none for a private element
            read = KINDS.get(dictionary_VR(tag)) if tag else None
            if read is not None:
                assert read(first, keyword) == pydicoms(second.get(keyword), read is numbers), keyword
                compared += 1
    assert compared > 3000


def pydicoms(value, as_numbers: bool) -> tuple:
    values = list(value) if isinstance(value, MultiValue) else [value]
    return tuple(float(v) if as_numbers else str(v).upper() for v in values if v not in (None, ""))
