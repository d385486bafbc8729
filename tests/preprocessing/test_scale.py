"""One code path whatever does the work, bounded memory, a cache that follows its manifest and survives any kill."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from torch.utils.data import DataLoader

from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.core.parallel import run_parallel
from medssl.datasets.index import index
from medssl.datasets.manifest import Columns, manifest_frame, read_table, source_files, to_parquet
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.crops import Crops, StepSampler, crop_by_spacing
from medssl.preprocessing.fingerprint import target_spacing
from medssl.preprocessing.plan import CACHE_FORMAT
from medssl.scans.dicom.slices import read_slices
from medssl.scans.paths import walk
from tests.scans.scan_makers import ct_like, tree, write_nifti, write_series

pytestmark = pytest.mark.long


def whole(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(root, count=9):
    """NIfTI with masks, DICOM series, a broken file, a file that is no scan."""
    tree(root / "nifti", count)
    for number in range(3):
        write_series(root / "ct" / str(number), ct_like(seed=number), series=f"1.{number}", PatientID=f"P{number}")
    (root / "nifti" / "images" / "broken.nii.gz").write_bytes(b"junk")
    (root / "nifti" / "read.me").write_text("hello")
    return root


@pytest.fixture(scope="module")
def cluster():
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        yield local.scheduler_address


def test_one_process_two_and_a_cluster_make_the_same_manifest_and_cache(tmp_path, cluster):
    data = archive(tmp_path / "d")
    made, caches = [], []
    for name, how in {"one": {"jobs": 1}, "two": {"jobs": 2}, "cluster": {"scheduler": cluster}}.items():
        made.append(index([data], tmp_path / "m", mask="../labels/{name}", modality="CT", **how))
        prepare(tmp_path / "m", tmp_path / name, spacing_mm=(1.0, 1.0, 2.0), **how)
        caches.append(whole(tmp_path / name))
    assert len(made[0]) == 13
    for other, cache in zip(made[1:], caches[1:]):
        pd.testing.assert_frame_equal(made[0], other)
        assert cache == caches[0]


def test_a_missing_cluster_or_package_is_reported(monkeypatch):
    with pytest.raises(MedsslError, match=r"no dask scheduler answers at 'nonsense'.*expected tcp://"):
        list(run_parallel(abs, range(3), 1, "x", scheduler="nonsense"))
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(MedsslError, match=r"pip install 'medssl\[cluster\]'"):
        list(run_parallel(abs, range(3), 1, "x", scheduler="tcp://127.0.0.1:1"))


def test_streams_keep_their_order_and_are_not_read_ahead_without_end():
    taken = []
    stream = (taken.append(number) or number for number in range(-1000, 1000))
    results = run_parallel(abs, stream, 1, "x")
    assert next(results) == 1000
    assert len(taken) < 5
    assert list(run_parallel(abs, iter(range(-50, 50)), 2, "x", batch=7)) == [abs(n) for n in range(-50, 50)]


def test_walk_goes_by_name_meets_a_file_once_and_follows_links_to_hidden_places(tmp_path):
    for name in ("b/x.png", "b.png", "a/y.png", ".git/annex.png", "out/z.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    (tmp_path / "d" / "c.png").symlink_to(tmp_path / "d" / "b.png")
    (tmp_path / "d" / "e.png").symlink_to(tmp_path / "d" / ".git" / "annex.png")
    (tmp_path / "d" / "f.png").symlink_to(tmp_path / "d" / ".git" / "annex.png")
    sources = [tmp_path / "d" / "a", tmp_path / "d"]
    names = [path.relative_to(tmp_path / "d").as_posix() for _, path in walk(sources, leave_out=tmp_path / "d" / "out")]
    assert names == ["a/y.png", "b/x.png", "b.png", "e.png"]


MEMORY = """
import sys, tracemalloc
from pathlib import Path
from medssl.datasets.index import index
folder, out = map(Path, sys.argv[1:])
index([folder], out / "warm")
tracemalloc.start()
print(len(index([folder], out / "m")), tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.slow
def test_scans_waiting_for_the_manifest_take_no_memory(tmp_path):
    folder = tmp_path / "d"
    write_nifti(folder / "s0000.nii", ct_like((4, 4, 4)))
    for number in range(1, 3000):
        os.link(folder / "s0000.nii", folder / f"s{number:04d}.nii")
    program = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        MEMORY,
        str(folder),
        str(tmp_path),
    ]  # what ran before is not counted
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    scans, peak_bytes = map(int, done.stdout.split())
    assert scans == 3000
    assert peak_bytes / scans < 4000  # a scan with its header takes more than that while it waits


def test_the_slices_of_a_series_share_what_is_equal(tmp_path):
    folder = write_series(tmp_path / "s", ct_like((8, 8, 60)), InstitutionName="A CLINIC")
    slices = [one for path in sorted(folder.iterdir()) for one in read_slices(str(path))]
    for name in ("series", "patient", "site", "orientation", "spacing_mm", "size"):
        assert len({id(getattr(one, name)) for one in slices}) == 1
    assert not hasattr(slices[0], "__dict__")
    assert pickle.loads(pickle.dumps(slices)) == slices


KILLED = (
    "import sys; from pathlib import Path; from medssl.preprocessing.cache import prepare; print('go', flush=True); "
    "prepare(Path(sys.argv[1]), Path(sys.argv[2]), spacing_mm=(1.2, 1.2, 1.2)); print('done', flush=True)"
)


def killed_at(moment_s, manifest, out):
    """True when prepare was killed so long after it began; False when it was done before."""
    arguments = [sys.executable, "-c", KILLED, str(manifest), str(out)]
    worker = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert worker.stdout.readline() == "go\n"
    time.sleep(moment_s)
    worker.send_signal(signal.SIGKILL)
    rest = worker.communicate(timeout=60)[0]
    return rest != "done\n"


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_again_and_again_a_cache_ends_byte_equal(tmp_path, kills):
    for number in range(24):
        write_nifti(tmp_path / "d" / f"s{number:02d}.nii.gz", ct_like((48, 48, 32), seed=number))
    write_nifti(tmp_path / "d" / "flat.nii.gz", np.full((8, 8, 8), 3, np.int16))
    index([tmp_path / "d"], tmp_path / "m", modality="CT")
    begun = time.perf_counter()
    prepare(tmp_path / "m", tmp_path / "calm", spacing_mm=(1.2, 1.2, 1.2))
    spent = time.perf_counter() - begun
    moments = random.Random(0)
    hit = 0
    for number in range(kills):
        out = tmp_path / f"killed{number // 3}"  # up to three kills on the way to one cache
        hit += killed_at(moments.uniform(0, spent), tmp_path / "m", out)
        if number % 3 == 2 or number == kills - 1:
            prepare(tmp_path / "m", out, spacing_mm=(1.2, 1.2, 1.2))
            assert whole(out) == whole(tmp_path / "calm")
    assert hit >= kills // 3


def test_new_scans_are_added_and_those_that_left_the_manifest_leave_the_cache(tmp_path):
    data = tree(tmp_path / "d", 4)
    index([data], tmp_path / "m", mask="../labels/{name}", modality="CT")
    first = prepare(tmp_path / "m", tmp_path / "c")
    write_nifti(data / "images" / "new.nii.gz", ct_like((14, 12, 10), seed=50))
    (data / "images" / "s1.nii.gz").unlink()
    index([data], tmp_path / "m", mask="../labels/{name}", modality="CT")
    with pytest.warns(UserWarning, match="1 scans left the manifest"):
        cache = prepare(tmp_path / "m", tmp_path / "c")
    assert len(cache.manifest) == 4
    gone = set(first.manifest.scan) - set(cache.manifest.scan)
    assert len(gone) == 1
    assert {path.stem for path in (tmp_path / "c" / "volumes").iterdir()} == set(cache.manifest.scan)
    assert not gone & {path.stem for path in (tmp_path / "c" / "masks").iterdir()}
    prepare(tmp_path / "m", tmp_path / "fresh")
    assert whole(tmp_path / "c") == whole(tmp_path / "fresh")


def test_a_second_process_waits_with_a_warning_and_the_lock_of_a_dead_one_is_free(tmp_path):
    index([tree(tmp_path / "d", 2)], tmp_path / "m", mask="../labels/{name}", modality="CT")
    out = tmp_path / "c"
    out.mkdir()
    holds = f"from filelock import FileLock; import time; lock = FileLock({str(out / '.lock')!r}); lock.acquire(); print(1, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE)
    assert other.stdout.readline()
    program = "import sys; from pathlib import Path; from medssl.preprocessing.cache import prepare; prepare(Path(sys.argv[1]), Path(sys.argv[2]))"
    second = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "m"), str(out)], stderr=subprocess.PIPE, text=True
    )
    assert any("another process writes to c: waiting" in line for line in second.stderr)
    assert second.poll() is None
    assert not (out / "cache.json").exists()
    other.kill()  # as it is, the lock still in its hand
    other.wait()
    assert second.wait(timeout=120) == 0
    assert len(Cache(out).manifest) == 2
    with FileLock(out / ".lock", timeout=0):
        pass


def test_frames_as_a_sequence_or_each_a_scan_of_its_own(tmp_path):
    series = np.stack([ct_like((9, 8, 7), seed=number) for number in range(3)], axis=-1)
    series[..., 1] = 5  # a frame that shows nothing
    for name in ("a", "b"):
        write_nifti(tmp_path / "d" / f"{name}.nii.gz", series)
    index([tmp_path / "d"], tmp_path / "m", modality="CT")
    together = prepare(tmp_path / "m", tmp_path / "sequence")
    assert (together.channels, len(together.manifest)) == (3, 2)
    cache = prepare(tmp_path / "m", tmp_path / "each", frames="each", jobs=2)
    rows = read_table(tmp_path / "each" / "manifest.parquet")
    assert list(rows.status) == ["ok", "rejected", "ok"] * 2
    assert "every voxel is 5" in rows.reason[1]
    assert cache.channels == 1
    assert (cache.manifest.frames == 1).all()
    first = together.manifest.scan[0]
    assert list(rows.scan[:3]) == [f"{first}-000", f"{first}-001", f"{first}-002"]
    assert rows.groupby("patient").scan.count().tolist() == [3, 3]
    assert (cache.read(f"{first}-002") == np.clip(series[..., 2], -1024, None)).all()
    assert source_files(tmp_path / "m", f"{first}-002") == source_files(tmp_path / "m", first)
    before = whole(tmp_path / "each")
    prepare(tmp_path / "m", tmp_path / "each", frames="each")
    assert whole(tmp_path / "each") == before
    with pytest.raises(MedsslError, match="begun with frames each, now it is sequence"):
        prepare(tmp_path / "m", tmp_path / "each")


def volumes(*spacings, shape=(200, 200, 30), orientation="RAS"):
    return pd.DataFrame({"spacing_mm": list(spacings), "shape": [shape] * len(spacings), "orientation": orientation})


def test_the_spacing_rule_is_nnunets():
    even = volumes([0.7, 0.7, 1.0], [0.9, 0.7, 1.2], [0.8, 0.7, 5.0])
    assert target_spacing(even)[0] == [0.8, 0.7, 1.2]
    thick = volumes(*([0.5, 0.5, step] for step in (1.0, 3.0, 5.0, 5.0, 6.0)))
    spacing_mm, rule = target_spacing(thick)
    assert spacing_mm == [0.5, 0.5, round(float(np.percentile([1, 3, 5, 5, 6], 10)), 2)]
    assert "along S" in rule
    many_slices = volumes(*([0.5, 0.5, step] for step in (1.0, 3.0, 5.0, 5.0, 6.0)), shape=(200, 200, 90))
    assert target_spacing(many_slices)[0] == [0.5, 0.5, 5.0]
    turned = volumes([5.0, 0.5, 0.4], [6.0, 0.5, 0.4], shape=(30, 200, 100), orientation="SRA")
    assert target_spacing(turned)[0] == [0.5, 0.4, 5.1]


def test_the_fingerprint_is_written_and_plan_shows_it_without_preparing(tmp_path, capsys):
    random_hu = [np.random.default_rng(seed).normal(40 + 20 * seed, 30, (30, 30, 20)) for seed in range(4)]
    for number, volume in enumerate(random_hu):
        volume[:15] = -1000  # air does not count
        write_nifti(tmp_path / "d" / f"{number}.nii.gz", volume.astype(np.int16), np.diag([1, 1, 2.0 + number, 1]))
    index([tmp_path / "d"], tmp_path / "m", modality="CT")
    prepare(tmp_path / "m", tmp_path / "c")
    about = json.loads((tmp_path / "c" / "fingerprint.json").read_text())
    assert about["spacing_mm"]["median"] == [1, 1, 3.5]
    assert about["decided"]["spacing_mm"] == [1, 1, 3.5]
    body = np.concatenate([volume[15:].astype(np.int16).ravel() for volume in random_hu])
    intensities = about["intensity"]["CT"]
    assert intensities["scans"] == 4
    assert intensities["mean"] == pytest.approx(body.mean(), abs=4)
    assert intensities["std"] == pytest.approx(body.std(), rel=0.15)  # resampled, so a little smoother
    assert intensities["99.5th percentile"] == pytest.approx(np.percentile(body, 99.5), rel=0.15)
    (tmp_path / "there").mkdir()
    capsys.readouterr()
    assert main(["fingerprint", str(tmp_path / "m"), "--spacing-mm", "2", "2", "2"]) == 0
    shown = capsys.readouterr().out
    assert "median: 1 x 1 x 3.5" in shown
    assert "spacing_mm: 2 x 2 x 2" in shown
    assert "given" in shown
    assert "int16 HU" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"d", "m", "c", "there"}


def keys(cache, workers, start=0, total=6):
    crops = Crops(cache, list(cache.manifest.scan), (6, 6, 6), seed=3, masks=True)
    loader = DataLoader(crops, batch_sampler=StepSampler(4, total, start), num_workers=workers)
    return [
        (batch["key"].tolist(), batch["start"].tolist(), batch["source"].sum((1, 2, 3, 4)).tolist()) for batch in loader
    ]


def test_the_order_of_crops_depends_on_seed_and_step_alone(tmp_path):
    index([tree(tmp_path / "d", 5)], tmp_path / "m", mask="../labels/{name}", modality="CT")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    alone = keys(cache, 0)
    assert len({key for batch in alone for key in batch[0]}) == 24
    for workers in (1, 2):
        assert keys(cache, workers) == alone
        assert keys(cache, workers, start=3) == alone[3:]


@pytest.mark.parametrize("size", [(10, 8, 1), (1, 8, 6), (12, 12, 4)])
def test_crops_may_be_in_plane_across_slices_or_flat(tmp_path, size):
    index([tree(tmp_path / "d", 2)], tmp_path / "m", mask="../labels/{name}", modality="CT")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    crops = Crops(cache, list(cache.manifest.scan), size, seed=0)
    for number in range(6):
        sample = crops[number]
        assert sample["source"].shape == (1, *size)
        expected = cache.read(cache.manifest.scan[sample["scan"]], sample["start"].tolist(), size)
        assert (sample["source"].numpy() == expected).all()


def test_a_crop_of_thick_slices_is_as_long_along_every_axis():
    size = crop_by_spacing((0.7, 0.7, 5.0), (512, 512, 40), 96, (16, 16, 8))
    assert np.prod(size) <= 96**3
    assert size == (192, 192, 24)  # 134 x 134 x 120 mm
    assert crop_by_spacing((1, 1, 8.0), (64, 64, 12), 96, (16, 16, 4)) == (64, 64, 12)
    assert crop_by_spacing((1, 1, 8.0), (10, 10, 3), 96, (16, 16, 4)) == (16, 16, 4)


def synthetic(count):
    rows = Columns()
    for number in range(count):
        rows.add(
            {
                "scan": f"{number:012x}",
                "patient": f"{number // 3:012x}",
                "modality": ("CT", "MR")[number % 2],
                "format": "dicom",
                "dims": 3,
                "shape": [512, 512, 100 + number % 50],
                "channels": 1,
                "frames": 1,
                "spacing_mm": [0.7, 0.7, 1.0 + number % 4],
                "orientation": "LPS",
                "has_mask": False,
                "status": "ok",
            }
        )
    return manifest_frame(rows)


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_large_manifest_opens_and_filters_in_seconds(tmp_path, count):
    path = tmp_path / "manifest.parquet"
    path.write_bytes(to_parquet(synthetic(count)))
    begun = time.process_time()
    manifest = read_table(path)
    thick = manifest[(manifest.modality == "CT") & (manifest.spacing_mm.str[2] > 2)]
    spent = time.process_time() - begun
    assert len(manifest) == count
    assert len(thick) == count // 4
    settings = {"version": CACHE_FORMAT, "size": None}
    about = {
        "complete": True,
        "settings": settings,
        "dims": 3,
        "channels": 1,
        "spacing_mm": [1, 1, 1],
        "modality": "CT",
    }
    (tmp_path / "cache.json").write_text(json.dumps(about | {"structures": [], "digest": "0"}))
    begun = time.process_time()
    cache = Cache(tmp_path)
    opened = time.process_time() - begun
    assert cache.shape(f"{count - 1:012x}") == (512, 512, 100 + (count - 1) % 50)
    assert spent < 2 + 10 * count / 1e6
    assert opened < 2 + 20 * count / 1e6
