"""MedMNIST-style .npz archives, of which each image is a scan. Arrays are (C, H, W), rows by columns, or (C, X, Y, Z).

for member, header in npz_headers(Path("pneumoniamnist.npz")): ...      # every image one scan
array, header = read_npz(Path("pneumoniamnist.npz"), "train_images/17")
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medssl.core.errors import ScanError
from medssl.scans.formats.images import plain_header
from medssl.scans.paths import CHUNK, check_fits_memory
from medssl.scans.scan import Header, merge_equal_channels

NPZ_LIMIT_BYTES = 16 << 30
NPZ_SMALL_BYTES, NPZ_RATIO = (
    64 << 20,
    200,
)  # up to here an array may be packed as small as it likes; real pictures reach 20
MOST_IMAGES = (
    1 << 20
)  # of an archive: each is a scan, which takes memory before a pixel is read; MedMNIST's largest has 236,386
SPLITS = "train|val|test"


def npz_headers(path: Path) -> list[tuple[str, Header]]:
    """(member, header) for every image of a MedMNIST-style archive; `header.labels` holds its labels and split.

    Raises:
        ScanError: The keys are not MedMNIST's, or an array is not what it claims.
    """
    shapes = _npz_shapes(path)
    splits = [split for split in SPLITS.split("|") if f"{split}_images" in shapes]
    if not splits:
        raise ScanError("the .npz holds no train_images, val_images or test_images: expected MedMNIST's keys")
    _check_counts({split: shapes[f"{split}_images"] for split in splits})
    headers: list[tuple[str, Header]] = []
    for split in splits:
        labels = _npz_labels(path, split, shapes)
        shape, channels = _npz_image_shape(shapes[f"{split}_images"])
        for number, names in enumerate(labels):
            header = plain_header(shape, channels if channels == 1 else None, labels={"split": split, **names})
            headers.append((f"{split}_images/{number}", header))
    return headers


def _check_counts(stacks: dict[str, tuple[int, ...]]) -> None:
    """Raise ScanError for images without pixels, and for more images than any archive has."""
    if any(0 in shape[1:] for shape in stacks.values()):
        raise ScanError("the images of the .npz have no pixels: expected one or more along each axis")
    count = sum(shape[0] for shape in stacks.values() if shape)
    if count > MOST_IMAGES:
        raise ScanError(f"the .npz claims {count} images: expected at most {MOST_IMAGES}; divide the archive")


def read_npz(path: Path, member: str) -> tuple[np.ndarray, Header]:
    """(C, H, W) or (C, X, Y, Z) of one image of an archive, and its header.

    Raises:
        ScanError: The archive is damaged.
    """
    match = re.fullmatch(rf"((?:{SPLITS})_images)/(\d+)", member)
    if not match:
        raise ScanError("the archive's member is not SPLIT_images/NUMBER: index the folder again")
    stack = _npz_stack(path, match[1], path.stat().st_mtime_ns)
    shape, channels = _npz_image_shape(stack.shape)
    check_fits_memory(math.prod(shape) * channels)
    image = stack.image(int(match[2])).reshape(*shape, channels)
    array = merge_equal_channels(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    return array, plain_header(shape, array.shape[0])


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array name -> shape, by the headers alone; what a header claims must be what the archive holds."""
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.removesuffix(".npy") in shapes:
                    raise ScanError("two arrays of the .npz have one name: expected each once; store the archive again")
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
    limit = min(NPZ_LIMIT_BYTES, max(NPZ_SMALL_BYTES, entry.compress_size * NPZ_RATIO))
    if claimed != entry.file_size or claimed > limit:
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


def _npz_array(path: Path, key: str, changed_ns: int) -> np.ndarray:
    """One array of an archive, whole."""
    with _readable_archive(), np.load(path, allow_pickle=False) as archive:
        return archive[key]


@contextlib.contextmanager
def _readable_archive() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        raise ScanError(f"the .npz cannot be read ({type(error).__name__}): it is damaged; fetch it again") from None


@functools.lru_cache(maxsize=2)
def _npz_stack(path: Path, key: str, changed_ns: int) -> _Stack:
    """A stack of an archive; kept while its images are read one after the other."""
    with _readable_archive():
        return _Stack(path, key)


class _Stack:
    """The images of one array, read one after the other: only one is in memory.

    Its checksum is checked when it is opened. Images are read fastest in their order.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._archive, self._name = zipfile.ZipFile(path), f"{key}.npy"
        with self._archive.open(self._name) as file:
            while file.read(CHUNK):
                pass
        self._open()

    def _open(self) -> None:
        self._file, self._next = self._archive.open(self._name), 0
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, by_columns, self._dtype = read(self._file)
        if by_columns and len(self.shape) > 1:
            raise ScanError(
                "an array of the .npz is stored by columns: expected rows; store it with numpy.ascontiguousarray"
            )
        self._bytes = math.prod(self.shape[1:]) * self._dtype.itemsize

    def image(self, number: int) -> np.ndarray:
        """The image at a place of the stack."""
        with _readable_archive():
            if number < self._next:
                self._open()
            self._read((number - self._next) * self._bytes, keep=False)
            self._next = number + 1
            return np.frombuffer(self._read(self._bytes, keep=True), self._dtype).reshape(self.shape[1:])

    def _read(self, count: int, keep: bool) -> bytearray:
        content, read = bytearray(), 0
        while read < count:
            piece = self._file.read(min(CHUNK, count - read))
            if not piece:
                raise EOFError
            read += len(piece)
            if keep:
                content += piece
        return content
