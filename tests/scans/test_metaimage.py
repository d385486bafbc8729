"""MetaImage: SimpleITK is the oracle; a header leads nowhere but beside itself, and is held against its bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from medssl.core.errors import ScanError
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.preprocessing.cache import prepare
from medssl.scans.formats.metaimage import metaimage_header, read_metaimage
from medssl.scans.read import read_mask
from tests.scans.scan_makers import ct_like

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def itk_affine(image) -> np.ndarray:
    """(4, 4) voxel -> mm in RAS+, by asking ITK itself where four voxels lie."""
    corners = np.array([image.TransformIndexToPhysicalPoint(index) for index in np.eye(4, 3, dtype=int).tolist()])
    affine = np.eye(4)
    affine[:3, 3] = corners[3]
    affine[:3, :3] = (corners[:3] - corners[3]).T
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write(path, array=None, compress=False, direction=OBLIQUE):
    image = sitk.GetImageFromArray((ct_like() if array is None else array).transpose())
    image.SetSpacing((0.75, 1.25, 2.5))
    image.SetOrigin((-20.0, 31.5, 7.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


@pytest.mark.parametrize(("name", "compress"), list(itertools.product(("a.mha", "a.mhd"), (False, True))))
def test_voxels_and_affine_are_itks(tmp_path, name, compress):
    path = write(tmp_path / name, compress=compress)
    array, header = read_metaimage(path)
    assert (array[0] == ct_like()).all()
    assert np.allclose(header.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-9)
    assert header.spacing_mm == pytest.approx((0.75, 1.25, 2.5))
    assert header.affine_rule == "directions"


def test_units_are_turned_into_mm(tmp_path):
    """They were taken for mm, whatever they were; ITK keeps the numbers, and the unit beside them."""
    path = write(tmp_path / "a.mhd")
    affine = metaimage_header(path).affine
    path.write_text(path.read_text().replace("ObjectType = Image", "ObjectType = Image\nDistanceUnits = cm"))
    header = metaimage_header(path)
    assert sitk.ReadImage(str(path)).GetMetaData("ITK_VoxelUnits") == "cm"
    np.testing.assert_allclose(header.affine[:3], 10 * affine[:3])
    assert "units turned into mm (times 10)" in header.notes


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_keeps_its_numbers(tmp_path, dtype):
    array = (ct_like() % 100).astype(dtype)
    read, _ = read_metaimage(write(tmp_path / "a.mha", array))
    assert read.dtype == array.dtype
    assert (read[0] == array).all()


def test_big_endian_and_old_keys(tmp_path):
    voxels = ct_like((4, 3, 2))
    head = (
        "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\nElementByteOrderMSB = True\n"
        "Origin = 1 2 3\nRotation = 1 0 0 0 1 0 0 0 1\nElementSize = 2 3 4\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(head.encode() + voxels.astype(">i2").tobytes(order="F"))
    array, header = read_metaimage(tmp_path / "a.mha")
    assert (array[0] == voxels).all()
    assert header.affine.tolist() == [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]]


@pytest.mark.parametrize("word", ["T", "true", "1", "F", "false", "0"])
def test_the_order_of_bytes_is_read_as_itk_reads_it(tmp_path, word):
    """`T` was taken for no, so that every number had its bytes turned."""
    path = write(tmp_path / "a.mhd")
    path.write_text(path.read_text().replace("BinaryDataByteOrderMSB = False", f"BinaryDataByteOrderMSB = {word}"))
    array, _ = read_metaimage(path)
    assert (array[0] == sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)).all()
    assert (array[0] == ct_like()).all() == (word in ("F", "false", "0"))


def test_time_is_frames_colour_is_channels_and_a_plane_is_an_image(tmp_path):
    series = np.random.default_rng(0).integers(0, 99, (5, 6, 7, 3)).astype(np.int16)
    volumes = [sitk.GetImageFromArray(series[..., t].transpose()) for t in range(3)]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "time.mha"))
    array, header = read_metaimage(tmp_path / "time.mha")
    assert header.frames == 3
    assert (array == np.moveaxis(series, -1, 0)).all()
    colour = sitk.GetImageFromArray(series.transpose(2, 1, 0, 3), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.mha"))
    array, header = read_metaimage(tmp_path / "colour.mha")
    assert (header.frames, header.channels) == (1, 3)
    assert (array == np.moveaxis(series, -1, 0)).all()
    sitk.WriteImage(sitk.GetImageFromArray(series[:, :, 0, 0].T), str(tmp_path / "plane.mha"))
    array, header = read_metaimage(tmp_path / "plane.mha")
    assert header.shape == (6, 5)
    assert (array[0] == series[:, :, 0, 0].T).all()


OUTSIDE = ["../secret.raw", "/etc/passwd", "sub/a.raw", "..", "", "C:\\secret.raw", "a\0b", "x" * 300]
LISTS = ["LIST", "LIST 2", "a%03d.raw 1 10 1"]


@pytest.mark.parametrize("name", OUTSIDE + LISTS)
def test_a_header_leads_nowhere_but_beside_itself(tmp_path, name):
    (tmp_path / "secret.raw").write_bytes(bytes(12 * 10 * 8 * 2))
    (tmp_path / "d").mkdir()
    path = write(tmp_path / "d" / "a.mhd")
    path.write_text(path.read_text().replace("ElementDataFile = a.raw", f"ElementDataFile = {name}"))
    with pytest.raises(ScanError, match="leads out of" if name in OUTSIDE else "list of files") as caught:
        read_metaimage(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("DimSize = 12 10 8", "DimSize = 32767 32767 32767", "claims 70"),
        ("DimSize = 12 10 8", "DimSize = 12 10", "does not hold 3 finite"),
        ("DimSize = 12 10 8", "DimSize = 12 10 -8", "dimsize does not hold 3"),
        ("DimSize = 12 10 8", "DimSize = 12 10 7", "the header claims"),
        ("NDims = 3", "NDims = 9", "ndims is 9"),
        ("MET_SHORT", "MET_STRING", "ElementType"),
        ("BinaryData = True", "BinaryData = False", "stored as text"),
        ("ObjectType = Image", "HeaderSize = -1", "HeaderSize"),
        ("ElementSpacing = 0.75 1.25 2.5", "ElementSpacing = 0 1.25 2.5", r"spacing_mm\[0\] is 0"),
        ("ElementSpacing = 0.75 1.25 2.5", "ElementSpacing = nan 1.25 2.5", "finite"),
        ("TransformMatrix = 0.8", "TransformMatrix = 3", "long: expected 1"),
        ("ObjectType = Image", "ElementToIntensityFunctionSlope = 2", "that are to be rescaled are not read"),
        ("ObjectType = Image", "DistanceUnits = s", "are not a length"),
        ("ObjectType = Image", "DimSize = 10 12 8", "dimsize stands twice"),
        ("ElementDataFile", "Nothing", "cannot be parsed"),
        ("ObjectType = Image", "ElementByteOrderMSB = True", "binarydatabyteordermsb stands twice"),
        ("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = maybe", "neither True nor False"),
        ("ElementSpacing = 0.75", "ElementSpacing = -0.75", "ElementSpacing of the MetaImage is negative"),
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path, old, new, words):
    path = write(tmp_path / "a.mhd")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ScanError, match=words):
        read_metaimage(path)


def test_every_flipped_bit_and_cut_of_compressed_voxels_is_found(tmp_path):
    path = write(tmp_path / "a.mhd", compress=True)
    voxels = next(tmp_path.glob("*.zraw"))
    whole = voxels.read_bytes()
    random = np.random.default_rng(2)
    for bit in random.integers(0, len(whole) * 8, 200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        voxels.write_bytes(flipped)
        with pytest.raises(ScanError):
            read_metaimage(path)
    for broken in (whole[:-3], whole[:50], b"", whole + b"more"):
        voxels.write_bytes(broken)
        with pytest.raises(ScanError):
            read_metaimage(path)


def test_an_archive_of_them_goes_through_index_and_prepare(tmp_path):
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "a.mhd")
    write(tmp_path / "d" / "a_mask.mha", (ct_like() > 0).astype(np.uint8), compress=True)
    manifest = index([tmp_path / "d"], tmp_path / "m", mask="{stem}_mask.mha", modality="MR")
    assert list(manifest.status) == ["ok"]
    assert not any("other kinds" in text for text in manifest.attrs["warnings"])
    assert [name.rsplit("/")[-1] for name in read_table(tmp_path / "m" / "sources.parquet").files[0]] == [
        "a.mhd",
        "a.raw",
    ]
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert cache.read_mask(cache.manifest.scan[0]).any()
    affine = metaimage_header(tmp_path / "d" / "a.mhd").affine
    assert (read_mask(tmp_path / "d" / "a_mask.mha", affine, (12, 10, 8)) == (ct_like() > 0)).all()
