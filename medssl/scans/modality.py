"""The one table of modalities: DICOM's codes, the family of scans that each belongs to, and the properties of a family.

    MODALITIES["DX"].family                            # "XRAY"
    family_of("ct").air                                # -1000.0, in HU

The codes are those of DICOM's element (0008,0060) that hold images. A family shares one scale of intensities and one set
of views. CT is kept in Hounsfield units; everything else is scaled to about 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

from medssl.core.errors import MedsslError, nearest

AIR_HU = -1000.0  # also where nothing was measured: beyond the edge of a scan, or beside a corrected slice
LOWEST_HU = -1024  # CT is clipped below it: scanners write such values outside their field of view
BODY_ABOVE_HU = -950


@dataclass(frozen=True)
class Family:
    """Scans that share one scale of intensities and one set of views.

    Attributes:
        name: CT, MR, XRAY, US, RGB or OT.
        air: Value of air on the family's scale, which also fills a crop beyond the edge of a scan.
        body_above: Voxels above this value show the body; None where every voxel may.
    """

    name: str
    air: float = 0.0
    body_above: float | None = None

    @property
    def in_hu(self) -> bool:
        """Whether voxels are Hounsfield units; they are about 0..1 elsewhere."""
        return self.name == "CT"


FAMILIES = {
    family.name: family
    for family in (
        Family("CT", AIR_HU, BODY_ABOVE_HU),
        Family("MR", body_above=0.02),
        Family("XRAY"),
        Family("US"),
        Family("RGB"),  # photographs: pathology, fundus, skin, endoscopy
        Family("OT"),  # grey, of unknown kind
    )
}


@dataclass(frozen=True)
class Modality:
    """One of DICOM's codes.

    Attributes:
        code: The value of element (0008,0060).
        description: What the code stands for.
        family: The family of its scans.
        planar: Whether each image stands alone, never as a slice of a volume.
        cine: Whether the frames of a file follow each other in time.
        burned_in: What to call such an image in a message, where text may be burned into its pixels.
        pooled: The code under which scans of one kind share a cache (CR, DR and RG become DX).
        counts: Whether voxels are counts; MONOCHROME1 then concerns only how they are displayed.
    """

    code: str
    description: str
    family: str = "OT"
    planar: bool = False
    cine: bool = False
    burned_in: str | None = None
    pooled: str | None = None
    counts: bool = False


MODALITIES = {
    modality.code: modality
    for modality in (
        Modality("CT", "computed tomography", "CT"),
        Modality("MR", "magnetic resonance", "MR"),
        Modality("CR", "computed radiography", "XRAY", planar=True, pooled="DX"),
        Modality("DR", "digital radiography, a retired code", "XRAY", planar=True, pooled="DX"),
        Modality("DX", "digital radiography", "XRAY", planar=True),
        Modality("IO", "intra-oral radiography", "XRAY", planar=True),
        Modality("MG", "mammography", "XRAY", planar=True),
        Modality("PX", "panoramic radiography", "XRAY", planar=True),
        Modality("RF", "fluoroscopy", "XRAY", planar=True, cine=True, burned_in="fluoroscopy"),
        Modality("RG", "film radiography", "XRAY", planar=True, pooled="DX"),
        Modality("XA", "angiography", "XRAY", planar=True, cine=True, burned_in="fluoroscopy"),
        Modality("IVUS", "intravascular ultrasound", "US", planar=True, cine=True, burned_in="ultrasound"),
        Modality("US", "ultrasound", "US", planar=True, cine=True, burned_in="ultrasound"),
        Modality("ES", "endoscopy", "RGB", planar=True, cine=True),
        Modality("GM", "general microscopy", "RGB", planar=True, cine=True),
        Modality("OP", "ophthalmic photography", "RGB", planar=True, cine=True),
        Modality("SM", "slide microscopy", "RGB", planar=True),
        Modality("XC", "photography", "RGB", planar=True, cine=True),
        Modality("NM", "nuclear medicine", counts=True),
        Modality("OCT", "optical coherence tomography", planar=True),
        Modality("OPT", "ophthalmic tomography", planar=True),
        Modality("OT", "other"),
        Modality("PT", "positron emission tomography", counts=True),
        Modality("SC", "secondary capture", planar=True, burned_in="a capture"),
    )
}


def known_modality(text: str | None) -> str:
    """The modality code in a header's text; OT where it is not a code, since a header may hold any text there."""
    code = (text or "").strip().upper()
    return code if code in MODALITIES else "OT"


def check_code(code: str) -> None:
    """Raise MedsslError, naming the nearest code, unless the table holds this code."""
    if code not in MODALITIES:
        raise MedsslError(f"modality {code!r} is not a DICOM modality code{nearest(code, MODALITIES)}")


def pooled_code(code: str) -> str:
    """The code under which scans of one kind share a cache: CR, DR and RG become DX."""
    known = MODALITIES.get(code)
    return known.pooled or code if known else code


def family_of(modality: str) -> Family:
    """The family of a DICOM code, or the family of that name, in upper or lower case.

    Raises:
        MedsslError: There is no such code and no such family.
    """
    code = modality.upper()
    if code in FAMILIES:
        return FAMILIES[code]
    if code not in MODALITIES:
        known = {*FAMILIES, *MODALITIES}
        raise MedsslError(
            f"modality {modality!r} is neither a DICOM modality code nor a family of scans{nearest(modality, known)}"
        )
    return FAMILIES[MODALITIES[code].family]
