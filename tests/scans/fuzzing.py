"""Broken headers by the thousand, in a process that may not take a gigabyte more than it has: what does a reader do?

    python -m tests.scans.fuzzing nifti,nrrd 10000 0        # formats, cases of each, seed -> a line of JSON a format

Allowed are a scan and a MedsslError. Anything else (another exception, five seconds, a gigabyte) is a finding; it comes
out with the class of the error and the place in medssl, and the broken file is kept where KEEP says.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import nrrd
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

from medssl.core.errors import MedsslError
from medssl.datasets.base import IndexOptions
from medssl.datasets.candidates import Candidate, Source
from medssl.datasets.labels import LabelTable
from medssl.scans.read import read_headers, read_scan
from tests.scans.scan_makers import ct_like, slice_dataset, write_nifti

GIB = 1 << 30
CASE_S = 5.0
KEEP = os.environ.get("KEEP")
GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)
NUMBERS = [
    b"0",
    b"-1",
    b"1e308",
    b"nan",
    b"inf",
    b"32767",
    b"99999999999",
    b"4294967295",
    b"18446744073709551615",
    b"1e-9",
]
WORDS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 63]
SUFFIXES = {
    "nifti": (".nii", ".nii.gz"),
    "nrrd": (".nrrd",),
    "metaimage": (".mha", ".mhd"),
    "image": (".png", ".jpg", ".tif"),
    "npz": (".npz",),
    "dicom": (".dcm",),
    "labels": (".csv",),
}


class TooSlow(BaseException):
    """Five seconds are over; no `except Exception` may catch it."""


def seeds(folder: Path, suffix: str) -> list[bytes]:
    """Whole files of one kind, what `.nii.gz` and `.npz` hold unpacked."""
    path = folder / f"seed{suffix}"
    if suffix in (".nii", ".nii.gz"):
        plain = write_nifti(folder / "seed.nii").read_bytes()
        return [plain, write_nifti(folder / "four.nii", np.ones((5, 4, 3, 2), np.float32)).read_bytes()]
    if suffix == ".nrrd":
        both = []
        for encoding in ("raw", "gzip"):
            nrrd.write(str(path), ct_like(), {"encoding": encoding, "space": "LPS", "space directions": np.eye(3)})
            both.append(path.read_bytes())
        return both
    if suffix in (".mha", ".mhd"):
        both = []
        for packed in (False, True):
            sitk.WriteImage(sitk.GetImageFromArray(ct_like()), str(path), useCompression=packed)
            both.append(path.read_bytes())
        return both
    if suffix in (".png", ".jpg"):
        Image.fromarray(GREY).save(path)
        first = path.read_bytes()
        Image.fromarray(np.stack([GREY, GREY[::-1], GREY], -1)).save(path, exif=Image.Exif())
        return [first, path.read_bytes()]
    if suffix == ".tif":
        both = []
        for packing in (None, "zlib"):
            tifffile.imwrite(path, np.arange(600, dtype=np.uint16).reshape(20, 30), compression=packing)
            both.append(path.read_bytes())
        return both
    if suffix == ".npz":
        stream = io.BytesIO()
        np.save(stream, GREY[None])
        return [stream.getvalue()]
    if suffix == ".dcm":
        slice_dataset(ct_like((10, 12, 1))[:, :, 0], (0, 0, 0)).save_as(path, enforce_file_format=True)
        return [path.read_bytes()]
    return [b'file,who,finding,age\na.nii,p1,sick,40\nb.nii,p2,well,41\n"c,d.nii",p2,,\n']


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One to four damages within the first thousand bytes: bytes, numbers in binary or text, lines, lengths."""
    out = bytearray(data)
    for _ in range(random.integers(1, 5)):
        place = int(random.integers(0, max(1, min(1000, len(out)))))
        match random.integers(0, 7):
            case 0:
                out[place : place + 1] = bytes([random.integers(0, 256)])
            case 1:
                size = int(random.choice([1, 2, 4, 8]))
                word = int(random.choice(len(WORDS)))
                out[place : place + size] = (WORDS[word] & (1 << 8 * size) - 1).to_bytes(
                    size, random.choice(["little", "big"])
                )
            case 2:
                numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(out[:1000])))
                if numbers:
                    hit = numbers[random.integers(len(numbers))]
                    out[hit.start() : hit.end()] = NUMBERS[random.integers(len(NUMBERS))]
            case 3:
                lines = bytes(out[:1000]).split(b"\n")
                line = lines[random.integers(len(lines))]
                again = random.random() < 0.5
                out = bytearray(bytes(out).replace(line, line + b"\n" + line if again else b"", 1)) if line else out
            case 4:
                out[place:place] = random.bytes(int(random.integers(1, 40)))
            case 5:
                del out[place : place + int(random.integers(1, 40))]
            case 6 if random.random() < 0.3:
                del out[int(random.integers(0, len(out) + 1)) :]
    return bytes(out)


def packed(data: bytes, suffix: str, random: np.random.Generator) -> bytes:
    """A header broken before it was packed has a right checksum; one broken afterwards has not."""
    if suffix == ".nii.gz":
        return mutated(gzip.compress(data, 1), random) if random.random() < 0.2 else gzip.compress(data, 1)
    if suffix == ".npz":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            archive.writestr("train_images.npy", data)
        whole = stream.getvalue()
        return whole if random.random() < 0.5 else whole[:-200] + mutated(whole[-200:], random)
    return data


def read(path: Path, format: str) -> None:
    """All that `index` and `prepare` do with one file's header and voxels."""
    if format == "labels":
        table = LabelTable(IndexOptions(labels=path, patient="who", label=["finding"]))
        source = Source(Path("d"), "d")
        scans = [Candidate(source, Path(f"d/{name}"), [f"d/{name}"], "nifti") for name in ("a.nii", "b.nii")]
        list(table.join(scans, [], lambda scan: scan.identity))
        return
    members = [None] if format == "dicom" else [member for member, _ in read_headers(path, format)]
    for member in members[:2]:
        read_scan([str(path)], format, "scan", "patient", member=member)


def attempt(path: Path, format: str) -> str | None:
    """None for a scan or a refusal in words, else what was found."""
    signal.setitimer(signal.ITIMER_REAL, CASE_S)
    try:
        read(path, format)
    except MedsslError:
        return None
    except TooSlow:
        return "too slow"
    except (Exception, MemoryError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "medssl/scans" in frame.filename] or frames
        return f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def fuzz(format: str, count: int, seed: int) -> dict[str, object]:
    """Findings and how many files were still read, of `count` broken ones."""
    random = np.random.default_rng(seed)
    findings: dict[str, int] = {}
    fine = 0
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        kinds = [(suffix, data) for suffix in SUFFIXES[format] for data in seeds(here, suffix)]
        for number in range(count):
            suffix, data = kinds[number % len(kinds)]
            path = here / f"broken{suffix}"
            path.write_bytes(packed(mutated(data, random), suffix, random))
            found = attempt(path, format)
            fine += found is None
            if found:
                findings[found] = findings.get(found, 0) + 1
                if KEEP:
                    Path(KEEP, f"{format}_{found.replace(' ', '_').replace(':', '_')}{suffix}").write_bytes(
                        path.read_bytes()
                    )
    return {"format": format, "cases": count, "fine": fine, "findings": findings}


def main(words: list[str]) -> None:
    """Limit this process, then fuzz."""

    def over(*_):
        raise TooSlow

    formats, count, seed = words[0].split(","), int(words[1]), int(words[2])
    signal.signal(signal.SIGALRM, over)
    warnings.simplefilter("ignore")
    for format in formats:
        fuzz(format, 20, seed)  # whatever is imported late is there now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + GIB, size + GIB))
    for format in formats:
        print(json.dumps(fuzz(format, count, seed)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
