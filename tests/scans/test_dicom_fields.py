"""Fields.get gives what pydicom gives, whatever bytes an element holds."""

from __future__ import annotations

import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medssl.errors import ScanError
from medssl.scans import privacy
from medssl.scans.dicom_fields import Fields
from medssl.scans.files import in_words

KEYWORDS = ("PatientID", "ImageType", "SOPClassUID", "PixelSpacing", "NumberOfFrames", "Rows", "RescaleSlope")
AWKWARD = st.sampled_from([b"\\", b" ", b"\0", b"1.5", b"-3", b"nan", b"\x1b$B", b"\xe9", b"A", b"1e3", b"_", b"\r\n"])


def dataset_of(keyword: str, raw: bytes, little: bool, vr: bool) -> Dataset:
    tag = Tag(tag_for_keyword(keyword))
    kind = dictionary_VR(tag) if vr else None
    dataset = Dataset()
    dataset.set_original_encoding(not vr, little, "iso8859")
    dataset._dict[tag] = RawDataElement(tag, kind, len(raw), raw, 0, not vr, little)
    return dataset


def outcome(get, keyword):
    """What a reader makes of the field, numbers as numbers; or the words it refuses it with."""
    try:
        with in_words("it"):
            value = get(keyword)
            values = list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            number = dictionary_VR(tag_for_keyword(keyword)) in ("DS", "IS")
            return str([float(x) if number and x not in (None, "") else x for x in values])
    except ScanError as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(KEYWORDS), st.lists(AWKWARD, max_size=5).map(b"".join), st.booleans(), st.booleans())
def test_any_bytes_read_as_pydicom_reads_them(keyword, raw, little, vr):
    ours, theirs = (dataset_of(keyword, raw, little, vr) for _ in range(2))
    assert outcome(Fields(ours).get, keyword) == outcome(theirs.get, keyword)


def test_real_headers_read_as_pydicom_reads_them(shared):
    compared = 0
    for path in [p for name in ("dicom_series", "dicom_oracle") for p in shared(name).rglob("*") if p.is_file()]:
        try:
            first, second = (pydicom.dcmread(path, stop_before_pixels=True) for _ in range(2))
        except pydicom.errors.InvalidDicomError:
            continue
        for keyword in privacy.HEADER_FIELDS:
            assert Fields(first).get(keyword) == second.get(keyword), keyword
            assert (keyword in Fields(first)) == (keyword in second)
            compared += 1
    assert compared > 3000
