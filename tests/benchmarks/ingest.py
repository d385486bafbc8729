"""What it costs to get from an archive to a training crop, against the tools in use, in one run on one machine.

    python tests/benchmarks/ingest.py [--quick] [--only headers series crops files]

Four parts, each against its rivals over the same files, in turns, the best round of each counted. Seconds are those of a
core (user and system, child processes too), which a busy machine changes least; all contenders run on one thread. Only
two processes against one are timed by the clock, and need a machine with two free cores to show anything. The parts:
    headers   index against a bare pydicom.dcmread(stop_before_pixels=True), in one process; and two processes against one
    series    one DICOM series to a cache file, not resampled, against dcm2niix -z n and dicom2nifti
    crops     random 96- and 128-cubes of a CT-like volume against a memory map of the same type, nnU-Net's blosc2 layout,
              MONAI's PersistentDataset and .nii.gz; with the size on disk of each
    files     index of many small files against a tenth of them: files per second, peak memory
dcm2niix is a Debian package; dicom2nifti comes from PyPI (pip install dicom2nifti) and is no dependency of medssl's.
The last line is JSON: `ratios`, `goals`, `met`. --quick looks whether all of it runs: its volume and archive are too small
for the goals, which are those of the whole run. A rival that is not installed leaves its ratio out, and `met` false.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from scipy.ndimage import gaussian_filter

from medssl.datasets.index import index
from medssl.preprocessing.cache import prepare
from medssl.preprocessing.store import pack

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom_series"
MOST = {"headers": 2.0, "crop_over_memory_map": 4.0, "files_peak_memory": 1.25}
LEAST = {
    "two_processes": 1.6,
    "dicom2nifti_over_ours": 3.0,
    "dcm2niix_over_ours": 0.25,
    "nnunet_over_ours": 5.0,
    "nifti_gz_over_ours": 50.0,
    "files_per_second": 0.8,
}


def core_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def seconds(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = core_seconds
) -> dict[str, list[float]]:
    """Seconds of each contender, one after the other in every round."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            begun = clock()
            work()
            spent[name].append(clock() - begun)
    return spent


def over(spent: dict[str, list[float]], one: str, other: str) -> float:
    """The best time of one over the best of the other."""
    return min(spent[one]) / min(spent[other])


def show(title: str, spent: dict[str, list[float]], unit: str = "s", scale: float = 1.0) -> None:
    for name, times in spent.items():
        best, middle = scale * min(times), scale * statistics.median(times)
        print(f"{title}: {name:34} best {best:9.3f} {unit}, median {middle:9.3f} {unit} of {len(times)}", flush=True)


def headers(root: Path, quick: bool) -> dict[str, float]:
    """A synthetic archive with about 100 elements a header, and the real series beside it."""
    archive = root / "archive"
    count = write_archive(archive, series=4 if quick else 20, slices=100, size=64 if quick else 256)
    sources = [archive] + ([SHARED] if SHARED.exists() and not quick else [])
    files = [path for source in sources for path in source.rglob("*") if path.is_file() and pydicom.misc.is_dicom(path)]
    print(
        f"headers: {len(files)} DICOM files, {count} of them made here"
        + ("" if len(sources) > 1 else "; no real series")
    )

    def bare() -> None:
        for file in files:
            pydicom.dcmread(file, stop_before_pixels=True)

    def ours(jobs: int) -> None:
        with tempfile.TemporaryDirectory(dir=root) as out:
            index(sources, Path(out) / "m", jobs=jobs)

    ours(2)  # the processes of joblib stay up: what starting them costs is not counted
    spent = seconds({"bare dcmread": bare, "index": lambda: ours(1)}, 2 if quick else 5)
    show("headers", spent)
    clocked = seconds(
        {"index": lambda: ours(1), "index, 2 processes": lambda: ours(2)}, 2 if quick else 3, time.perf_counter
    )
    show("headers by the clock", clocked)
    print(f"headers: {os.getloadavg()[0]:.1f} processes were running on {os.cpu_count()} cores")
    return {
        "headers": over(spent, "index", "bare dcmread"),
        "two_processes": over(clocked, "index", "index, 2 processes"),
    }


def write_archive(folder: Path, series: int, slices: int, size: int) -> int:
    """CT series as a scanner writes them, 80 private texts a header, and what the rivals insist on."""
    from tests.scans.scan_makers import slice_dataset

    volume = ct_like((size, size, slices))
    day, hour = "20200101", "101010"
    fixed = {
        "StudyInstanceUID": "1.2.3.4.5",
        "FrameOfReferenceUID": "1.2.3.4.6",
        "PatientAge": "040Y",
        "KVP": "120",
        "StudyDate": day,
        "SeriesDate": day,
        "AcquisitionDate": day,
        "StudyTime": hour,
        "AcquisitionTime": hour,
        "SliceThickness": "2.0",
        "PatientPosition": "HFS",
        "StudyID": "1",
    }
    for number in range(series):
        uid = pydicom.uid.generate_uid()
        (folder / f"{number:03d}").mkdir(parents=True)
        for z in range(slices):
            own = {"PatientID": f"P{number}", "SeriesNumber": number + 1, "InstanceNumber": z + 1}
            dataset = slice_dataset(volume[:, :, z].T, (0, 0, 2.0 * z), series=uid, **fixed, **own)
            for place in range(80):
                tag = (0x0009 + 2 * (place // 20), 0x1000 + place)
                dataset.add_new(tag, "LO", f"a private text, number {place}")
            dataset.save_as(folder / f"{number:03d}" / f"{z:04d}.dcm", enforce_file_format=True)
    return series * slices


def series(root: Path, quick: bool) -> dict[str, float]:
    """One series of CT slices to what a loader reads. Ours is index and prepare, digests and all."""
    source = root / "series"
    slices, size = (40, 256) if quick else (150, 512)
    write_archive(source, 1, slices, size)

    def fresh(name: str) -> Path:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
        return root / name

    def ours() -> None:
        out = fresh("ours")
        index([source], out / "m")
        prepare(out / "m", out / "c")

    contenders: dict[str, Callable[[], object]] = {"medssl index and prepare": ours}
    if shutil.which("dcm2niix"):
        command = ["dcm2niix", "-z", "n", "-o"]
        contenders["dcm2niix -z n"] = lambda: subprocess.run(
            [*command, fresh("dcm2niix"), source], check=True, capture_output=True
        )
    else:
        print("series: dcm2niix is not installed (apt install dcm2niix): left out")
    if importlib.util.find_spec("dicom2nifti"):
        import dicom2nifti

        logging.disable(logging.WARNING)
        contenders["dicom2nifti"] = lambda: dicom2nifti.convert_directory(
            str(source), str(fresh("dicom2nifti")), compression=False, reorient=False
        )
    else:
        print("series: dicom2nifti is not installed (pip install dicom2nifti): left out")
    spent = seconds(contenders, 2 if quick else 5)
    show("series", spent)
    for rival in list(contenders)[1:]:
        written = [path.stat().st_size for path in (root / rival.split()[0]).glob("*.nii")]
        if not written or max(written) < 2 * size * size * slices:
            raise SystemExit(f"series: {rival} wrote no whole volume ({written} bytes): it cannot be compared")
    return {
        f"{name.split()[0]}_over_ours": over(spent, name, "medssl index and prepare") for name in list(contenders)[1:]
    }


def ct_like(shape: tuple[int, int, int]) -> np.ndarray:
    """(X, Y, Z) int16 HU: a smooth body with a scanner's noise in air."""
    random = np.random.default_rng(0)
    smooth = gaussian_filter(random.standard_normal(shape, dtype=np.float32), 6)
    volume = smooth * (300 / smooth.std()) + 20 * random.standard_normal(shape, dtype=np.float32)
    x, y = np.ogrid[: shape[0], : shape[1]]
    air = ((x / shape[0] - 0.5) / 0.42) ** 2 + ((y / shape[1] - 0.5) / 0.35) ** 2 > 1
    volume[air] = -1000
    return np.rint(np.clip(volume, -1024, 3071)).astype(np.int16)


def crops(root: Path, quick: bool) -> dict[str, float]:
    """The same random places for everyone; one process, one thread, files in the system's cache."""
    import torch

    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    folder = root / "crops"
    folder.mkdir()
    readers = crop_readers(folder, ct_like((192, 192, 160) if quick else (512, 512, 300)))
    ratios: dict[str, list[float]] = {}
    for size in (96, 128):
        spent = crop_times(readers, size, 2 if quick else 20)
        show(f"crop {size}", spent, "ms", 1000)
        middle = {name: statistics.median(times) for name, times in spent.items()}
        ours = middle["medssl (LZ4)"]
        for name, ratio in (
            ("crop_over_memory_map", ours / middle["memory map"]),
            ("nnunet_over_ours", middle["nnU-Net blosc2 float32"] / ours),
            ("monai_over_ours", middle["MONAI PersistentDataset"] / ours),
            ("nifti_gz_over_ours", middle[".nii.gz"] / ours),
        ):
            ratios.setdefault(name, []).append(ratio)
    return {name: (max if name in MOST else min)(both) for name, both in ratios.items()}


Reader = Callable[[tuple[slice, ...]], np.ndarray]


def crop_readers(folder: Path, volume: np.ndarray) -> dict[str, Reader]:
    """Every layout on disk, its size printed, and how a crop is read out of it."""
    import torch
    from monai.data import PersistentDataset
    from monai.transforms import Transform

    readers: dict[str, Reader] = {}
    np.save(folder / "raw.npy", volume)
    raw = np.load(folder / "raw.npy", mmap_mode="r")
    readers["memory map"] = lambda place: np.array(raw[place])
    (folder / "medssl.b2nd").write_bytes(pack(volume[None]))
    readers["medssl (LZ4)"] = _blosc(folder / "medssl.b2nd")
    scaled = ((volume - volume.mean()) / volume.std()).astype(np.float32)[None]
    # nnU-Net's rule for patches of 96 and 128: a block is the largest power of 2 whose float32 fit 80% of a 32 KiB L1
    # cache, a chunk the blocks that fit 80% of 1.4 MB of L3; zstd 8 with byte shuffle
    layout = {
        "chunks": (1, 80, 64, 64),
        "blocks": (1, 16, 16, 16),
        "cparams": {"codec": blosc2.Codec.ZSTD, "clevel": 8},
    }
    blosc2.asarray(scaled, urlpath=str(folder / "nnunet.b2nd"), **layout)
    readers["nnU-Net blosc2 float32"] = _blosc(folder / "nnunet.b2nd")
    nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
    readers[".nii.gz"] = lambda place: np.asarray(nib.load(folder / "volume.nii.gz").dataobj)[place]
    (folder / "monai").mkdir()

    class Loaded(Transform):  # PersistentDataset keeps what a Transform gives, and nothing of a plain function
        def __call__(self, _: int) -> torch.Tensor:
            return torch.from_numpy(scaled)

    persistent = PersistentDataset([0], Loaded(), folder / "monai")
    readers["MONAI PersistentDataset"] = lambda place: np.array(persistent[0][0][place])
    persistent[0]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"crops: {path.name[:24]:24} {path.stat().st_size / 2**20:8.1f} MiB on disk")
    return readers


def _blosc(path: Path) -> Reader:
    stored = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    return lambda place: stored[(slice(None), *place)]


def crop_times(readers: dict[str, Reader], size: int, count: int) -> dict[str, list[float]]:
    """Each reader at the same places; those that read the whole volume for a crop at two places only."""
    random = np.random.default_rng(size)
    shape = readers["memory map"]((slice(None),) * 3).shape
    spent: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(3 * count):
        first = [int(random.integers(0, n - size + 1)) for n in shape]
        place = tuple(slice(start, start + size) for start in first)
        for name, read in readers.items():
            if number >= 2 and name in (".nii.gz", "MONAI PersistentDataset"):
                continue
            begun = time.process_time()
            read(place)
            spent[name].append(time.process_time() - begun)
    return spent


def files(root: Path, quick: bool) -> dict[str, float]:
    """Each count in a process of its own, so that its peak memory is its own."""
    counts = (50, 500) if quick else (10_000, 100_000)
    picture = root / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(picture)
    for count in counts:
        for number in range(count):
            folder = root / f"files{count}" / f"{number // 1000:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06d}.png").write_bytes(picture.read_bytes())
    rates, peaks = zip(*(_index_alone(root, count, 1 if quick else 2) for count in counts))
    for count, rate, peak in zip(counts, rates, peaks):
        print(
            f"files: {count:7} in one process: {rate:7.0f} files a second of a core, peak memory {peak:6.0f} MiB",
            flush=True,
        )
    return {"files_per_second": rates[1] / rates[0], "files_peak_memory": peaks[1] / peaks[0]}


def _index_alone(root: Path, count: int, rounds: int) -> tuple[float, float]:
    program = (
        "import sys, time; from pathlib import Path; from medssl.datasets.index import index\n"
        "begun = time.process_time(); index([Path(sys.argv[1])], Path(sys.argv[2])); spent = time.process_time() - begun\n"
        "status = Path('/proc/self/status').read_text()\n"  # of this program alone; ru_maxrss knows its parent's
        "print(spent, int(status.split('VmHWM:')[1].split()[0]) / 1024)"
    )
    arguments = [sys.executable, "-c", program, str(root / f"files{count}"), str(root / f"m{count}")]
    best, peak = zip(*(_two_numbers(arguments) for _ in range(rounds)))
    return count / min(best), max(peak)


def _two_numbers(arguments: list[str]) -> tuple[float, float]:
    said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    return float(said[0]), float(said[1])


def main() -> None:
    parts = {"headers": headers, "series": series, "crops": crops, "files": files}
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            ratios |= parts[name](Path(folder), given.quick)
    goals = {name: f"at most {goal}" for name, goal in MOST.items()} | {
        name: f"at least {goal}" for name, goal in LEAST.items()
    }
    met = {
        name: ratios[name] <= MOST[name] if name in MOST else ratios[name] >= LEAST[name]
        for name in ratios
        if name in goals
    }
    for name, fine in met.items():
        print(f"{'met   ' if fine else 'MISSED'} {name}: {ratios[name]:.2f}, goal {goals[name]}")
    everything = given.only == list(parts) and met.keys() == goals.keys() and all(met.values())
    print(json.dumps({"ratios": {k: round(v, 3) for k, v in ratios.items()}, "goals": goals, "met": everything}))


if __name__ == "__main__":
    main()
