"""Which text of headers is dropped: fields by tag or name, and in how many files. No value is written.

Private DICOM elements are named by number alone, and so is every field whose name somebody could have made up (keys of
NRRD, MetaImage and PNG are free text).

    audit(files, jobs=1)         # DataFrame: format, field, name, vr, became, files
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import nrrd
import numpy as np
import pandas as pd
import pydicom
import tifffile
from PIL import ExifTags, Image
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.valuerep import VR

from medssl.core.atomic import write_atomically
from medssl.core.errors import ScanError
from medssl.core.parallel import run_parallel
from medssl.scans.dicom.header import open_header
from medssl.scans.formats import metaimage, nifti
from medssl.scans.formats.images import image_header
from medssl.scans.paths import readable_errors
from medssl.scans.privacy import HEADER_FIELDS

BECAME = {  # elements that are read, but whose text is not kept
    "PatientID": "pseudonym",
    "InstitutionName": "pseudonym",
    "SeriesInstanceUID": "used to group slices",
    "SOPClassUID": "used to tell kinds apart",
    "Manufacturer": "one of a few fixed names",
}
NIFTI_TEXT = ("data_type", "db_name", "descrip", "aux_file", "intent_name")
NRRD_GEOMETRY = {"type", "dimension", "space", "sizes", "space directions", "kinds", "endian", "encoding"}
NRRD_GEOMETRY |= {"space origin", "spacings", "space dimension", "space units", "centers", "centerings", "thicknesses"}
METAIMAGE_GEOMETRY = {"objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "elementbyteordermsb"}
METAIMAGE_GEOMETRY |= {"compresseddata", "compresseddatasize", "transformmatrix", "offset", "centerofrotation"}
METAIMAGE_GEOMETRY |= {"anatomicalorientation", "elementspacing", "elementsize", "dimsize", "elementtype", "headersize"}
METAIMAGE_GEOMETRY |= {"elementnumberofchannels"}
METAIMAGE_TEXT = {"comment", "name", "elementdatafile", "acquisitiondate", "modality", "id", "parentid"}
PNG_TEXT: tuple[str, ...] = (
    "Title",
    "Author",
    "Description",
    "Copyright",
    "Creation Time",
    "Software",
    "Disclaimer",
    "Warning",
)
PNG_TEXT += ("Source", "Comment", "XML:com.adobe.xmp")
PILLOW_INFO = {"comment": "comment", "icc_profile": "colour profile", "photoshop": "IPTC", "xmp": "XMP"}
TIFF_GEOMETRY = {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 317, 320, 338, 339}
COLUMNS = ("format", "field", "name", "vr", "became", "files")
Field = tuple[str, str, str, str, str]


def audit(files: Iterable[tuple[Path, str]], jobs: int = 1) -> pd.DataFrame:
    """Count the header fields of (file, format) pairs whose text is dropped or replaced; one row a field."""
    counts: Counter[Field] = Counter()
    for fields in run_parallel(_fields_of, list(dict.fromkeys(files)), jobs, "audit"):
        counts.update(fields)
    return pd.DataFrame([(*field, count) for field, count in sorted(counts.items())], columns=list(COLUMNS))


def write_audit(files: Iterable[tuple[Path, str]], out: Path, jobs: int) -> None:
    """`audit` as `audit.csv` in the manifest's folder."""
    write_atomically(out / "audit.csv", audit(files, jobs).to_csv(index=False).encode())


def _fields_of(entry: tuple[Path, str]) -> set[Field]:
    path, format = entry
    if format not in FIELD_READERS:
        return set()
    try:
        with readable_errors("the header"):
            return {(format, *field) for field in FIELD_READERS[format](path)}
    except ScanError:
        return {(format, "the whole header", "cannot be read", "", "nothing")}


def _dicom(path: Path) -> Iterator[tuple[str, str, str, str]]:
    dataset = open_header(str(path))
    for part in (getattr(dataset, "file_meta", Dataset()), dataset):
        for element in part.iterall():
            yield from _element(element)


def _element(element: pydicom.DataElement) -> Iterator[tuple[str, str, str, str]]:
    tag = element.tag
    keyword = "" if tag.is_private else keyword_for_tag(tag)
    if element.is_empty or (keyword in HEADER_FIELDS and keyword not in BECAME):
        return
    vr = str(element.VR) if element.VR in set(VR) else "UN"
    name = "private" if tag.is_private else keyword or "not in the dictionary"
    yield f"{tag.group:04X},{tag.element:04X}", name, vr, BECAME.get(keyword, "nothing")


def _nifti(path: Path) -> Iterator[tuple[str, str, str, str]]:
    start, header = nifti.start_of(path)
    for name in NIFTI_TEXT:
        if name in header.structarr.dtype.names and header[name].tobytes().strip(b"\0 "):
            yield name, "header text", "", "nothing"
    place = int(header["sizeof_hdr"])
    end = min(int(header["vox_offset"]), len(start)) if start[place] else 0
    place += 4
    while place + 8 <= end:
        size, code = np.frombuffer(start, f"{header.endianness}u4", 2, place).tolist()
        yield f"extension {code}", "header extension", "", "nothing"
        place += max(size, 8)


def _nrrd(path: Path) -> Iterator[tuple[str, str, str, str]]:
    with path.open("rb") as file:
        fields = nrrd.read_header(file)
    with path.open("rb") as file:
        start = file.read(1 << 16).split(b"\n\n")[0]
    if any(line.startswith(b"#") and line.strip(b"# \r") for line in start.split(b"\n")):
        yield "#", "comment", "", "nothing"
    for name in fields:
        if name in ("content", "sample units", "units", "labels", "measurement frame"):
            yield name, "header text", "", "nothing"
        elif name not in NRRD_GEOMETRY:
            yield "other", "key of a maker's own", "", "nothing"


def _metaimage(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for name in metaimage.header_fields(path)[0]:
        if name in METAIMAGE_TEXT:
            yield name, "header text", "", "nothing"
        elif name not in METAIMAGE_GEOMETRY:
            yield "other", "key of a maker's own", "", "nothing"


def _image(path: Path) -> Iterator[tuple[str, str, str, str]]:
    if path.suffix.lower() in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            codes = [tag.code for tag in file.pages.first.tags if tag.code not in TIFF_GEOMETRY]
        yield from ((f"{code}", tifffile.TIFF.TAGS.get(code, "unknown"), "", "nothing") for code in codes)
        return
    image_header(path)  # its size is checked before anything is decoded
    with Image.open(path) as image:
        exif, info = dict(image.getexif()), dict(image.info)
        chunks = set(getattr(image, "text", {}))
    yield from ((f"{code}", ExifTags.TAGS.get(code, "unknown"), "EXIF", "nothing") for code in exif)
    yield from ((PILLOW_INFO[key], "", "", "nothing") for key in info if key in PILLOW_INFO)
    yield from (("text", key if key in PNG_TEXT else "other", "", "nothing") for key in chunks)


FIELD_READERS = {"dicom": _dicom, "nifti": _nifti, "nrrd": _nrrd, "metaimage": _metaimage, "image": _image}
