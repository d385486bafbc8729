"""What one scan takes of the memory while it is prepared, counted in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.long

PROGRAM = """
import sys, threading, time
from pathlib import Path
import psutil
from medssl.preprocessing.store import Job, cache_scan

file, modality, spacing_mm, out = sys.argv[1], sys.argv[2], eval(sys.argv[3]), Path(sys.argv[4])
process = psutil.Process()
before, most = process.memory_info().rss, [0]
def watch():
    while True:
        most[0] = max(most[0], process.memory_info().rss)
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
row = {"scan": "a" * 12, "patient": "b" * 12, "modality": modality, "notes": None, "flags": None}
source = {"files": [file], "format": "nifti", "member": None, "mask": None, "correct": None}
(result,) = cache_scan(Job([row], source, {"spacing_mm": spacing_mm, "size": None}, out))
assert result["status"] == "ok", result
print(most[0] - before)
"""
SHAPE = (256, 256, 512)  # 64 MiB


@pytest.mark.parametrize(
    ("modality", "spacing_mm", "slope", "end"),
    [
        pytest.param("MR", None, 1, ".nii", marks=pytest.mark.slow),
        pytest.param("MR", (1.3, 0.9, 1.1), 1, ".nii.gz", marks=pytest.mark.slow),
        ("MR", None, 0.5, ".nii.gz"),  # read as float32, beside the voxels as unpacked: the most
        pytest.param("MR", (2.0, 2.0, 2.0), 0.5, ".nii", marks=pytest.mark.slow),
        pytest.param("MR", (0.8, 0.8, 0.8), 1, ".nii", marks=pytest.mark.slow),
        pytest.param("CT", (1.3, 0.9, 1.1), 1, ".nii", marks=pytest.mark.slow),
    ],
)
def test_a_scan_takes_less_than_four_times_its_size(
    tmp_path: Path, modality: str, spacing_mm: tuple | None, slope: float, end: str
) -> None:
    """The larger of its sizes as stored and as prepared; the parts that are in work at a time are counted too."""
    voxels = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / f"a{end}")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / f"a{end}"), modality, repr(spacing_mm)]
    done = subprocess.run(
        [*command, str(tmp_path / "c")], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    largest = voxels.nbytes * max(1.0, float(np.prod(1 / np.array(spacing_mm or 1))))
    assert int(done.stdout) < 4 * largest
