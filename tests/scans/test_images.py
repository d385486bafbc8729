"""2D images and MedMNIST archives: right pixels, no bombs, no pickles."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
import zlib

import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image

from medssl.core.errors import ScanError
from medssl.scans.formats.images import image_header, read_image
from medssl.scans.formats.nifti import nifti_header
from medssl.scans.formats.npz import npz_headers, read_npz
from medssl.scans.paths import check_fits_memory
from medssl.scans.read import read_scan
from tests.scans.scan_makers import ct_like, slice_dataset, write_nifti

GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
FOUR = np.concatenate([COLOUR, GREY[..., None]], -1)
GREY16 = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100


def test_png_keeps_its_depth_and_its_channels(tmp_path):
    for name, pixels, channels in (("grey", GREY, 1), ("colour", COLOUR, 3), ("deep", GREY16, 1)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        array, header = read_image(tmp_path / f"{name}.png")
        expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        assert (array == expected).all()
        assert (header.shape, header.channels) == ((20, 30), channels)


def test_grey_stored_as_rgb_is_one_channel(tmp_path):
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "a.png")
    array, _ = read_image(tmp_path / "a.png")
    assert (array == GREY[None]).all()
    assert image_header(tmp_path / "a.png").channels is None


def test_an_exif_turn_is_applied_and_said(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    array, header = read_image(tmp_path / "a.png")
    assert (array[0] == np.rot90(GREY, -1)).all()
    assert image_header(tmp_path / "a.png").shape == (30, 20)
    assert any("EXIF" in note for note in header.notes)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff(tmp_path, compression):
    for name, pixels in (("grey", GREY16), ("colour", COLOUR), ("float", GREY.astype(np.float32) / 7)):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, compression=compression)
        expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        assert (read_image(tmp_path / f"{name}.tif")[0] == expected).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(tmp_path, orientation, compression):
    """The second reading, for compressions that tifffile lacks, is pillow's: both agree."""
    Image.fromarray(GREY16).save(tmp_path / "a.tif", tiffinfo={274: orientation}, compression=compression)
    array, header = read_image(tmp_path / "a.tif")
    turns = [GREY16, GREY16[:, ::-1], GREY16[::-1, ::-1], GREY16[::-1]]
    turns += [GREY16.T, np.rot90(GREY16, -1), np.rot90(GREY16, 2).T, np.rot90(GREY16)]
    assert (array[0] == turns[orientation - 1]).all()
    assert image_header(tmp_path / "a.tif").shape == header.shape == array.shape[1:]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
@pytest.mark.parametrize("pixels", [GREY, GREY16, GREY > 99], ids=["8 bits", "16 bits", "1 bit"])
def test_a_tiff_whose_white_is_zero_is_inverted_and_says_so(tmp_path, pixels, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression=compression)
    black_is_zero = read_image(path)[0]
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(0)
    array, header = read_image(path)
    assert array.dtype == black_is_zero.dtype
    assert (array == np.iinfo(array.dtype).max - black_is_zero).all()
    assert "inverted: white was zero" in header.notes


def test_floats_whose_white_is_zero_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.float32), photometric="miniswhite")
    with pytest.raises(ScanError, match="white is zero"):
        image_header(tmp_path / "a.tif")


def test_colours_of_sixteen_bits_that_are_read_as_eight_are_noted(tmp_path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOUR * np.uint16(257))
    head = struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    array, header = read_image(tmp_path / "a.png")
    assert (array == np.moveaxis(COLOUR, -1, 0)).all()
    assert "16 bits a colour read as 8" in header.notes


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_palette_gives_its_colours(tmp_path, compression):
    image = Image.fromarray(COLOUR).quantize(64)
    for name in ("a.tif", "a.png"):
        image.save(tmp_path / name, **({"compression": compression} if name == "a.tif" else {}))
    expected = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    for name in ("a.tif", "a.png"):
        assert (read_image(tmp_path / name)[0] == expected).all()
        assert image_header(tmp_path / name).channels is None


def test_colours_in_planes_and_transparency(tmp_path):
    planes = np.moveaxis(COLOUR, -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    alpha = np.concatenate([COLOUR, GREY[..., None]], -1)
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("planes", "alpha"):
        assert (read_image(tmp_path / f"{name}.tif")[0] == planes).all()
    pair = np.stack([GREY, 255 - GREY], -1)
    tifffile.imwrite(tmp_path / "pair.tif", pair, photometric="minisblack", extrasamples=["unassalpha"])
    assert (read_image(tmp_path / "pair.tif")[0] == GREY[None]).all()


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (FOUR, {"photometric": "separated"}, "5 is CMYK"),
        (COLOUR, {"photometric": "cielab"}, "is 8"),
        (GREY, {"photometric": "cfa"}, "is 32803"),
        (np.concatenate([COLOUR, COLOUR], -1), {"photometric": "rgb"}, "6 numbers a pixel"),
        (COLOUR, {"photometric": "minisblack", "planarconfig": "contig"}, "3 numbers a pixel"),
        (FOUR, {"photometric": "rgb", "extrasamples": ["unspecified"]}, "does not say that one is transparency"),
        (FOUR[..., :2], {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [0]}, "transparency"),
    ],
)
def test_colours_that_are_not_read_are_refused_by_the_header(tmp_path, pixels, options, words):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(ScanError, match=words):
        image_header(tmp_path / "a.tif")
    with pytest.raises(ScanError, match=words):
        read_image(tmp_path / "a.tif")


def test_a_tiff_packed_with_lzw_is_read(tmp_path):
    Image.fromarray(GREY16).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert (read_image(tmp_path / "a.tif")[0] == GREY16[None]).all()


def test_many_pages_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * 3), photometric="minisblack")
    with pytest.raises(ScanError, match="3 pages"):
        image_header(tmp_path / "a.tif")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(ScanError, match="bomb"):
        image_header(tmp_path / "a.png")


def test_damaged_images_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "jpeg")
    for name, data in (
        ("a.jpg", stream.getvalue()[:-300]),
        ("b.png", b"<html>"),
        ("c.tif", b"II*\0"),
        ("d.png", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ScanError):
            read_image(tmp_path / name)


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_every_image_of_an_archive_is_a_scan(tmp_path):
    train, test = np.stack([GREY, GREY.T.reshape(20, 30)]), GREY[None] + 1
    path = archive(
        tmp_path / "a.npz",
        train_images=train,
        train_labels=np.array([[0], [2]]),
        test_images=test,
        test_labels=[[1]],
    )
    headers = dict(npz_headers(path))
    assert list(headers) == ["train_images/0", "train_images/1", "test_images/0"]
    assert headers["train_images/1"].labels == {"split": "train", "label": 2}
    assert (read_npz(path, "train_images/1")[0] == train[1][None]).all()
    assert (read_npz(path, "test_images/0")[0] == test[0][None]).all()


def test_colour_several_labels_and_volumes_in_archives(tmp_path):
    path = archive(tmp_path / "a.npz", val_images=np.stack([COLOUR, COLOUR]), val_labels=np.array([[0, 1], [1, 1]]))
    assert dict(npz_headers(path))["val_images/0"].labels == {"split": "val", "label_0": 0, "label_1": 1}
    assert read_npz(path, "val_images/1")[0].shape == (3, 20, 30)
    cube = np.arange(2 * 8**3, dtype=np.uint8).reshape(2, 8, 8, 8)
    path = archive(tmp_path / "b.npz", train_images=cube)
    assert npz_headers(path)[0][1].shape == (8, 8, 8)
    assert (read_npz(path, "train_images/1")[0][0] == cube[1]).all()


class Canary:
    def __reduce__(self):
        return (open, ("canary_ran", "w"))


def test_a_pickle_in_an_archive_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", train_images=np.array([Canary()], dtype=object))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("train_images.npy", pickle.dumps(Canary()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(ScanError):
            npz_headers(tmp_path / name)
    assert not (tmp_path / "canary_ran").exists()


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("train_images.npy", stream.getvalue() + bytes(100))
    with pytest.raises(ScanError, match="claims"):
        npz_headers(tmp_path / "a.npz")


FORMATS = {"a.nii": "nifti", "a.nrrd": "nrrd", "a.png": "image", "a.jpg": "image", "a.tif": "image"}
FORMATS |= {"a.npz": "npz", "a.dcm": "dicom"}


def one_of_each(folder):
    write_nifti(folder / "a.nii")
    nrrd.write(str(folder / "a.nrrd"), ct_like(), {"encoding": "raw"})
    Image.fromarray(GREY).save(folder / "a.png")
    Image.fromarray(GREY).save(folder / "a.jpg")
    tifffile.imwrite(folder / "a.tif", GREY16)
    archive(folder / "a.npz", train_images=GREY[None], train_labels=[[1]])
    slice_dataset(ct_like((10, 12, 1))[:, :, 0], (0, 0, 0)).save_as(folder / "a.dcm")


@pytest.mark.parametrize("name", FORMATS)
def test_damage_anywhere_in_a_header_is_refused_in_words_or_harmless(tmp_path, name, capfd):
    one_of_each(tmp_path)
    whole = (tmp_path / name).read_bytes()
    random = np.random.default_rng(3)
    for _ in range(120):
        broken = bytearray(whole)
        for place in random.integers(0, min(900, len(whole)), random.integers(1, 5)):
            broken[place] = random.integers(0, 256)
        path = tmp_path / f"broken.{name}"
        path.write_bytes(broken[: random.integers(1, len(broken))] if random.random() < 0.1 else broken)
        member = "train_images/0" if name == "a.npz" else None
        with contextlib.suppress(ScanError):
            read_scan([str(path)], FORMATS[name], "id", "patient", member=member)
    assert capfd.readouterr() == ("", "")


def test_images_of_an_archive_are_read_one_by_one_in_any_order(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (40, 9, 8, 3)).astype(np.uint8)
    path = archive(tmp_path / "a.npz", train_images=stack)
    for number in (0, 1, 5, 39, 4, 4, 38):
        array, _ = read_npz(path, f"train_images/{number}")
        assert (array == np.moveaxis(stack[number], -1, 0)).all()


def test_damage_in_an_image_that_is_not_asked_for_is_noticed(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (40, 30, 30)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", train_images=stack)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ScanError, match="damaged"):
        read_npz(tmp_path / "a.npz", "train_images/0")


def test_an_archive_of_zeros_is_refused_by_its_size(tmp_path):
    path = archive(tmp_path / "a.npz", train_images=np.zeros((100, 1024, 1024), np.uint8))
    with pytest.raises(ScanError, match="damaged or a bomb"):
        npz_headers(path)


def test_a_volume_larger_than_the_memory_is_refused(tmp_path):
    check_fits_memory(10**9, limit=8 * 10**9)
    with pytest.raises(ScanError, match="claims 1000000001 voxels, which take about 7629 MiB"):
        check_fits_memory(10**9 + 1, limit=8 * 10**9)
    path = write_nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 3, 30000, 30000, 1000, 1, 1, 1, 1)
    path.write_bytes(raw)
    os.truncate(path, 352 + 2 * 30000 * 30000 * 1000)  # a file of holes takes no room
    assert nifti_header(path).shape == (30000, 30000, 1000)
    with pytest.raises(ScanError, match="MiB of this machine"):
        read_scan([str(path)], "nifti", "id", "p")


@pytest.mark.parametrize(
    ("shape", "words"), [((50_000_000, 0, 5), "have no pixels"), ((20_000_000, 1, 1), "claims 20000000 images")]
)
def test_an_archive_of_images_without_number_is_refused(tmp_path, shape, words):
    """A file of 20 kB was listed as 20 million scans, image by image."""
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros(shape, np.uint8))
    with pytest.raises(ScanError, match=words):
        npz_headers(tmp_path / "a.npz")


def test_an_archive_with_two_arrays_of_one_name_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros((2, 4, 4), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_images.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train_images.npy", content.getvalue())
    with pytest.raises(ScanError, match="two arrays of the .npz have one name"):
        npz_headers(tmp_path / "a.npz")


def tiff_of_one_part(path, data: bytes, side: int | None = None) -> None:
    """A picture of 16 x 16 bytes packed with zlib, in one strip, or one tile of this side."""
    place = ((322, 4, side), (323, 4, side), (324, 4, 134)) if side else ((273, 4, 122), (278, 3, 16))
    tags = [(256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), *place]
    tags.append((325 if side else 279, 4, len(data)))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags)]
    path.write_bytes((head + b"".join(entries)).ljust(134 if side else 122, b"\0") + data)


def test_a_tiff_that_unpacks_to_more_than_its_picture_is_refused(tmp_path):
    """3 MB of it took 3 GB to read a picture of 16 x 16."""
    tiff_of_one_part(tmp_path / "good.tif", zlib.compress(bytes(range(256))))
    assert read_image(tmp_path / "good.tif")[0].sum() == sum(range(256))
    tiff_of_one_part(tmp_path / "bomb.tif", zlib.compress(bytes(1 << 26)))
    with pytest.raises(ScanError, match="unpacks to more than the 256 bytes that it claims"):
        read_image(tmp_path / "bomb.tif")
    tiff_of_one_part(tmp_path / "tile.tif", zlib.compress(bytes(1 << 16)), side=1 << 16)
    with pytest.raises(ScanError, match="a tile of the TIFF claims"):
        read_image(tmp_path / "tile.tif")
