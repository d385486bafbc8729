"""NIfTI and NRRD: integrity first, one rule for the affine, nothing allocated for a claim."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import nrrd
import numpy as np
import pytest

from medssl.core.errors import ScanError
from medssl.datasets.index import index
from medssl.preprocessing.cache import prepare
from medssl.scans import geometry
from medssl.scans.formats.nifti import nifti_header, read_nifti
from medssl.scans.formats.nrrd import nrrd_header, read_nrrd
from medssl.scans.paths import file_format
from medssl.scans.read import read_scan
from tests.scans.scan_makers import ct_like, write_nifti

AFFINE = np.array([[0, 0, 2.0, -3], [-1.0, 0, 0, 4], [0, 1.5, 0, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_and_affine_are_nibabels(tmp_path, name):
    path = write_nifti(tmp_path / name, affine=AFFINE)
    array, header = read_nifti(path)
    assert (array[0] == ct_like()).all()
    assert np.allclose(header.affine, AFFINE)
    assert header.spacing_mm == pytest.approx((1, 1.5, 2))
    assert array.dtype == np.int16


def test_scale_and_offset_are_applied(tmp_path):
    image = nib.Nifti1Image(ct_like(), np.eye(4))
    image.header.set_slope_inter(0.5, 7)
    nib.save(image, tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    assert np.allclose(read_nifti(tmp_path / "a.nii")[0][0], stored)


def test_four_dimensions_are_frames_in_channels(tmp_path):
    array = np.random.default_rng(0).integers(0, 9, (5, 6, 7, 3)).astype(np.int16)
    scan = read_scan([str(write_nifti(tmp_path / "a.nii.gz", array))], "nifti", "id", "p")
    assert scan.frames == 3
    assert (scan.array == np.moveaxis(array, -1, 0)).all()


def test_one_slice_is_an_image(tmp_path):
    plane = ct_like((7, 5, 1))
    array, header = read_nifti(write_nifti(tmp_path / "a.nii", plane, np.diag([2.0, 3.0, 1, 1])))
    assert (array[0] == plane[:, :, 0].T).all()
    assert header.spacing_mm == (3.0, 2.0)


def test_form_codes_follow_one_rule(tmp_path):
    image = nib.Nifti1Image(ct_like(), np.eye(4))
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 12.5
    image.set_sform(moved, 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "both.nii")
    header = nifti_header(tmp_path / "both.nii")
    assert np.allclose(header.affine, moved)
    assert "sform and qform differ by 12.50 mm: sform used" in header.notes
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "q.nii")
    assert np.allclose(nifti_header(tmp_path / "q.nii").affine, np.eye(4))
    raw = bytearray((tmp_path / "q.nii").read_bytes())
    raw[252:256] = struct.pack("<hh", 0, 0)
    (tmp_path / "none.nii").write_bytes(raw)
    assert "no form code: left and right are not known" in nifti_header(tmp_path / "none.nii").notes


def test_steps_of_the_sform_that_pixdim_contradicts_are_noted(tmp_path):
    image = nib.Nifti1Image(ct_like(), np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 2.5, 1.0]), 1)
    image.set_qform(None, 0)
    for name, step, notes in (
        ("same", 2.5, ()),
        ("other", 3.0, ("1x1x2.5 and 1x1x3",)),
        ("none", 0.0, ("2.5 and 1x1x0",)),
    ):
        image.header["pixdim"][1:4] = 1, 1, step
        raw = bytearray(image.to_bytes())
        raw[80:92] = struct.pack("<3f", 1, 1, step)
        (tmp_path / f"{name}.nii").write_bytes(raw)
        header = nifti_header(tmp_path / f"{name}.nii")
        assert header.spacing_mm == (1, 1, 2.5)
        assert len(header.notes) == len(notes)
        assert all(note in header.notes[0] for note in notes)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("ends", [(".hdr", ".img"), (".hdr", ".img.gz"), (".hdr.gz", ".img.gz")])
def test_a_pair_of_header_and_voxels_is_read(tmp_path, kind, ends):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = kind(ct_like(), affine)
    image.header.set_slope_inter(1, 7)
    nib.save(image, tmp_path / "a.img")
    expected = np.asarray(nib.load(tmp_path / "a.img").dataobj)
    for plain, end in zip((".hdr", ".img"), ends):
        if end.endswith(".gz"):
            content = (tmp_path / f"a{plain}").read_bytes()
            (tmp_path / f"a{plain}").unlink()
            (tmp_path / f"a{end}").write_bytes(gzip.compress(content))
    path = tmp_path / f"a{ends[0]}"
    assert file_format(path) == "nifti"
    array, header = read_nifti(path)
    assert np.allclose(array[0], expected)
    assert np.allclose(header.affine, affine)
    (tmp_path / f"a{ends[1]}").write_bytes((tmp_path / f"a{ends[1]}").read_bytes()[:-9])
    with pytest.raises(ScanError):
        read_nifti(path)
    (tmp_path / f"a{ends[1]}").unlink()
    with pytest.raises(ScanError, match=r"0 files \.img or \.img\.gz lie beside this \.hdr"):
        nifti_header(path)


def test_analyze_is_read_and_says_that_left_and_right_are_not_known(tmp_path):
    image = nib.AnalyzeImage(ct_like(), np.diag([-1.0, 2.0, 3.0, 1.0]))
    nib.save(image, tmp_path / "a.img")
    array, header = read_nifti(tmp_path / "a.hdr")
    assert (array[0] == ct_like()).all()
    assert header.spacing_mm == (1, 2, 3)
    assert "no form code: left and right are not known" in header.notes
    raw = bytearray((tmp_path / "a.hdr").read_bytes())
    raw[252:256] = b"\1\0\1\0"  # Analyze's orientation and originator, where NIfTI has its form codes
    (tmp_path / "a.hdr").write_bytes(raw)
    assert "no form code: left and right are not known" in nifti_header(tmp_path / "a.hdr").notes
    raw[112:116] = struct.pack("<f", 0.5)
    (tmp_path / "a.hdr").write_bytes(raw)
    with pytest.raises(ScanError, match=r"scale by 0\.5, as SPM's do"):
        nifti_header(tmp_path / "a.hdr")


@pytest.mark.parametrize("magic", [b"ni1\0", b"\0\0\0\0"], ids=["pair", "analyze"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_header_of_a_pair_in_a_single_file_is_refused(tmp_path, magic, name):
    """Its first bytes were voxels, and all others 352 bytes off, where the volume ends with air."""
    volume = ct_like()
    volume[..., 4:] = 0
    raw = bytearray(nib.Nifti1Image(volume, np.eye(4)).to_bytes())
    raw[344:348], raw[108:112] = magic, bytes(4)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(ScanError, match="where its voxels begin is unknown"):
        read_nifti(tmp_path / name)


@pytest.mark.parametrize(("unit", "slope", "words"), [(4, 1, "unknown unit 4"), (2, np.inf, "scl_slope is inf")])
def test_units_and_scales_that_cannot_be_are_refused(tmp_path, unit, slope, words):
    raw = bytearray(nib.Nifti1Image(ct_like(), np.eye(4)).to_bytes())
    raw[123], raw[112:116] = unit, struct.pack("<f", slope)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(ScanError, match=words):
        nifti_header(tmp_path / "a.nii")


def test_an_offset_without_a_scale_is_noted(tmp_path):
    raw = bytearray(nib.Nifti1Image(ct_like(), np.eye(4)).to_bytes())
    raw[112:120] = struct.pack("<2f", 0, -1024)
    (tmp_path / "a.nii").write_bytes(raw)
    array, header = read_nifti(tmp_path / "a.nii")
    assert (array[0] == ct_like()).all()  # as the format says
    assert "scl_inter is -1024 and is not added, since scl_slope is 0" in header.notes


def test_pairs_in_a_folder_are_one_scan_each_and_headers_of_other_programs_are_skipped(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Pair(ct_like(), np.eye(4)), tmp_path / "d" / f"{name}.img")
        nib.save(nib.Nifti1Pair((ct_like() > 0).astype(np.uint8), np.eye(4)), tmp_path / "d" / f"{name}_mask.img")
    (tmp_path / "d" / "envi.hdr").write_text("ENVI\nsamples = 3\n")
    manifest = index([tmp_path / "d"], tmp_path / "m", mask="{stem}_mask.hdr", modality="CT")
    assert manifest.status.tolist() == ["ok", "ok"]
    assert manifest.has_mask.all()
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert (cache.read_mask(manifest["scan"][0]) == (ct_like() > 0)).all()


def test_a_sheared_affine_is_refused(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    image = nib.Nifti1Image(ct_like(), sheared)
    image.set_sform(sheared, 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(ScanError, match=r"sheared by 11\.\d+ degrees"):
        nifti_header(tmp_path / "a.nii")


def test_no_flipped_bit_gives_other_voxels(tmp_path):
    whole = write_nifti(tmp_path / "a.nii.gz").read_bytes()
    random = np.random.default_rng(1)
    path, found = tmp_path / "b.nii.gz", 0
    for bit in random.integers(0, len(whole) * 8, 150):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        try:
            assert (read_nifti(path)[0][0] == ct_like()).all()
        except ScanError:
            found += 1
    assert found > 140


def test_truncated_empty_and_html_files_are_refused(tmp_path):
    whole = write_nifti(tmp_path / "a.nii.gz").read_bytes()
    flat = gzip.decompress(whole)
    broken = {
        "cut.nii.gz": whole[:-200],
        "trailer.nii.gz": whole[:-3],
        "empty.nii.gz": b"",
        "html.nii.gz": b"<html>404</html>" * 40,
        "packed_html.nii.gz": gzip.compress(b"<html>404</html>" * 40),
        "cut.nii": flat[:-20],
        "html.nii": b"<html>404</html>" * 40,
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ScanError):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("packed", [False, True])
def test_a_claim_of_32767_cubed_is_refused_by_its_header(tmp_path, packed):
    flat = bytearray(gzip.decompress(write_nifti(tmp_path / "a.nii.gz").read_bytes()))
    flat[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path = tmp_path / ("b.nii.gz" if packed else "b.nii")
    path.write_bytes(gzip.compress(flat) if packed else flat)
    with pytest.raises(ScanError, match="claims 70"):
        nifti_header(path)


def test_a_bomb_stops_at_what_the_header_claims(tmp_path):
    flat = gzip.decompress(write_nifti(tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(flat + bytes(64 << 20)))
    with pytest.raises(ScanError, match="unpacks to more than"):
        read_nifti(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_nrrd_lands_in_ras(tmp_path, encoding, space):
    header = {
        "space": space,
        "space directions": AFFINE[:3, :3].T,
        "space origin": AFFINE[:3, 3],
        "encoding": encoding,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), ct_like(), header)
    array, described = read_nrrd(tmp_path / "a.nrrd")
    flip = np.diag([-1, -1, 1, 1]) if space.startswith("left") else np.eye(4)
    assert (array[0] == ct_like()).all()
    assert np.allclose(described.affine, flip @ AFFINE)


def test_a_damaged_nrrd_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), ct_like(), {"encoding": "gzip"})
    whole = (tmp_path / "a.nrrd").read_bytes()
    for data in (
        whole[:-50],
        whole.replace(b"sizes: 12", b"sizes: 99999999"),
        b"NRRD0004\n",
        whole[:-9] + b"x" * 9,
    ):
        (tmp_path / "b.nrrd").write_bytes(data)
        with pytest.raises(ScanError):
            read_nrrd(tmp_path / "b.nrrd")


def test_real_nrrd_equals_pynrrd(shared):
    for path in sorted(shared("nrrd").glob("*.nrrd")):
        array, _ = read_nrrd(path)
        assert (array[0] == nrrd.read(str(path))[0]).all()
        assert geometry.orientation(nrrd_header(path).affine) in ("LAS", "LPS", "RAS", "RPS")


def test_real_spinal_cord_equals_nibabel(shared):
    for path in sorted(shared("spinal_cord").rglob("*.nii.gz")):
        array, header = read_nifti(path)
        image = nib.load(path)
        expected = np.asarray(image.dataobj)
        expected = np.moveaxis(expected, -1, 0) if expected.ndim == 4 else expected[None]
        assert (array == expected.astype(array.dtype)).all()  # what is scaled is float32, rounded from float64
        assert np.allclose(header.affine, image.affine, atol=1e-5)
