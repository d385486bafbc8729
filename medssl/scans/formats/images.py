"""2D images: PNG, JPEG, TIFF. Arrays are (C, H, W), rows by columns.

Grey stored as RGB becomes one channel. The size a header claims is checked before anything is decoded.

    array, header = read_image(Path("chest.jpeg"))
"""

from __future__ import annotations

import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from medssl.core.errors import ScanError
from medssl.scans.scan import Header, merge_equal_channels

PIXEL_LIMIT = 1 << 27  # 134 million: a whole radiograph has 20
WHITE_IS_ZERO, RGB, PALETTE, YCBCR = 0, 2, 3, 6  # PhotometricInterpretation of a TIFF
SAMPLES = {
    WHITE_IS_ZERO: (1, 2),
    1: (1, 2),
    RGB: (3, 4),
    PALETTE: (1,),
    YCBCR: (3,),
}  # numbers a pixel, with transparency
TRANSPARENT = (1, 2)  # ExtraSamples of a TIFF; others are numbers of their own
INVERTED = "inverted: white was zero"
NOT_PACKED, DEFLATED = 1, (8, 32946)  # Compression of a TIFF
NO_SIZE = "pixel size unknown: 1 mm assumed"


def image_header(path: Path) -> Header:
    """The header of an image file; nothing is decoded.

    Raises:
        ScanError: Damage, a decompression bomb, several pages, types of pixel that are not read.
    """
    size, channels = _tiff_claim(path) if _is_tiff(path) else _pillow_claim(path)
    if math.prod(size) > PIXEL_LIMIT:
        raise ScanError(
            f"the header claims {size[0]}x{size[1]} pixels: expected at most {PIXEL_LIMIT} (a decompression bomb?); "
            "leave it out"
        )
    return plain_header(size, channels if channels == 1 else None)


def read_image(path: Path) -> tuple[np.ndarray, Header]:
    """(C, H, W) as stored, C is 1 or 3, and the header.

    Raises:
        ScanError: As for `image_header`, and for damage.
    """
    image_header(path)
    try:
        array, notes = _tiff_pixels(path) if _is_tiff(path) else _pillow_pixels(path)
    except ScanError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on damage
        raise ScanError(
            f"the image cannot be decoded ({type(error).__name__}): it is damaged or cut short; fetch it again"
        ) from None
    array = merge_equal_channels(np.ascontiguousarray(array))
    return array, plain_header(array.shape[1:], array.shape[0], notes)


def plain_header(shape, channels, notes: tuple[str, ...] = (), labels: dict | None = None) -> Header:
    """The header of a picture of unknown kind and pixel size."""
    return Header(
        modality="OT",
        shape=tuple(int(n) for n in shape),
        affine=np.eye(4),
        spacing_mm=(1.0,) * len(shape),
        channels=channels,
        labels=labels or {},
        notes=(NO_SIZE, *notes),
    )


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _pillow_claim(path: Path) -> tuple[tuple[int, int], int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                size, mode, frames = image.size, image.mode, getattr(image, "n_frames", 1)
                # a PNG without EXIF before its pixels would be decoded in the search for it
                turned = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112, 1) >= 5
        except Image.DecompressionBombError:
            raise ScanError(
                f"more than {PIXEL_LIMIT} pixels are claimed (a decompression bomb?): leave it out"
            ) from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise ScanError(
                f"this is not an image ({type(error).__name__}), whatever its name says: fetch it again, or leave it "
                "out"
            ) from None
    if frames > 1:
        raise ScanError(f"the image holds {frames} frames: expected one; export them as single images")
    if mode in ("CMYK", "LAB", "HSV"):
        raise ScanError(f"{mode} colours are not read: expected grey or RGB; convert the image first")
    height, width = (size[0], size[1]) if turned else (size[1], size[0])
    return (height, width), 1 if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;16") else 3


def _pillow_pixels(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as file:
            stored = str(getattr(file, "tile", None) or "")
            file.load()
            image: Image.Image = file
            if ";16" in stored and image.mode in ("RGB", "RGBA", "LA"):
                notes += ("16 bits a colour read as 8",)
            if image.getexif().get(0x0112, 1) != 1:
                image = ImageOps.exif_transpose(image)
                notes += ("turned upright as its EXIF tag says",)
            if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
                notes += ("transparency dropped",)
            array = np.asarray(_grey_or_rgb(image))
    array = array[..., None] if array.ndim == 2 else array
    return np.moveaxis(array, -1, 0), notes


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """The image as grey or RGB, its bit depth kept."""
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image if image.mode in ("L", "I", "F") or image.mode.startswith("I;16") else image.convert("RGB")


@dataclass(frozen=True)
class _Tiff:
    """What a TIFF says of its one picture.

    Attributes:
        axes: tifffile's letters for the stored axes, such as YXS.
        shape: The stored axes.
        photometric: How numbers stand for colours: 0 white is zero, 1 black is zero, 2 RGB, 3 a palette, 6 YCbCr.
        bits: Of one number.
        kind: numpy's letter for the type of a number.
        orientation: 1 to 8, as in EXIF.
        palette: (3, N) colours, or None.
        compression: 1 for none, 8 and 32946 for zlib's, and others.
        extra: What the numbers of a pixel beyond its colours are: 1 and 2 transparency, 0 something else.
    """

    axes: str
    shape: tuple[int, ...]
    photometric: int
    bits: int
    kind: str
    orientation: int
    palette: np.ndarray | None
    compression: int = 1
    extra: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) when it is upright."""
        height, width = (self.shape[self.axes.index(axis)] for axis in "YX")
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def samples(self) -> int:
        return self.shape[self.axes.index("S")] if "S" in self.axes else 1

    @property
    def channels(self) -> int:
        return 3 if self.photometric in (RGB, PALETTE, YCBCR) else 1


def _tiff_claim(path: Path) -> tuple[tuple[int, int], int]:
    about = _tiff_about(path)
    return about.size, about.channels


def _tiff_about(path: Path) -> _Tiff:
    """What the TIFF says of itself. Raises ScanError for one whose colours or axes are not read."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages, page, stored = len(tiff.pages), tiff.pages.first, tiff.series[0]
            orientation = page.tags.get("Orientation")
            about = _Tiff(
                axes=stored.axes,
                shape=tuple(stored.shape),
                photometric=int(page.photometric),
                bits=int(page.bitspersample),
                kind=stored.dtype.kind,
                orientation=int(orientation.value) if orientation and 1 <= int(orientation.value) <= 8 else 1,
                palette=page.colormap,
                compression=int(page.compression),
                extra=tuple(int(kind) for kind in page.extrasamples),
            )
    except Exception as error:  # tifffile raises all kinds of exceptions on damage
        raise ScanError(f"this is not a TIFF that can be read ({type(error).__name__}): fetch it again") from None
    _check_tiff(about, pages)
    return about


def _check_tiff(about: _Tiff, pages: int) -> None:
    if about.kind not in "iufb":
        raise ScanError("the TIFF does not hold plain numbers: expected integers or floats")
    if pages != 1:
        raise ScanError(f"the TIFF holds {pages} pages: expected one; export them as single images, or as NIfTI")
    if sorted(about.axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise ScanError(f"the TIFF has {len(about.shape)} axes: expected rows, columns and perhaps colour")
    if about.photometric not in SAMPLES:
        raise ScanError(
            f"PhotometricInterpretation (262) of the TIFF is {about.photometric} (5 is CMYK): expected grey, a palette or RGB; "
            "convert the image first"
        )
    if about.samples not in SAMPLES[about.photometric]:
        raise ScanError(
            f"the TIFF has {about.samples} numbers a pixel, its PhotometricInterpretation (262) is {about.photometric}: expected "
            f"{' or '.join(map(str, SAMPLES[about.photometric]))}; convert the image first"
        )
    if about.samples in (2, 4) and not set(TRANSPARENT) & set(about.extra):
        raise ScanError(
            f"the TIFF has {about.samples} numbers a pixel, of which ExtraSamples (338) does not say that one is transparency: "
            "expected grey or RGB; store the channels as single images"
        )
    if about.photometric == WHITE_IS_ZERO and about.kind not in "ub":
        raise ScanError(
            "white is zero (262) in a TIFF of numbers that have no largest one: expected unsigned integers; invert them first"
        )
    if about.photometric == PALETTE and (about.palette is None or about.kind != "u"):
        raise ScanError("the TIFF has a palette (262), but no colours (320): it is damaged; fetch it again")


def _tiff_pixels(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    about = _tiff_about(path)
    try:
        if about.photometric == YCBCR or about.compression not in (*DEFLATED, NOT_PACKED):
            raise ValueError  # pillow knows how its colours are stored, and unpacks nothing beyond the picture
        _check_segments(path)
        array = tifffile.imread(path)
    except ValueError:  # or a compression that needs the imagecodecs package
        array, notes = _pillow_pixels(path)
        if about.photometric == WHITE_IS_ZERO and about.bits > 8:  # which pillow leaves as it is
            return _black_is_zero(array, about.bits), (*notes, INVERTED)
        return array, (*notes, *((INVERTED,) if about.photometric == WHITE_IS_ZERO else ()))
    array = np.moveaxis(array, about.axes.index("S"), 0) if "S" in about.axes else array[None]
    array = array.astype(array.dtype.newbyteorder("="))
    notes = ("transparency dropped",) if about.samples in (2, 4) else ()
    array = array[: 3 if about.photometric == RGB else 1]
    if about.photometric == PALETTE:
        array = _palette_colours(about)[:, array[0]]
    if about.photometric == WHITE_IS_ZERO:
        array, notes = _black_is_zero(array, about.bits), (*notes, INVERTED)
    if about.orientation != 1:
        array, notes = _upright(array, about.orientation), (*notes, "turned upright as its Orientation tag says")
    return array.astype(np.uint8) * 255 if array.dtype == bool else array, notes


def _check_segments(path: Path) -> None:
    """Raise ScanError for a strip or tile that is larger than the picture, or unpacks to more than it claims."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        size = math.prod(page.chunks) * page.dtype.itemsize
        if math.prod(page.chunks) > PIXEL_LIMIT * SAMPLES[RGB][1]:
            raise ScanError(f"a tile of the TIFF claims {page.chunks} pixels (a decompression bomb?): leave it out")
        if int(page.compression) not in DEFLATED:
            return
        for offset, count in zip(page.dataoffsets, page.databytecounts):
            tiff.filehandle.seek(offset)
            unpacker = zlib.decompressobj()
            if len(unpacker.decompress(tiff.filehandle.read(count), size + 1)) > size:
                raise ScanError(
                    f"a part of the TIFF unpacks to more than the {size} bytes that it claims (a decompression bomb?): leave it out"
                )


def _black_is_zero(array: np.ndarray, bits: int) -> np.ndarray:
    return ~array if array.dtype == bool else ((1 << bits) - 1 - array.astype(np.int64)).astype(array.dtype)


def _palette_colours(about: _Tiff) -> np.ndarray:
    """(3, N) uint8 of the 16 bits that a TIFF has; some writers put 8 bits there."""
    palette = np.asarray(about.palette)
    return (palette if palette.max() < 256 else palette >> 8).astype(np.uint8)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(C, H, W) as it is to be looked at; orientation as in EXIF."""
    array = array.swapaxes(1, 2) if orientation >= 5 else array
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array[:, :, ::-1] if orientation in (2, 3, 6, 7) else array
