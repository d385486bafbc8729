"""Keyed pseudonyms, and the short list of header fields that are read. Everything else in a header is dropped.

A pseudonym is HMAC-SHA256 under a random key that lies beside `sources.parquet`, or where the user keeps it, and never in a
cache: without the key nobody can guess a patient's number and check it. This lowers a risk; it is not a claim of anonymity.
The same person has the same pseudonym in all manifests of one key; the key's fingerprint says which these are.

    names = Pseudonyms(Path("manifest/pseudonym.key"))
    names.fingerprint                       # 12 hex characters that say which key it is, and nothing about it
    names.of("patient", "1234567")          # 12 hex characters, the same for as long as the key is
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.scans.modality import MODALITIES

KEY_BYTES = 32
MANUFACTURERS = {
    "agfa": "Agfa",
    "canon": "Canon",
    "carestream": "Carestream",
    "esaote": "Esaote",
    "fonar": "Fonar",
    "fuji": "Fujifilm",
    "ge ": "GE",
    "general electric": "GE",
    "hitachi": "Hitachi",
    "hologic": "Hologic",
    "hyperfine": "Hyperfine",
    "konica": "Konica Minolta",
    "marconi": "Marconi",
    "medssl": "medssl",
    "mindray": "Mindray",
    "philips": "Philips",
    "picker": "Picker",
    "samsung": "Samsung",
    "shimadzu": "Shimadzu",
    "siemens": "Siemens",
    "toshiba": "Toshiba",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
}
# The allow-list: no other element of a DICOM header is parsed at all. PatientID, InstitutionName and the UIDs
# become pseudonyms or group slices, Modality and Manufacturer become one of the words above, the rest are
# numbers.
HEADER_FIELDS = (
    "SOPClassUID",
    "ImageType",
    "Modality",
    "Manufacturer",
    "PatientID",
    "InstitutionName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Units",
    "SeriesNumber",
    "AcquisitionNumber",
    "AcquisitionTime",
    "InstanceNumber",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "EchoTime",
    "DiffusionBValue",
    (0x0043, 0x102F),  # GE: 0 to 3 for magnitude, phase, real, imaginary
    (0x0065, 0x1050),  # United Imaging: how many slices lie in one picture, as tiles
    "BurnedInAnnotation",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
PIXEL_FIELDS = (  # also needed to decode the pixels; not stored anywhere
    "PlanarConfiguration",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)


CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # SOP classes of secondary capture, single and multi-frame, start like this
SCREEN_WORDS = ("SCREEN", "CAPTURE")  # "SCREEN SAVE", "SCREENSHOT", "SECONDARY CAPTURE" in ImageType


class Pseudonyms:
    """Stable keyed names: `of(kind, text) -> 12 hex characters`.

    Args:
        key_file: The key; made when it is first used, readable by its owner only.

    Raises:
        MedsslError: The key file has the wrong length.
    """

    def __init__(self, key_file: Path) -> None:
        self._key = _load_or_make(key_file)

    @property
    def fingerprint(self) -> str:
        """Twelve hex characters that name the key and do not give it away."""
        return self.of("fingerprint", "of the key of these pseudonyms")

    def of(self, kind: str, text: str) -> str:
        """The pseudonym of one text; the same text under another kind ("patient", "scan") has another one."""
        message = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:12]


def known_manufacturer(text: str | None) -> str | None:
    """The manufacturer as one of a few fixed names, "other" for any other text, None for none."""
    wanted = f"{(text or '').strip().lower()} "
    if not wanted.strip():
        return None
    return next((name for start, name in MANUFACTURERS.items() if wanted.startswith(start)), "other")


def burned_in_risk(annotated: str, sop_class: str, modality: str, image_type: Iterable[str]) -> str | None:
    """Why a DICOM image may have text burned into its pixels, in fixed words; None where BurnedInAnnotation is NO, or
    nothing says so.

    annotated: BurnedInAnnotation. modality: one of MODALITIES. image_type: its words, in capitals.
    """
    if annotated.strip().upper() == "NO":
        return None
    if sop_class == CAPTURES or sop_class.startswith(f"{CAPTURES}."):
        return "a secondary capture (0008,0016) may have text burned into its pixels"
    if any(word in part for part in image_type for word in SCREEN_WORDS):
        return "a screen save (0008,0008) may have text burned into its pixels"
    burned_in = MODALITIES[modality].burned_in
    return f"{burned_in} (0008,0060) may have text burned into its pixels" if burned_in else None


def _load_or_make(key_file: Path) -> bytes:
    key_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _load(key_file)
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key


def _load(key_file: Path) -> bytes:
    key = key_file.read_bytes()
    if len(key) != KEY_BYTES:
        raise MedsslError(
            f"the pseudonym key has {len(key)} bytes: expected {KEY_BYTES}; restore it from a backup, or delete it and "
            "index again (every pseudonym changes)"
        )
    return key
