"""Damage and nonsense in files: never other voxels, never a crash, a hang or a gigabyte; flags and counts for the rest."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medssl.core.errors import MedsslError, ScanError
from medssl.datasets.base import IndexOptions
from medssl.datasets.candidates import Candidate, Source
from medssl.datasets.index import index
from medssl.datasets.labels import LabelTable
from medssl.datasets.manifest import read_table
from medssl.datasets.quality import has_flag
from medssl.preprocessing.cache import prepare
from medssl.scans.formats.nifti import read_nifti
from medssl.scans.read import read_headers, read_scan
from tests.scans.scan_makers import ct_like, slice_dataset, write_nifti, write_series

pytestmark = pytest.mark.long


def gz_files() -> list[bytes]:
    """Real-ish .nii.gz files: types, sizes, levels, byte orders, extensions, several members, zeros at the end."""
    random = np.random.default_rng(5)
    smooth = np.cumsum(random.integers(-3, 4, (24, 20, 18)), axis=0)
    flat = [nifti_bytes(smooth.astype(kind)) for kind in (np.int16, np.uint8, np.float32)]
    flat.append(nifti_bytes((smooth * 1000).astype(np.int32), slope=0.5))
    flat.append(nifti_bytes(random.normal(size=(9, 8, 7, 3)), extension=b"a comment of some length" * 3))
    flat.append(nifti_bytes(np.zeros((40, 30, 20), np.int16)))
    packed = [gzip.compress(data, level, mtime=0) for data, level in zip(flat, (9, 1, 6, 0, 6, 9))]
    half = len(flat[0]) // 2
    packed.append(gzip.compress(flat[0][:half], 6) + gzip.compress(flat[0][half:], 1))
    packed.append(gzip.compress(flat[1][:352]) + gzip.compress(flat[1][352:]) + bytes(64))
    named = io.BytesIO()
    with gzip.GzipFile("scan.nii", "wb", fileobj=named) as file:
        file.write(flat[2])
    return [*packed, named.getvalue()]


def nifti_bytes(array: np.ndarray, slope: float | None = None, extension: bytes | None = None) -> bytes:
    image = nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.header.set_slope_inter(slope, 0 if slope else None)
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    return image.to_bytes()


def outcome(path: Path) -> tuple:
    """What a reader believes of a file: voxels, type and where they lie."""
    array, header = read_nifti(path)
    return array.dtype.str, array.shape, array.tobytes(), header.affine.tobytes(), header.frames


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """One bit flipped, or (one in eight) the end cut off."""
    if random.random() < 0.125:
        return whole[: random.integers(0, len(whole))]
    place = int(random.integers(0, len(whole) * 8))
    return whole[: place // 8] + bytes([whole[place // 8] ^ 1 << place % 8]) + whole[place // 8 + 1 :]


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_or_cut_of_a_nii_gz_gives_other_voxels(tmp_path, count):
    files, random = gz_files(), np.random.default_rng(count)
    path = tmp_path / "a.nii.gz"
    whole = []
    for data in files:
        path.write_bytes(data)
        whole.append(outcome(path))
    refused = same = other = 0
    for number in range(count):
        chosen = number % len(files)
        broken = damaged(files[chosen], random)
        path.write_bytes(broken)
        try:
            if outcome(path) == whole[chosen]:
                same += 1
            else:
                other += 1
        except ScanError:
            refused += 1
    print(f"{count} damaged .nii.gz: {refused} refused, {same} with the same voxels, {other} accepted with other ones")
    assert other == 0
    assert refused > 0.9 * count


@pytest.mark.parametrize(
    ("place", "kind", "value", "words"),
    [
        (40, "<h", 9, "dim"),
        (42, "<h", 11, "nothing after the voxels"),
        (42, "<h", -12, "dim"),
        (70, "<h", 16, "bitpix"),
        (70, "<h", 77, "datatype"),
        (72, "<h", 8, "bitpix"),
        (108, "<f", 100.0, "vox_offset"),
        (108, "<f", float("nan"), "vox_offset"),
        (108, "<f", 1e30, "vox_offset|claims"),
        (280, "<f", float("inf"), "affine"),
    ],
)
def test_what_can_be_checked_of_a_plain_nii_is(tmp_path, place, kind, value, words):
    """A .nii has no checksum: sizes, types and geometry that contradict each other are refused."""
    raw = bytearray(write_nifti(tmp_path / "a.nii").read_bytes())
    struct.pack_into(kind, raw, place, value)
    (tmp_path / "b.nii").write_bytes(raw)
    with pytest.raises(ScanError, match=words):
        read_nifti(tmp_path / "b.nii")


FORMATS = "nifti,nrrd,metaimage,image,npz,dicom,labels"


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_broken_header_crashes_hangs_or_takes_a_gigabyte(count):
    """Its own process, because a limit on memory cannot be taken back; see fuzzing.py."""
    repository = Path(__file__).resolve().parents[2]
    here = dict(os.environ, PYTHONPATH=str(repository), OMP_NUM_THREADS="1")
    words = [sys.executable, "-m", "tests.scans.fuzzing", FORMATS, str(count), "1"]
    done = subprocess.run(words, cwd=repository, env=here, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    print(done.stdout)
    assert {line["format"] for line in lines} == set(FORMATS.split(",")), done.stderr
    assert {line["format"]: line["findings"] for line in lines if line["findings"]} == {}


def test_the_fuzzer_finds_a_crash_a_hang_and_a_gigabyte(tmp_path):
    """The test above cannot pass by looking away: a reader with each fault is found out."""
    code = """
import time, numpy as np
from tests.scans import fuzzing
def crash(path, format): raise KeyError("x")
def hang(path, format):
    while True: time.sleep(0.1)
def hog(path, format): np.zeros(1 << 31, np.uint8)
fuzzing.CASE_S = 0.2
calls = iter([crash] * 20 + [crash, hang, hog])
fuzzing.read = lambda path, format: next(calls)(path, format)
fuzzing.main(["labels", "3", "0"])
"""
    here = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[2]), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["findings"]
    assert found["too slow"] == 1
    assert {name.split()[0] for name in found} == {"KeyError", "too", "MemoryError"}


ANY_FILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
VALUE = st.one_of(TEXT, st.integers().map(str), st.lists(st.floats(), max_size=10).map(lambda v: " ".join(map(str, v))))


def refused_or_read(path: Path, format: str) -> None:
    try:
        for member, _ in read_headers(path, format):
            read_scan([str(path)], format, "scan", "patient", member=member)
    except ScanError:
        pass


META_KEYS = ["NDims", "DimSize", "ElementType", "TransformMatrix", "Offset", "ElementSpacing", "CompressedData"]
META_KEYS += [
    "CompressedDataSize",
    "ElementNumberOfChannels",
    "ElementDataFile",
    "BinaryDataByteOrderMSB",
    "HeaderSize",
]


@ANY_FILE
@given(st.lists(st.tuples(st.sampled_from(META_KEYS) | TEXT, VALUE), max_size=6), st.binary(max_size=64))
def test_any_metaimage_is_read_or_refused(tmp_path, fields, data):
    start = "NDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementSpacing = 1 1\n"
    text = start + "".join(f"{key} = {value}\n" for key, value in fields) + "ElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(text.encode() + data)
    refused_or_read(tmp_path / "a.mha", "metaimage")


NRRD_KEYS = ["type", "dimension", "sizes", "space", "space directions", "space origin", "encoding", "endian", "kinds"]
NRRD_KEYS += ["spacings", "data file", "line skip", "byte skip", "content", "axis mins", "units", "labels"]


@ANY_FILE
@given(st.lists(st.tuples(st.sampled_from(NRRD_KEYS) | TEXT, VALUE), max_size=6), st.binary(max_size=64))
def test_any_nrrd_is_read_or_refused(tmp_path, fields, data):
    start = "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\n"
    text = start + "".join(f"{key}: {value}\n" for key, value in fields) + "\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + data)
    refused_or_read(tmp_path / "a.nrrd", "nrrd")


@ANY_FILE
@given(st.lists(st.tuples(st.integers(40, 347), st.binary(min_size=1, max_size=8)), max_size=8))
def test_any_nifti_header_is_read_or_refused(tmp_path, edits):
    raw = bytearray(nifti_bytes(ct_like((4, 4, 4))))
    for place, data in edits:
        raw[place : place + len(data)] = data
    (tmp_path / "a.nii").write_bytes(raw)
    refused_or_read(tmp_path / "a.nii", "nifti")


@ANY_FILE
@given(st.lists(st.lists(TEXT, max_size=4), max_size=5), st.binary(max_size=20))
def test_any_table_of_labels_is_read_or_refused(tmp_path, rows, tail):
    lines = ["file,who,finding", *(",".join(row) for row in rows)]
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode() + tail)
    try:
        table = LabelTable(IndexOptions(labels=tmp_path / "a.csv", patient="who", label=["finding"]))
    except MedsslError:
        return
    candidate = Candidate(Source(Path("d"), "d"), Path("d/a.nii"), ["d/a.nii"], "nifti")
    assert len(list(table.join([candidate], [], lambda scan: scan.identity))) == 1


# What can be read but shows nothing, or may not be wanted.


def test_volumes_that_show_nothing_are_counted_out_and_the_others_go_on(tmp_path):
    fine = ct_like((16, 14, 12)).astype(np.float32)
    holes = fine.copy()
    holes[3, 4, 5:8] = np.nan
    endless = fine.copy()
    endless[0, 0, 0] = np.inf
    empty = {"nan": holes, "inf": endless, "constant": np.full_like(fine, 7), "air": np.full_like(fine, -1000)}
    empty["air"][0, 0, 0] = -999
    for name, array in {"fine": fine, **empty}.items():
        write_nifti(tmp_path / "d" / f"{name}.nii.gz", array)
    assert list(index([tmp_path / "d"], tmp_path / "m", modality="CT").status) == ["ok"] * 5
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert len(cache.manifest) == 1
    assert (cache.read(cache.manifest.scan[0])[0] == np.rint(fine)).all()
    rows = read_table(tmp_path / "c" / "manifest.parquet")
    reasons = " | ".join(rows.reason[rows.status == "rejected"])
    for words in ("3 of 2688 voxels are not finite", "1 of 2688 voxels", "every voxel is 7", "air alone"):
        assert words in reasons


def rows_of(folder: Path) -> dict[str, object]:
    """Rows of a manifest by the stem of their first file."""
    files = read_table(folder / "m" / "sources.parquet").set_index("scan").files
    rows = read_table(folder / ("c" if (folder / "c").exists() else "m") / "manifest.parquet")
    return {Path(files[row.scan][0]).name.split(".")[0]: row for row in rows.itertuples()}


def test_flags_say_what_may_not_be_wanted(tmp_path):
    fine, random = ct_like((16, 14, 12)), np.random.default_rng(1)
    clipped = np.clip(fine, -1000, 1000)
    mostly = np.zeros_like(fine)
    mostly[:2, :2] = random.integers(1, 900, (2, 2, 12))
    arrays = {"fine": fine, "copy": fine, "clipped": clipped, "mostly": mostly, "few": fine % 3, "thin": fine[:, :, :5]}
    for name, array in arrays.items():
        write_nifti(tmp_path / "d" / f"{name}.nii", array)
    write_nifti(tmp_path / "d" / "coarse.nii", ct_like((16, 14, 12), 2), np.diag([1.0, 1.0, 12.0, 1.0]))
    raw = bytearray(write_nifti(tmp_path / "d" / "sides.nii", ct_like((16, 14, 12), 3)).read_bytes())
    raw[252:256] = bytes(4)
    (tmp_path / "d" / "sides.nii").write_bytes(raw)
    index([tmp_path / "d"], tmp_path / "m", modality="MR")
    at_index = {name: row.flags for name, row in rows_of(tmp_path).items()}
    assert {name: flags for name, flags in at_index.items() if flags} == {
        "thin": "few slices",
        "coarse": "extreme spacing",
        "sides": "laterality unknown",
    }
    prepare(tmp_path / "m", tmp_path / "c", spacing_mm=(1.0, 1.0, 1.0))
    rows = rows_of(tmp_path)
    assert {name: row.flags for name, row in rows.items() if row.flags} == {
        "fine": f"duplicate of {rows['copy'].scan}",
        "clipped": "clipped range",
        "mostly": "mostly air",
        "few": "clipped range; few values",
        "thin": "few slices",
        "coarse": "extreme spacing",
        "sides": "laterality unknown",
    }
    assert rows["sides"].affine_rule == "pixdim"
    assert rows["fine"].affine_rule == "sform"
    assert rows["fine"].qform_apart_mm == 0
    assert {row.status for row in rows.values()} == {"ok"}


def test_flagged_scans_are_left_out_when_asked(tmp_path):
    for name, shape in {"a": (16, 14, 12), "b": (16, 14, 12), "thin": (16, 14, 5)}.items():
        write_nifti(tmp_path / "d" / f"{name}.nii", ct_like(shape))
    manifest = index([tmp_path / "d"], tmp_path / "m", modality="CT")
    assert list(has_flag(manifest, "few slices")) == [False, False, True]
    cache = prepare(tmp_path / "m", tmp_path / "c", leave_out=["few slices", "duplicate of"])
    assert len(cache.manifest) == 1
    rows = rows_of(tmp_path)
    assert rows["thin"].reason == "left out as asked, flagged: few slices"
    assert rows["b"].reason == f"left out as asked, flagged: duplicate of {rows['a'].scan}"
    with pytest.raises(MedsslError, match="did you mean few slices"):
        prepare(tmp_path / "m", tmp_path / "c2", leave_out=["few slice"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Modality": "US"}, "ultrasound"),
        ({"Modality": "RF"}, "fluoroscopy"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "secondary capture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen save"),
    ],
)
def test_what_may_show_a_name_is_quarantined_unless_it_says_no_or_is_accepted(tmp_path, fields, words):
    plane = ct_like((12, 10, 1))[:, :, 0]
    write_series(tmp_path / "d" / "ct")
    for name, more in {"silent": {}, "no": {"BurnedInAnnotation": "NO"}, "yes": {"BurnedInAnnotation": "YES"}}.items():
        (tmp_path / "d" / name).mkdir()
        slice_dataset(plane, (0, 0, 0), series=f"1.{len(name)}", **fields, **more).save_as(
            tmp_path / "d" / name / "a.dcm"
        )
    manifest = index([tmp_path / "d"], tmp_path / "m")
    assert list(manifest.status) == ["ok", "ok", "rejected", "rejected"]
    assert manifest.reason[2].startswith("quarantined: ")
    assert words in manifest.reason[2]
    accepted = index([tmp_path / "d"], tmp_path / "m2", accept_burned_in_risk=True)
    assert list(accepted.status) == ["ok", "ok", "ok", "rejected"]
    assert list(has_flag(accepted, "burned-in text risk")) == [False, False, True, False]
