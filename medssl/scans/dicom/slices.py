"""One DICOM file -> its slices: the header fields that geometry needs, and the decoded pixels.

A classic file holds one slice, an enhanced multi-frame file or a cine one per frame, a Siemens mosaic one per tile;
from here on they are the same thing. Gaps and uneven spacing between slices are judged in `stack.py`.

    slices = read_slices("series/0001.dcm")            # headers only
    pixels = read_pixels("series/0001.dcm")            # (frames, rows, columns, samples), values as stored
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medssl.core.errors import ScanError
from medssl.scans import privacy
from medssl.scans.dicom.header import check_claim, claimed_bytes, number, numbers, open_header, syntax_of, word, words
from medssl.scans.dicom.mosaic import read_tiles, split_tiles, tile_positions
from medssl.scans.modality import MODALITIES, known_modality
from medssl.scans.paths import readable_errors

GEOMETRY = {  # keyword -> its tag, how many numbers it holds
    "PixelSpacing": ("0028,0030", 2),
    "ImagerPixelSpacing": ("0018,1164", 2),
    "ImagePositionPatient": ("0020,0032", 3),
    "ImageOrientationPatient": ("0020,0037", 6),
    "RescaleSlope": ("0028,1053", 1),
    "RescaleIntercept": ("0028,1052", 1),
}
ENHANCED = {  # where an enhanced multi-frame file keeps each field
    "PixelSpacing": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "DimensionIndexValues": "FrameContentSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
}
COMPONENTS = frozenset(["M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE_MAP", "REAL", "IMAGINARY", "FIELD_MAP"])
HEADER_TAGS = [Tag(field) for field in privacy.HEADER_FIELDS]
PIXEL_TAGS = HEADER_TAGS + [Tag(field) for field in privacy.PIXEL_FIELDS]
GE_RAW_TYPE = Tag(0x0043, 0x102F)  # 0 to 3: magnitude, phase, real, imaginary
UIH_TILES = Tag(0x0065, 0x1050)
CODECS = {  # transfer syntax -> the package that decodes it
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
OTHER_CODEC = "pylibjpeg-libjpeg"  # JPEG, JPEG lossless, JPEG-LS
RESCALE = ("RescaleSlope", "RescaleIntercept")
GREY = {"MONOCHROME1", "MONOCHROME2"}
ENCODING = ("PhotometricInterpretation", "BitsAllocated", "PixelRepresentation")
UNPACKED = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
MASK_REASON = "a DICOM SEG is a mask and is not read as a scan: expected an image; name the mask with --mask"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
NOT_A_SCAN = {  # SOP class -> why it is none
    SEGMENTATION: MASK_REASON,
    LABEL_MAP: MASK_REASON,
    RTSTRUCT: "an RTSTRUCT holds contours, no voxels, and is not read: convert it to DICOM SEG "
    "or NIfTI and give that with --mask",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "a whole-slide image holds tiles, no scan: cut it into PNG or TIFF images first",
    "1.2.840.10008.5.1.4.1.1.6.2": "an ultrasound volume of its own coordinates is not read: convert it to NIfTI first",
}


@dataclass(frozen=True, slots=True)
class Slice:
    """One image plane: where it is, when and what it shows, how its numbers are to be read. mm in DICOM's LPS world.

    Attributes:
        meaning: Study, frame of reference and units: slices that differ in them belong to different volumes.
        spacing_mm: Between rows, between columns.
        number: SeriesNumber.
        order: Sort key of the frames at one slice position, see frames.py.
        time: Temporal position and b-value, the same in all slices of one time point.
        component: Words for magnitude, phase and the like.
        echo_ms: Echo time.
        image_type: What ImageType says beyond its first two words.
        rescaled: Which of RescaleSlope and RescaleIntercept stand in the header.
        rescale_type: What the rescaled numbers are, such as HU; "" where the header does not say it.
        encoding: How pixels are stored: PhotometricInterpretation, BitsAllocated, PixelRepresentation.
        problem: Why the series cannot be used, or None.
    """

    file: str
    frame: int
    series: str
    meaning: tuple[str, ...]
    number: float
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
    rescaled: tuple[str, ...]
    rescale_type: str
    encoding: tuple[str, ...]
    order: tuple[Any, ...]
    time: tuple[float, ...]
    component: frozenset[str]
    echo_ms: float
    image_type: tuple[str, ...]
    problem: str | None = None


def read_slices(file: str) -> list[Slice]:
    """The slices of one file, from its header alone.

    Raises:
        ScanError: The file is not DICOM, or holds no image.
    """
    with readable_errors("the DICOM header"):
        dataset = open_header(file, HEADER_TAGS)
        _check_class(dataset)
        common = _common(file, dataset)
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
        if groups[0] is not None and len(groups) != common["frames_in_file"]:
            raise ScanError(
                f"NumberOfFrames (0028,0008) is {common['frames_in_file']}, {len(groups)} frames are described: "
                "expected the same; fetch the file again"
            )
        if groups[0] is None and common["frames_in_file"] > 1 and not common["problem"]:
            groups = [None] * common["frames_in_file"]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        slices = [_slice(dataset, common, frame, group, shared) for frame, group in enumerate(groups)]
        return _tiles(file, dataset, slices[0]) if slices[0].mosaic and groups == [None] else slices


def read_pixels(file: str) -> tuple[np.ndarray, bool]:
    """(frames, rows, columns, samples) as stored, and whether they were inverted because they are MONOCHROME1.

    The tiles of a mosaic are its frames.

    Raises:
        ScanError: Pixel data are missing, truncated or damaged, or no installed codec reads them.
    """
    with readable_errors("the DICOM file"):
        dataset = open_header(file, PIXEL_TAGS, pixels=True)
        _check_codec(dataset)
        check_claim(dataset)
        _check_length(dataset)
        with readable_errors("pixel data (7FE0,0010)"):
            pixels = _unpacked_pixels(dataset)
            pixels = pixel_array(dataset) if pixels is None else pixels
        frames = int(number(dataset, "NumberOfFrames", 1))
        shape = (frames, dataset.Rows, dataset.Columns, int(number(dataset, "SamplesPerPixel", 1)))
        if pixels.size != np.prod(shape):
            raise ScanError(
                f"{pixels.size} pixels were decoded: expected {np.prod(shape)} by the header; fetch the file again"
            )
        pixels = pixels.reshape(shape)
        if frames == 1 and "MOSAIC" in words(dataset, "ImageType"):
            pixels = split_tiles(pixels[0], read_tiles(open_header(file), shape[1:3]).count)
        return _invert_monochrome1(pixels, dataset)


def _check_class(dataset: Dataset) -> None:
    reason = NOT_A_SCAN.get(word(dataset, "SOPClassUID"))
    if reason:
        raise ScanError(reason)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ScanError(
            "the DICOM object holds no image (Rows, 0028,0010, is missing): a report, a plan or a presentation state is "
            "left out"
        )


def _common(file: str, dataset: Dataset) -> dict[str, Any]:
    """What all slices of a file have in common."""
    kinds, annotated = words(dataset, "ImageType"), word(dataset, "BurnedInAnnotation")
    modality = known_modality(word(dataset, "Modality"))
    return {
        "file": file,
        "series": _interned(word(dataset, "SeriesInstanceUID")),
        "meaning": _interned(tuple(word(dataset, key) for key in ("StudyInstanceUID", "FrameOfReferenceUID", "Units"))),
        "number": _order_number(dataset, "SeriesNumber"),
        "patient": _interned(str(dataset.get("PatientID") or "").strip()),
        "modality": modality,
        "manufacturer": privacy.known_manufacturer(dataset.get("Manufacturer")),
        "site": _interned(str(dataset.get("InstitutionName") or "").strip()) or None,
        "size": _interned((int(number(dataset, "Rows", 0)), int(number(dataset, "Columns", 0)))),
        "samples": int(number(dataset, "SamplesPerPixel", 1)),
        "frames_in_file": int(number(dataset, "NumberOfFrames", 1)),
        "localizer": "LOCALIZER" in kinds,
        "mosaic": "MOSAIC" in kinds,
        "burned_in": annotated == "YES",
        "burned_in_risk": privacy.burned_in_risk(annotated, word(dataset, "SOPClassUID"), modality, kinds),
        "encoding": _interned(tuple(_stored_word(dataset, keyword) for keyword in ENCODING)),
        "problem": _pixel_problem(dataset),
    }


def _stored_word(dataset: Dataset, keyword: str) -> str:
    """The first code word or number of one element as text, "" where it is missing."""
    if keyword == "PhotometricInterpretation":
        return word(dataset, keyword)
    return next((f"{value:g}" for value in numbers(dataset, keyword)), "")


@functools.lru_cache(1024)
def _interned(value: Any) -> Any:
    """The first object seen that equals this one: the slices of a series hold its texts and numbers once."""
    return value


def _slice(dataset: Dataset, common: dict[str, Any], frame: int, group: Dataset | None, shared: Dataset) -> Slice:
    geometry, problem = _geometry(dataset, group, shared)
    return Slice(
        **{**common, "problem": common["problem"] or problem},
        frame=frame,
        enhanced=group is not None,
        position=geometry.get("ImagePositionPatient"),
        orientation=_interned(geometry.get("ImageOrientationPatient")),
        spacing_mm=_interned(geometry.get("PixelSpacing") or geometry.get("ImagerPixelSpacing")),
        slope=geometry.get("RescaleSlope", (1.0,))[0],
        intercept=geometry.get("RescaleIntercept", (0.0,))[0],
        rescaled=_interned(tuple(name for name in RESCALE if name in geometry)),
        rescale_type=_interned(
            word(dataset if group is None else _functional_group(group, shared, "RescaleType"), "RescaleType")
        ),
        **(_kind(dataset, frame) if group is None else _enhanced_kind(dataset, frame, group, shared)),
    )


def _kind(dataset: Dataset, frame: int) -> dict[str, Any]:
    """When and what a classic slice shows."""
    kinds = words(dataset, "ImageType")
    temporal = _order_number(dataset, "TemporalPositionIdentifier")
    before = temporal, _order_number(dataset, "AcquisitionNumber"), _order_number(dataset, "TriggerTime")
    after = _order_number(dataset, "InstanceNumber"), _order_number(dataset, "AcquisitionTime"), float(frame)
    return {
        "order": (*before, (), *after),
        "time": (temporal, _order_number(dataset, "DiffusionBValue")),
        "component": (COMPONENTS & set(kinds)) | _ge_component(dataset),
        "echo_ms": round(_order_number(dataset, "EchoTime"), 1),
        "image_type": kinds[2:],
    }


def _enhanced_kind(dataset: Dataset, frame: int, group: Dataset, shared: Dataset) -> dict[str, Any]:
    """When and what one frame of an enhanced multi-frame file shows."""

    def key(keyword: str) -> float:
        return _order_number(_functional_group(group, shared, keyword), keyword)

    kinds = words(_functional_group(group, shared, "FrameType"), "FrameType")
    kinds += words(_functional_group(group, shared, "ComplexImageComponent"), "ComplexImageComponent")
    indices = numbers(_functional_group(group, shared, "DimensionIndexValues"), "DimensionIndexValues")
    temporal = key("TemporalPositionIndex")
    before = temporal, key("FrameAcquisitionNumber"), key("NominalCardiacTriggerDelayTime")
    after = _order_number(dataset, "InstanceNumber"), _order_number(dataset, "AcquisitionTime"), float(frame)
    return {
        "order": (*before, indices, *after),
        "time": (temporal, key("DiffusionBValue")),
        "component": COMPONENTS & set(kinds),
        "echo_ms": round(key("EffectiveEchoTime"), 1),
        "image_type": kinds[2:],
    }


def _order_number(dataset: Dataset, keyword: str) -> float:
    """A number that puts slices in order or tells them apart; -1 where there is none.

    Slices that are then still without an order are rejected in frames.py.
    """
    try:
        value = number(dataset, keyword, -1.0)
    except ValueError:
        return -1.0
    return value if np.isfinite(value) else -1.0


def _ge_component(dataset: Dataset) -> frozenset[str]:
    element = dataset.get(GE_RAW_TYPE)
    if element is None or privacy.known_manufacturer(dataset.get("Manufacturer")) != "GE":
        return frozenset()
    value = element.value if isinstance(element.value, int) else int.from_bytes(element.value[:2], "little")
    return frozenset("MPRI"[value] if 0 <= value < 4 else "")


def _united_imaging_tiles(dataset: Dataset) -> int:
    """How many slices United Imaging put into one picture; 1 for all others."""
    element = dataset.get(UIH_TILES)
    if element is None or privacy.known_manufacturer(dataset.get("Manufacturer")) != "United Imaging":
        return 1
    value = element.value
    try:
        return int(float(value.decode("ascii").strip(" \0") if isinstance(value, bytes) else value))
    except (ValueError, TypeError, OverflowError, UnicodeDecodeError):
        return 2  # at least that many, or the field would not be there


def _tiles(file: str, dataset: Dataset, whole: Slice) -> list[Slice]:
    """A mosaic's tiles as slices, each at its own place."""
    from dataclasses import replace

    if whole.problem or whole.position is None or whole.orientation is None or whole.spacing_mm is None:
        return [whole]  # rejected later, with the tag
    try:
        tiles = read_tiles(open_header(file), whole.size)
    except ScanError as error:
        return [replace(whole, problem=str(error))]
    positions = tile_positions(tiles, whole.size, whole.position, whole.orientation, whole.spacing_mm)
    return [
        replace(whole, frame=frame, size=tiles.size, position=tuple(position), order=(*whole.order[:-1], float(frame)))
        for frame, position in enumerate(positions.tolist())
    ]


def _pixel_problem(dataset: Dataset) -> str | None:
    """Why the pixels cannot be used, as far as a header can tell."""
    try:
        check_claim(dataset)
    except ScanError as error:
        return str(error)
    if "ModalityLUTSequence" in dataset:
        return "a modality lookup table (0028,3000) is not read yet: convert the scan to NIfTI or PNG first"
    if word(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return "a colour palette (0028,0004) is not read: convert the image to RGB first"
    if (tiles := _united_imaging_tiles(dataset)) > 1:
        return (
            f"a grid of United Imaging, {tiles} slices as tiles of one picture (0065,1050), is not read: export the series with one "
            "slice a file or as enhanced multi-frame, or convert it with dcm2niix"
        )
    if "PixelRepresentation" not in dataset and number(dataset, "BitsAllocated", 16) > 8:
        return (
            "PixelRepresentation (0028,0103) is missing, so whether numbers may be negative is unknown: expected 0 or 1; fix the "
            "header"
        )
    stored, high = (int(number(dataset, keyword, -1)) for keyword in ("BitsStored", "HighBit"))
    if high >= 0 and stored >= 0 and high != stored - 1:
        return f"HighBit (0028,0102) is {high} where {stored} bits are stored: expected {stored - 1}; fix the header"
    return None


def _geometry(
    dataset: Dataset, group: Dataset | None, shared: Dataset
) -> tuple[dict[str, tuple[float, ...]], str | None]:
    """The numbers of `GEOMETRY` by keyword, and the first thing that is wrong with them."""
    geometry, problem = {}, None
    for keyword, (tag, count) in GEOMETRY.items():
        try:
            values = numbers(dataset if group is None else _functional_group(group, shared, keyword), keyword)
            if values:
                _check_numbers(keyword, tag, values, count)
                geometry[keyword] = values
        except ScanError as error:
            problem = problem or str(error)
        except (TypeError, ValueError):
            problem = problem or f"{keyword} ({tag}) does not hold numbers: expected decimals; fix the header"
    return geometry, problem


def _check_numbers(keyword: str, tag: str, values: tuple[float, ...], count: int) -> None:
    shown = ", ".join(f"{value:g}" for value in values)
    if len(values) != count:
        raise ScanError(f"{keyword} ({tag}) holds {len(values)} numbers: expected {count}; fix the header")
    if not np.isfinite(values).all():
        raise ScanError(f"{keyword} ({tag}) is {shown}: expected finite numbers; fix the header")
    if "Spacing" in keyword and min(values) <= 0:
        raise ScanError(f"{keyword} ({tag}) is {shown}: expected positive mm; fix the header")
    if keyword == "RescaleSlope" and values[0] == 0:
        raise ScanError(
            f"{keyword} ({tag}) is 0, which would make every pixel equal: expected another number; fix the header"
        )


def _functional_group(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Where an enhanced file keeps a field of one frame: in the frame's own group, else in the shared one."""
    for place in (group, shared):
        items = place.get(ENHANCED.get(keyword, keyword))
        if items and isinstance(items[0], Dataset) and keyword in items[0]:
            return items[0]
    return Dataset()


def _check_codec(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        raise ScanError("pixel data (7FE0,0010) is missing: the file is cut short or a header alone; fetch it again")
    syntax = syntax_of(dataset)
    if not syntax.is_encapsulated:
        return
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError:
        raise ScanError(f"transfer syntax {syntax} is not an image that can be read (video?): leave it out") from None
    if not ready:
        package = CODECS.get(syntax, OTHER_CODEC)
        raise ScanError(f"no decoder for transfer syntax {syntax} is installed: pip install {package}")


def _check_length(dataset: Dataset) -> None:
    expected, stored = claimed_bytes(dataset), len(dataset.PixelData)
    if not syntax_of(dataset).is_encapsulated and stored < expected:
        raise ScanError(
            f"pixel data (7FE0,0010) is truncated: {stored} bytes, expected {expected}; fetch the file again"
        )


def _unpacked_pixels(dataset: Dataset) -> np.ndarray | None:
    """Grey pixels that lie unpacked in whole bytes, as pydicom decodes them (which takes ten times as long); None for all
    else."""
    allocated, stored = (int(number(dataset, keyword, 0)) for keyword in ("BitsAllocated", "BitsStored"))
    grey = number(dataset, "SamplesPerPixel", 1) == 1 and word(dataset, "PhotometricInterpretation") in GREY
    if not grey or allocated not in (8, 16) or not 0 < stored <= allocated or syntax_of(dataset) not in UNPACKED:
        return None
    signed = number(dataset, "PixelRepresentation", 0) == 1
    count = claimed_bytes(dataset) * 8 // allocated
    pixels = np.frombuffer(dataset.PixelData, f"<{'i' if signed else 'u'}{allocated // 8}", count)
    top = 1 << (stored - signed)
    unused = stored < allocated and count and (pixels.max() >= top or pixels.min() < -top * signed)
    return None if unused else pixels  # bits beyond those stored: an overlay's


def _invert_monochrome1(pixels: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, bool]:
    """MONOCHROME1 inverted within the range that its bits can hold, so that bright is dense; True where it was."""
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return pixels, False
    if MODALITIES[known_modality(dataset.get("Modality"))].counts:
        return pixels, False
    signed = int(dataset.get("PixelRepresentation") or 0)
    top = -1 if signed else 2 ** int(dataset.get("BitsStored") or dataset.BitsAllocated) - 1
    return (top - pixels.astype(np.int32)).astype(pixels.dtype if pixels.dtype.kind == "u" else np.int32), True
