"""One DICOM file -> its slices: the header fields that geometry needs, and the decoded pixels.

A classic file holds one slice, an enhanced multi-frame file one a frame; from here on they are the same
thing.

    slices = read_slices("series/0001.dcm")            # headers only
    pixels = read_pixels("series/0001.dcm")            # (frames, rows, columns, samples), values as stored
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID

from medssl.errors import ScanError
from medssl.scans import privacy
from medssl.scans.dicom_fields import Fields
from medssl.scans.files import in_words

TAGS = {
    "PixelSpacing": "0028,0030",
    "ImagerPixelSpacing": "0018,1164",
    "ImagePositionPatient": "0020,0032",
    "ImageOrientationPatient": "0020,0037",
    "RescaleSlope": "0028,1053",
    "RescaleIntercept": "0028,1052",
}
ENHANCED = {  # where an enhanced multi-frame file keeps each field
    "PixelSpacing": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
CODECS = {  # transfer syntax -> the package that decodes it
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
HEADER_TAGS = [tag_for_keyword(keyword) or 0 for keyword in privacy.HEADER_FIELDS]
OTHER_CODEC = "pylibjpeg-libjpeg"  # JPEG, JPEG lossless, JPEG-LS
DISPLAY_ONLY = {"PT", "NM"}  # counts a millilitre: MONOCHROME1 there says how to show them, not what they are


@dataclass(frozen=True, slots=True)
class Slice:
    """One image plane: where it is, how its numbers are to be read. mm in DICOM's LPS world.

    spacing_mm: (between rows, between columns). problem: why its series cannot be used, None when all is
    well.
    """

    file: str
    frame: int
    series: str
    patient: str
    modality: str
    manufacturer: str | None
    site: str | None
    size: tuple[int, int]
    samples: int
    frames_in_file: int
    enhanced: bool
    localizer: bool
    mosaic: bool
    burned_in: bool
    burned_in_risk: str | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    slope: float
    intercept: float
    problem: str | None = None


def read_slices(file: str) -> list[Slice]:
    """The slices of one file, from its header alone.

    Raises ScanError for a file that is not DICOM, or holds no image.
    """
    with in_words("the DICOM header"):
        dataset = Fields(_read(file, stop_before_pixels=True, specific_tags=HEADER_TAGS))
        if "Rows" not in dataset or "Columns" not in dataset:
            raise ScanError(
                "the DICOM object holds no image (Rows, 0028,0010, is missing): a report, a plan or a "
                "presentation "
                "state is left out"
            )
        if dataset.get("SOPClassUID") == "1.2.840.10008.5.1.4.1.1.66.4":
            raise ScanError("DICOM SEG is not read yet: give masks as NIfTI, NRRD or PNG with --mask")
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        if groups:
            return [_slice(file, dataset, frame, group) for frame, group in enumerate(groups)]
        return [_slice(file, dataset, 0, None)]


def read_pixels(file: str) -> tuple[np.ndarray, bool]:
    """(frames, rows, columns, samples) as stored, MONOCHROME1 inverted; True with it when it was.

    Raises ScanError for pixel data that is missing, truncated, damaged, or in a syntax no installed codec
    reads.
    """
    with in_words("the DICOM file"):
        dataset = _read(file)
        _check_codec(dataset)
        _check_length(dataset)
        with in_words("pixel data (7FE0,0010)"):
            pixels = pixel_array(dataset)
        frames = int(dataset.get("NumberOfFrames") or 1)
        shape = (frames, dataset.Rows, dataset.Columns, int(dataset.get("SamplesPerPixel") or 1))
        if pixels.size != np.prod(shape):
            raise ScanError(
                f"{pixels.size} pixels were decoded: expected {np.prod(shape)} by the header; fetch the file again"
            )
        return _upright(pixels.reshape(shape), dataset)


def _read(file: str, **options) -> Dataset:
    if not _plausible(file):
        raise ScanError("this is not a DICOM file (no DICM at byte 128), whatever its name says: leave it out")
    return pydicom.dcmread(file, force=True, **options)


def _plausible(file: str) -> bool:
    """DICM at byte 128, or (old files without a preamble) a group 0002 or 0008 element at byte 0."""
    with open(file, "rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:4] in {
        b"\x08\0\x05\0",
        b"\x08\0\x08\0",
        b"\x08\0\0\0",
        b"\x02\0\0\0",
    }


def _slice(file: str, dataset: Fields, frame: int, group: Dataset | None) -> Slice:
    kinds = {str(word).upper() for word in _many(dataset.get("ImageType"))}
    modality = privacy.known_modality(dataset.get("Modality"))
    numbers, problem = _numbers(dataset, group)
    problem = problem or _lookup_table(dataset)
    return Slice(
        file=file,
        frame=frame,
        series=_shared(str(dataset.get("SeriesInstanceUID") or "")),
        patient=_shared(str(dataset.get("PatientID") or "").strip()),
        modality=modality,
        manufacturer=privacy.known_manufacturer(dataset.get("Manufacturer")),
        site=_shared(str(dataset.get("InstitutionName") or "").strip()) or None,
        size=_shared((int(dataset.get("Rows")), int(dataset.get("Columns")))),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        frames_in_file=int(dataset.get("NumberOfFrames") or 1),
        enhanced=group is not None,
        localizer="LOCALIZER" in kinds,
        mosaic="MOSAIC" in kinds,
        burned_in=str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
        burned_in_risk=privacy.burned_in_risk(
            str(dataset.get("BurnedInAnnotation") or ""), str(dataset.get("SOPClassUID") or ""), modality, kinds
        ),
        position=numbers.get("ImagePositionPatient"),
        orientation=_shared(numbers.get("ImageOrientationPatient")),
        spacing_mm=_shared(numbers.get("PixelSpacing") or numbers.get("ImagerPixelSpacing")),
        slope=numbers.get("RescaleSlope", (1.0,))[0],
        intercept=numbers.get("RescaleIntercept", (0.0,))[0],
        problem=problem,
    )


@functools.lru_cache(1024)
def _shared(value: Any) -> Any:
    """The first object seen that equals this one: the slices of a series hold its texts and numbers once."""
    return value


def _lookup_table(dataset: Fields) -> str | None:
    """Pixels that mean nothing without a table we do not read."""
    if "ModalityLUTSequence" in dataset:
        return "a modality lookup table (0028,3000) is not read yet: convert the scan to NIfTI or PNG first"
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return "a colour palette (0028,0004) is not read: convert the image to RGB first"
    return None


def _numbers(dataset: Fields, group: Dataset | None) -> tuple[dict[str, tuple[float, ...]], str | None]:
    """The header's numbers by keyword, and the first thing that is wrong with them."""
    counts = {
        "PixelSpacing": 2,
        "ImagerPixelSpacing": 2,
        "ImagePositionPatient": 3,
        "ImageOrientationPatient": 6,
    }
    numbers, problem = {}, None
    for keyword, tag in TAGS.items():
        try:
            values = _floats(_field(dataset, group, keyword))
            if values:
                _check_numbers(keyword, tag, values, counts.get(keyword, 1))
                numbers[keyword] = values
        except ScanError as error:
            problem = problem or str(error)
        except (TypeError, ValueError):
            problem = problem or f"{keyword} ({tag}) does not hold numbers: expected decimals; fix the header"
    return numbers, problem


def _check_numbers(keyword: str, tag: str, values: tuple[float, ...], count: int) -> None:
    if len(values) != count:
        raise ScanError(f"{keyword} ({tag}) holds {len(values)} numbers: expected {count}; fix the header")
    if not all(map(math.isfinite, values)):
        raise ScanError(f"{keyword} ({tag}) is {_shown(values)}: expected finite numbers; fix the header")
    if "Spacing" in keyword and min(values) <= 0:
        raise ScanError(f"{keyword} ({tag}) is {_shown(values)}: expected positive mm; fix the header")
    if keyword == "RescaleSlope" and values[0] == 0:
        raise ScanError(f"{keyword} ({tag}) is 0: expected a number that keeps the image; fix the header")


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _field(dataset: Fields, group: Dataset | None, keyword: str):
    """A field of a classic header, or of one frame of an enhanced one (its own group first, then the shared
    one)."""
    if group is None:
        return dataset.get(keyword)
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for place in (group, shared[0]):
        items = place.get(ENHANCED.get(keyword, keyword))
        if items and keyword in ENHANCED and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return None


def _floats(value) -> tuple[float, ...]:
    return tuple(float(number) for number in _many(value))


def _many(value) -> list:
    """A header value as a list: a lone number or word counts as one, nothing as none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]


def _check_codec(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        raise ScanError("pixel data (7FE0,0010) is missing: the file is cut short or a header alone; fetch it again")
    syntax = _syntax(dataset)
    if not syntax.is_encapsulated:
        return
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError:
        raise ScanError(f"transfer syntax {syntax} is not an image that can be read (video?): leave it out") from None
    if not ready:
        package = CODECS.get(syntax, OTHER_CODEC)
        raise ScanError(f"no decoder for transfer syntax {syntax} is installed: pip install {package}")


def _syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    syntax = UID((meta.get("TransferSyntaxUID") if meta else None) or "1.2.840.10008.1.2")
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ScanError("the transfer syntax (0002,0010) is none of the standard ones: convert the file first")
    return syntax


def _check_length(dataset: Dataset) -> None:
    if _syntax(dataset).is_encapsulated:
        return
    samples = int(dataset.get("NumberOfFrames") or 1) * dataset.Rows * dataset.Columns
    samples *= int(dataset.get("SamplesPerPixel") or 1)
    expected = samples * int(dataset.get("BitsAllocated") or 0) // 8
    if dataset.get("PhotometricInterpretation") != "YBR_FULL_422" and len(dataset.PixelData) < expected:
        raise ScanError(
            f"pixel data (7FE0,0010) is truncated: {len(dataset.PixelData)} bytes, expected {expected}; "
            "fetch the file again"
        )


def _upright(pixels: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, bool]:
    """Bright is dense: MONOCHROME1 turned round within the range its bits can hold."""
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return pixels, False
    if privacy.known_modality(dataset.get("Modality")) in DISPLAY_ONLY:
        return pixels, False
    signed = int(dataset.get("PixelRepresentation") or 0)
    top = -1 if signed else 2 ** int(dataset.get("BitsStored") or dataset.BitsAllocated) - 1
    return (top - pixels.astype(np.int32)).astype(pixels.dtype if pixels.dtype.kind == "u" else np.int32), True
