"""prepare and Cache: right voxels in the right place, crops, and nothing lost to a kill or a full disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import blosc2
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medssl.core.errors import MedsslError, ScanError
from medssl.datasets.index import index
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.plan import CACHE_FORMAT
from medssl.preprocessing.store import resample_and_scale
from medssl.scans import geometry
from medssl.scans.modality import AIR_HU
from medssl.scans.scan import Scan
from tests.scans.scan_makers import ct_like, tree, write_nifti, write_series

PSR = np.array([[0, 0, 1.0, -7], [-1.0, 0, 0, 9], [0, 1.0, 0, 2], [0, 0, 0, 1]])


def scan_of(array, affine=None, modality="CT", mask=None):
    affine = np.eye(4) if affine is None else affine
    spacing = geometry.spacing(affine)[: array.ndim - 1]
    return Scan(array, affine, spacing, "p", "s", modality=modality, mask=mask)


def prepared(tmp_path, count=4, mask=True, modality="CT", **options):
    data = tree(tmp_path / "d", count, mask)
    index([data], tmp_path / "m", mask="../labels/{name}" if mask else None, modality=modality)
    return prepare(tmp_path / "m", tmp_path / "c", **options)


def test_turning_is_undone_by_turning_back():
    array = ct_like((4, 5, 6))[None]
    turned, affine = geometry.to_ras(array, PSR)
    assert geometry.orientation(affine) == "RAS"
    back, again = geometry.reorient(turned, affine, "PSR")
    assert (back == array).all()
    assert np.allclose(again, PSR)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array[0], PSR))
    assert (turned[0] == expected.get_fdata()).all()
    assert np.allclose(affine, expected.affine)


@pytest.mark.parametrize("spacing_mm", [(1.3, 0.8, 2.0), (0.5, 1.0, 1.0)])
def test_resampling_leaves_every_point_of_the_world_where_it_was(spacing_mm):
    affine = PSR @ np.diag([1.1, 0.9, 1.4, 1])
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 36, 30)), indexing="ij"), -1)
    world = grid @ affine[:3, :3].T + affine[:3, 3]
    for axis in range(3):
        array = np.rint(world[..., axis] * 100 + 9000).astype(np.int16)[None]
        out, _, moved = resample_and_scale(scan_of(array, affine), spacing_mm)
        assert np.allclose(geometry.spacing(moved), spacing_mm)
        inside = np.stack(np.meshgrid(*(np.arange(6, n - 6) for n in out.shape[1:]), indexing="ij"), -1)
        expected = (inside @ moved[:3, :3].T + moved[:3, 3])[..., axis]
        computed = (out[0][6:-6, 6:-6, 6:-6] - 9000.0) / 100
        assert np.abs(computed - expected).max() < 0.02


def test_equal_spacing_is_left_alone():
    array = ct_like()[None]
    out, mask, affine = resample_and_scale(scan_of(array, mask=(array[0] > 0).astype(np.uint8)), (1.0, 1.0005, 1.0))
    assert (out == np.clip(array, -1024, None)).all()
    assert (mask == (array[0] > 0)).all()
    assert np.allclose(affine, np.eye(4))


def test_downsampling_blurs_first():
    checker = (np.indices((32, 32, 32)).sum(0) % 2 * 1000).astype(np.int16)[None]
    out, _, _ = resample_and_scale(scan_of(checker), (3.0, 3.0, 3.0))
    assert np.abs(out[0, 1:-1, 1:-1, 1:-1] - 500).max() < 120


def test_masks_are_resampled_to_the_nearest():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 5:15, 5:15] = 7
    out, small, _ = resample_and_scale(scan_of(ct_like((20, 20, 20))[None], mask=mask), (2.0, 2.0, 2.0))
    assert small.shape == out.shape[1:] == (10, 10, 10)
    assert set(np.unique(small)) == {0, 7}
    assert abs((small == 7).mean() - (mask == 7).mean()) < 0.05


def test_intensities():
    values = np.linspace(0, 1000, 10_000).astype(np.float32).reshape(1, 20, 20, 25)
    out, _, _ = resample_and_scale(scan_of(values, modality="MR"))
    assert out.dtype == np.float16
    assert np.quantile(out, 0.005) == pytest.approx(0, abs=1e-3)
    assert np.quantile(out, 0.995) == pytest.approx(1, abs=1e-3)
    spiked = values.copy()
    spiked[0, 0, 0, 0] = 1e9
    assert resample_and_scale(scan_of(spiked, modality="MR"))[0].max() == 4
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert (resample_and_scale(scan_of(image, modality="DX"))[0] == (image / 255).astype(np.float16)).all()
    hu = np.array([-3024, -1000, 50, 40_000], np.int32).reshape(1, 1, 2, 2)
    out, _, _ = resample_and_scale(scan_of(hu))
    assert out.dtype == np.int16
    assert out.ravel().tolist() == [-1024, -1000, 50, 32767]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((1, 4, 4, 4), 7, np.int16), "every voxel is 7"),
        (np.array([np.nan, *range(26)], np.float32).reshape(1, 3, 3, 3), "1 of 27 voxels are not finite"),
        (np.linspace(-1024, -960, 27).reshape(1, 3, 3, 3), "air alone"),
    ],
)
def test_scans_without_information_are_rejected(array, words):
    with pytest.raises(ScanError, match=words):
        resample_and_scale(scan_of(array))


def test_a_cache_holds_what_was_prepared(tmp_path):
    cache = prepared(tmp_path)
    assert (cache.dims, cache.channels, cache.modality, cache.spacing_mm) == (3, 1, "CT", (1.0, 1.0, 1.0))
    assert cache.structures == (1, 2)
    assert cache.air == AIR_HU
    for number, row in enumerate(cache.manifest.itertuples()):
        array = np.clip(ct_like((14, 12, 10), seed=number), -1024, None)
        assert (cache.read(row.scan)[0] == array).all()
        assert (cache.read_mask(row.scan) == (array > 900) * (1 + number % 2)).all()
        assert cache.shape(row.scan) == (14, 12, 10)
        assert cache.read_mask(row.scan).shape == (14, 12, 10)
        assert len(row.digest) == 64
    assert cache.valid(np.array([-1000, -900])).tolist() == [False, True]


def test_crops_and_their_padding(tmp_path):
    cache = prepared(tmp_path, count=1)
    scan = cache.manifest.scan[0]
    whole, mask = cache.read(scan), cache.read_mask(scan)
    padded = np.pad(whole, ((0, 0), (20, 30), (20, 30), (20, 30)), constant_values=AIR_HU)
    padded_mask = np.pad(mask, (20, 30))
    random = np.random.default_rng(0)
    for _ in range(60):
        start, size = random.integers(-18, 16, 3), random.integers(1, 19, 3)
        place = tuple(slice(first + 20, first + 20 + many) for first, many in zip(start, size))
        assert (cache.read(scan, start, size) == padded[(slice(None), *place)]).all()
        assert (cache.read_mask(scan, start, size) == padded_mask[place]).all()
    assert (cache.read(scan, (90, 0, 0), (3, 3, 3)) == AIR_HU).all()
    with pytest.raises(MedsslError, match="expected 3 whole numbers"):
        cache.read(scan, (0, 0), (3, 3))
    with pytest.raises(MedsslError, match="not in this cache"):
        cache.read("nobody")


def test_images_are_resized_or_kept(tmp_path):
    (tmp_path / "d").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels[..., [0, 0, 0]] if number else pixels).save(tmp_path / "d" / f"{number}.png")
    index([tmp_path / "d"], tmp_path / "m", modality="CR")
    kept = prepare(tmp_path / "m", tmp_path / "kept")
    assert (kept.channels, kept.modality, len(kept.manifest)) == (1, "DX", 2)
    sized = prepare(tmp_path / "m", tmp_path / "sized", size=(16, 16))
    assert Cache(tmp_path / "sized").size == (16, 16)  # what predict prepares new images by
    assert {sized.read(scan).shape for scan in sized.manifest.scan} == {(1, 16, 16)}
    assert sized.valid(sized.read(sized.manifest.scan[0])).all()
    with pytest.raises(MedsslError, match="has no mask"):
        sized.read_mask(sized.manifest.scan[0])


def test_a_bad_scan_is_rejected_with_its_reason_and_the_others_go_on(tmp_path):
    data = tree(tmp_path / "d", 5)
    write_nifti(data / "images" / "s0.nii.gz", np.full((14, 12, 10), 5, np.int16))
    whole = (data / "images" / "s1.nii.gz").read_bytes()
    (data / "images" / "s1.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_nifti(data / "labels" / "s2.nii.gz", np.full((14, 12, 10), 0.5, np.float32))
    index([data], tmp_path / "m", mask="../labels/{name}", modality="CT")
    (data / "images" / "s3.nii.gz").unlink()
    cache = prepare(tmp_path / "m", tmp_path / "c")
    import pandas as pd

    rows = pd.read_parquet(tmp_path / "c" / "manifest.parquet")
    assert list(rows.status) == ["rejected"] * 4 + ["ok"]
    for reason, words in zip(rows.reason, ("every voxel is 5", "truncated", "not whole numbers", "FileNotFoundError")):
        assert words in reason
        assert str(tmp_path) not in reason
    assert len(cache.manifest) == 1


def test_a_second_run_does_only_what_is_missing(tmp_path):
    cache = prepared(tmp_path)
    volumes = sorted((tmp_path / "c" / "volumes").iterdir())
    before = [path.stat().st_mtime_ns for path in volumes]
    volumes[1].unlink()
    again = prepare(tmp_path / "m", tmp_path / "c")
    after = [path.stat().st_mtime_ns for path in volumes]
    assert [old == new for old, new in zip(before, after)] == [True, False, True, True]
    assert again.digest == cache.digest


def test_a_changed_file_is_prepared_again(tmp_path):
    cache = prepared(tmp_path)
    write_nifti(tmp_path / "d" / "images" / "s0.nii.gz", ct_like((14, 12, 10), seed=77))
    again = prepare(tmp_path / "m", tmp_path / "c")
    assert (again.read(again.manifest.scan[0])[0] == np.clip(ct_like((14, 12, 10), seed=77), -1024, None)).all()
    assert again.digest != cache.digest


def test_a_mask_whose_voxels_lie_beside_its_header_is_prepared_again_when_they_change(tmp_path):
    write_nifti(tmp_path / "images" / "a.nii", ct_like((8, 8, 8)), np.eye(4))
    mask = SimpleITK.GetImageFromArray(np.ones((8, 8, 8), np.uint8))
    mask.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # MetaImage counts in LPS
    (tmp_path / "masks").mkdir()
    SimpleITK.WriteImage(mask, str(tmp_path / "masks" / "a.mhd"))
    index([tmp_path / "images"], tmp_path / "m", modality="CT", mask="../masks/{stem}.mhd")
    assert prepare(tmp_path / "m", tmp_path / "c").structures == (1,)
    (tmp_path / "masks" / "a.raw").write_bytes(bytes([2]) * 512)
    assert prepare(tmp_path / "m", tmp_path / "c").structures == (2,)


def test_a_cache_outlives_its_sources(tmp_path):
    cache = prepared(tmp_path)
    (tmp_path / "d").rename(tmp_path / "unmounted")
    again = prepare(tmp_path / "m", tmp_path / "c")
    assert list(again.manifest.scan) == list(cache.manifest.scan)
    assert again.digest == cache.digest


def test_a_mask_that_is_no_longer_indexed_is_removed(tmp_path):
    prepared(tmp_path)
    index([tmp_path / "d" / "images"], tmp_path / "m", modality="CT")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert cache.structures == ()
    with pytest.raises(MedsslError, match="has no mask"):
        cache.read_mask(cache.manifest.scan[0])


@pytest.mark.long
def test_two_processes_prepare_what_one_does(tmp_path):
    prepared(tmp_path)
    prepare(tmp_path / "m", tmp_path / "two", jobs=2)
    assert whole(tmp_path / "two") == whole(tmp_path / "c")


def test_the_digest_knows_voxels_not_keys(tmp_path):
    prepared(tmp_path)
    index([tmp_path / "d"], tmp_path / "m2", mask="../labels/{name}", modality="CT")
    other = prepare(tmp_path / "m2", tmp_path / "c2")
    cache = Cache(tmp_path / "c")
    assert set(other.manifest.scan).isdisjoint(cache.manifest.scan)
    assert other.digest == cache.digest
    assert prepare(tmp_path / "m", tmp_path / "c3", spacing_mm=(2.0, 2.0, 2.0)).digest != cache.digest


def test_other_settings_on_a_cache_are_refused(tmp_path):
    prepared(tmp_path, spacing_mm=(1.0, 1.0, 1.0))
    assert prepare(tmp_path / "m", tmp_path / "c").spacing_mm == (1.0, 1.0, 1.0)
    with pytest.raises(MedsslError, match=r"begun with spacing_mm \[1.0, 1.0, 1.0\]"):
        prepare(tmp_path / "m", tmp_path / "c", spacing_mm=(2.0, 2.0, 2.0))


def test_a_mixed_cohort_names_its_counts_and_the_option(tmp_path):
    data = tree(tmp_path / "d", 2, mask=False)
    write_series(tmp_path / "d" / "mr", Modality="MR")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(data / "a.png")
    index([data], tmp_path / "m", modality="CT")
    with pytest.raises(MedsslError, match=r"3: 3, 2: 1 .*--dims 2"):
        prepare(tmp_path / "m", tmp_path / "c")
    with pytest.raises(MedsslError, match=r"CT: 2, MR: 1.*--modality"):
        prepare(tmp_path / "m", tmp_path / "c", dims=3)
    assert len(prepare(tmp_path / "m", tmp_path / "c", dims=3, modality="MR").manifest) == 1
    with pytest.raises(MedsslError, match="no scan is left"):
        prepare(tmp_path / "m", tmp_path / "c2", modality="US")
    for wrong in ({"size": (8, 8)}, {"spacing_mm": (1.0, 1.0)}, {"spacing_mm": (1.0, 0.0, 1.0)}):
        with pytest.raises(MedsslError, match=r"expected"):
            prepare(tmp_path / "m", tmp_path / "c2", dims=3, modality="MR", **wrong)


def test_median_spacing_is_taken_in_world_axes(tmp_path):
    for number, affine in enumerate((np.diag([0.7, 0.7, 3.0, 1]), PSR @ np.diag([0.7, 3.0, 0.7, 1]))):
        write_nifti(tmp_path / "d" / f"{number}.nii.gz", affine=affine)
    index([tmp_path / "d"], tmp_path / "m", modality="CT")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert cache.spacing_mm == pytest.approx((0.7, 0.7, 3.0))
    assert sorted(map(tuple, cache.manifest["shape"])) == sorted([(12, 10, 8), (8, 12, 10)])


def test_a_folder_without_cache_or_manifest_is_rejected(tmp_path):
    with pytest.raises(MedsslError, match="is not a cache"):
        Cache(tmp_path)
    with pytest.raises(MedsslError, match=r"holds no manifest\.parquet"):
        prepare(tmp_path, tmp_path / "c")


def read_in_worker(cache, scan, queue):
    queue.put(int(cache.read(scan, (0, 0, 0), (4, 4, 4)).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.long
def test_a_cache_works_in_workers(tmp_path, method):
    cache = prepared(tmp_path, count=1)
    scan = cache.manifest.scan[0]
    expected = int(cache.read(scan, (0, 0, 0), (4, 4, 4)).sum())
    assert int(pickle.loads(pickle.dumps(cache)).read(scan, (0, 0, 0), (4, 4, 4)).sum()) == expected
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_in_worker, args=(cache, scan, queue))
    worker.start()
    assert queue.get(timeout=60) == expected
    worker.join(10)


def test_crops_are_fast(tmp_path):
    write_nifti(tmp_path / "d" / "a.nii", ct_like((128, 128, 96)))
    index([tmp_path / "d"], tmp_path / "m", modality="CT")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    scan = cache.manifest.scan[0]
    cache.read(scan, (0, 0, 0), (32, 32, 32))
    times = []
    for start in np.random.default_rng(0).integers(0, 60, (40, 3)):
        begun = time.perf_counter()
        cache.read(scan, start, (32, 32, 32))
        times.append(time.perf_counter() - begun)
    assert np.median(times) < 0.005  # 0.6 ms on a free core; a shared one is slower


def whole(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_killed_prepare_goes_on_to_the_same_bytes(tmp_path):
    data = tmp_path / "d"
    for number in range(30):
        write_nifti(data / f"s{number}.nii.gz", ct_like((60, 60, 40), seed=number))
    index([data], tmp_path / "m", modality="CT")
    program = (
        "from pathlib import Path; from medssl.preprocessing.cache import prepare; "
        f"prepare(Path({str(tmp_path / 'm')!r}), Path({str(tmp_path / 'killed')!r}), spacing_mm=(1.2, 1.2, "
        "1.2))"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    volumes, deadline = tmp_path / "killed" / "volumes", time.monotonic() + 60
    while len(list(volumes.glob("*.b2nd"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done = len(list(volumes.glob("*.b2nd")))
    assert 4 <= done < 30
    with pytest.raises(MedsslError, match="not finished"):
        Cache(tmp_path / "killed")
    (volumes / ".x.b2nd.1.tmp").write_bytes(b"half")
    prepare(tmp_path / "m", tmp_path / "killed", spacing_mm=(1.2, 1.2, 1.2))
    prepare(tmp_path / "m", tmp_path / "calm", spacing_mm=(1.2, 1.2, 1.2))
    assert whole(tmp_path / "killed") == whole(tmp_path / "calm")


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path, monkeypatch):
    prepared(tmp_path)
    before = whole(tmp_path / "c")
    written = []

    def full(descriptor):
        written.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    write_nifti(tmp_path / "d" / "images" / "s0.nii.gz", ct_like((14, 12, 10), seed=5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MedsslError, match="disk is full"):
            prepare(tmp_path / "m", tmp_path / "c")
    assert written
    assert whole(tmp_path / "c") == before
    assert len(prepare(tmp_path / "m", tmp_path / "c").manifest) == 4


def test_the_cache_describes_itself(tmp_path):
    cache = prepared(tmp_path, spacing_mm=(2.0, 2.0, 2.0))
    about = json.loads((tmp_path / "c" / "cache.json").read_text())
    assert about["complete"]
    assert about["structures"] == [1, 2]
    stored = blosc2.open(str(tmp_path / "c" / "volumes" / f"{cache.manifest.scan[0]}.b2nd"))
    assert stored.shape == (1, 7, 6, 5)
    assert stored.dtype == np.int16


@pytest.mark.long
def test_hippocampus(shared, tmp_path):
    data = shared("hippocampus")
    index(
        [data],
        tmp_path / "m",
        data / "volumes.csv",
        patient="subject",
        mask="../labels/{name}",
        modality="MR",
    )
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert len(cache.manifest) == 168
    assert cache.structures == (1, 2)
    assert cache.spacing_mm == (1.0, 1.0, 1.0)
    scan = cache.manifest.scan[0]
    image = nib.load(sorted((data / "labels").glob("*.nii.gz"))[0])
    assert (cache.read_mask(scan) == np.asarray(image.dataobj)).all()


def test_a_cache_of_another_format_is_refused_with_what_made_it_and_what_to_do(tmp_path):
    prepared(tmp_path)
    path = tmp_path / "c" / "cache.json"
    about = json.loads(path.read_text())
    newer = about | {"settings": about["settings"] | {"version": CACHE_FORMAT + 1}, "medssl": "0.9"}
    padded_with_1024 = about | {"settings": about["settings"] | {"version": 3}}
    without = {key: value for key, value in about.items() if key not in ("settings", "medssl")}
    for other, message in (
        (newer, f"format {CACHE_FORMAT + 1}, made by medssl 0.9"),
        (padded_with_1024, "format 3, made by"),
        (without, "format unknown, made by another version"),
    ):
        path.write_text(json.dumps(other))
        for open_it in (Cache, lambda folder: prepare(tmp_path / "m", folder)):
            with pytest.raises(
                MedsslError,
                match=f"{message}.*: expected format {CACHE_FORMAT}; prepare the manifest into a new folder",
            ):
                open_it(tmp_path / "c")


@pytest.mark.parametrize(("other", "warned"), [(1, False), (255, True)])
def test_masks_of_two_codings_are_reported(tmp_path, other, warned):
    """Half of the masks with 255 in place of 1 made two structures, of which each patient lacked one, without a word."""
    data = tree(tmp_path / "d", 4)
    for number, value in enumerate((1, 1, other, other)):
        write_nifti(
            data / "labels" / f"s{number}.nii.gz", (ct_like((14, 12, 10), number) > 900).astype(np.uint8) * value
        )
    index([data / "images"], tmp_path / "m", mask="../labels/{name}", modality="CT")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(tmp_path / "m", tmp_path / "c")
    said = [str(warning.message) for warning in caught if "never stand in one mask" in str(warning.message)]
    assert [text.partition(";")[0] for text in said] == (
        ["structures that never stand in one mask: 1 in 2 masks, and 255 in 2 masks"] if warned else []
    )
