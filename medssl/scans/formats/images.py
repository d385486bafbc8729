"""2D images: PNG, JPEG, TIFF, and MedMNIST-style .npz archives. Arrays are (C, H, W), rows by columns.

Grey stored as RGB becomes one channel. The size a header claims is checked before anything is decoded.

    array, header = read_image(Path("chest.jpeg"))
    for member, header in npz_headers(Path("pneumoniamnist.npz")): ...      # every image one scan
    array, header = read_npz(Path("pneumoniamnist.npz"), "train_images/17")
"""

from __future__ import annotations

import functools
import math
import re
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from medssl.core.errors import ScanError
from medssl.scans.scan import Header, merge_equal_channels

PIXEL_LIMIT = 1 << 27  # 134 million: a whole radiograph has 20
NPZ_LIMIT_BYTES = 16 << 30
SPLITS = "train|val|test"
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
    return _header(size, channels if channels == 1 else None)


def read_image(path: Path) -> tuple[np.ndarray, Header]:
    """(C, H, W) as stored, C is 1 or 3, and the header.

    Raises:
        ScanError: As for `image_header`, and for damage.
    """
    image_header(path)
    try:
        array, notes = _tiff_pixels(path) if _is_tiff(path) else _pillow_pixels(path)
    except Exception as error:  # decoders raise all kinds of exceptions on damage
        raise ScanError(
            f"the image cannot be decoded ({type(error).__name__}): it is damaged or cut short; fetch it again"
        ) from None
    array = merge_equal_channels(np.ascontiguousarray(array))
    return array, _header(array.shape[1:], array.shape[0], notes)


def npz_headers(path: Path) -> list[tuple[str, Header]]:
    """(member, header) for every image of a MedMNIST-style archive; `header.labels` holds its labels and split.

    Raises:
        ScanError: The keys are not MedMNIST's, or an array is not what it claims.
    """
    shapes = _npz_shapes(path)
    splits = [split for split in SPLITS.split("|") if f"{split}_images" in shapes]
    if not splits:
        raise ScanError("the .npz holds no train_images, val_images or test_images: expected MedMNIST's keys")
    headers: list[tuple[str, Header]] = []
    for split in splits:
        labels = _npz_labels(path, split, shapes)
        shape, channels = _npz_image_shape(shapes[f"{split}_images"])
        for number, names in enumerate(labels):
            header = _header(shape, channels if channels == 1 else None, labels={"split": split, **names})
            headers.append((f"{split}_images/{number}", header))
    return headers


def read_npz(path: Path, member: str) -> tuple[np.ndarray, Header]:
    """(C, H, W) or (C, X, Y, Z) of one image of an archive, and its header.

    Raises:
        ScanError: The archive is damaged.
    """
    match = re.fullmatch(rf"((?:{SPLITS})_images)/(\d+)", member)
    if not match:
        raise ScanError("the archive's member is not SPLIT_images/NUMBER: index the folder again")
    stack = _npz_array(path, match[1], path.stat().st_mtime_ns)
    shape, channels = _npz_image_shape(stack.shape)
    image = stack[int(match[2])].reshape(*shape, channels)
    array = merge_equal_channels(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    return array, _header(shape, array.shape[0])


def _header(shape, channels, notes: tuple[str, ...] = (), labels: dict | None = None) -> Header:
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
            file.load()
            image: Image.Image = file
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


def _tiff_claim(path: Path) -> tuple[tuple[int, int], int]:
    try:
        with tifffile.TiffFile(path) as tiff:
            pages, shape = len(tiff.pages), tiff.series[0].shape
            kind = tiff.series[0].dtype.kind
    except Exception as error:  # tifffile raises all kinds of exceptions on damage
        raise ScanError(f"this is not a TIFF that can be read ({type(error).__name__}): fetch it again") from None
    if kind not in "iufb":
        raise ScanError("the TIFF does not hold plain numbers: expected integers or floats")
    if pages != 1:
        raise ScanError(f"the TIFF holds {pages} pages: expected one; export them as single images, or as NIfTI")
    if len(shape) == 2:
        return (shape[0], shape[1]), 1
    if len(shape) == 3 and shape[-1] in (3, 4):
        return (shape[0], shape[1]), 3
    raise ScanError(f"the TIFF has {len(shape)} axes: expected rows, columns and perhaps colour")


def _tiff_pixels(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        array = tifffile.imread(path)
    except ValueError:
        return _pillow_pixels(path)  # a compression that needs the imagecodecs package; pillow knows the usual ones
    array = array.astype(np.uint8) * 255 if array.dtype == bool else array
    notes = ("transparency dropped",) if array.ndim == 3 and array.shape[-1] == 4 else ()
    array = array[..., None] if array.ndim == 2 else array[..., :3]
    return np.moveaxis(array.astype(array.dtype.newbyteorder("=")), -1, 0), notes


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array name -> shape, by the headers alone; what a header claims must be what the archive holds."""
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    shapes[entry.filename.removesuffix(".npy")] = _npy_shape(file, entry)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, SyntaxError, NotImplementedError) as error:
        raise ScanError(f"the .npz cannot be opened ({type(error).__name__}): it is damaged; fetch it again") from None
    return shapes


def _npy_shape(file, entry: zipfile.ZipInfo) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ScanError("the .npz holds pickled objects: refused, they could run code; store plain arrays")
    claimed = math.prod(shape) * dtype.itemsize + file.tell()
    if claimed != entry.file_size or claimed > min(NPZ_LIMIT_BYTES, entry.compress_size * 1032 + 1024):
        raise ScanError(
            f"an array of the .npz claims {claimed} bytes, the archive says {entry.file_size} "
            f"({entry.compress_size} packed): it is damaged or a bomb; leave it out"
        )
    return shape


def _npz_image_shape(stack: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """(N, H, W), (N, H, W, 3), (N, X, Y, Z) or (N, X, Y, Z, 3) -> S and C."""
    shape = stack[1:]
    colours = 3 if len(shape) in (3, 4) and shape[-1] == 3 else 1
    shape = shape[:-1] if colours == 3 else shape
    if len(shape) not in (2, 3):
        raise ScanError(f"images of {len(shape)} axes in the .npz: expected two or three, and perhaps colour")
    return shape, colours


def _npz_labels(path: Path, split: str, shapes: dict[str, tuple[int, ...]]) -> list[dict[str, int]]:
    count = shapes[f"{split}_images"][0]
    if f"{split}_labels" not in shapes:
        return [{} for _ in range(count)]
    labels = _npz_array(path, f"{split}_labels", path.stat().st_mtime_ns)
    if labels.shape[0] != count or labels.ndim > 2 or labels.dtype.kind not in "iub":
        raise ScanError(f"{labels.shape[0]} labels for {count} images in the .npz: expected one integer each")
    labels = labels.reshape(count, -1)
    names = ["label"] if labels.shape[1] == 1 else [f"label_{number}" for number in range(labels.shape[1])]
    return [dict(zip(names, (int(value) for value in row))) for row in labels]


@functools.lru_cache(maxsize=2)
def _npz_array(path: Path, key: str, changed_ns: int) -> np.ndarray:
    """One array of an archive; kept while its images are read one after the other."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        raise ScanError(f"the .npz cannot be read ({type(error).__name__}): it is damaged; fetch it again") from None
