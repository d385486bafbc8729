"""What this machine has, what is missing, and what to do about it.

medssl doctor
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version

import psutil
from rich.table import Table

from medssl.core.runs import PACKAGES

CODECS = {"pylibjpeg": "JPEG", "libjpeg": "JPEG lossless and JPEG-LS", "openjpeg": "JPEG 2000", "rle": "RLE"}


def doctor() -> Table:
    """A table of findings, each with the next step where something is missing."""
    table = Table("what", "found", "what to do")
    for name in PACKAGES:
        table.add_row(name, _version(name), "" if _version(name) != "missing" else f"pip install {name}")
    for module, syntax in CODECS.items():
        found = importlib.util.find_spec(module) is not None
        table.add_row(
            f"DICOM {syntax}", "ok" if found else "missing", "" if found else f"pip install pylibjpeg-{module}"
        )
    table.add_row(*_gpu())
    cores, threads = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "unset")
    table.add_row("CPU cores", f"{cores} (OMP_NUM_THREADS {threads})", "")
    memory = psutil.virtual_memory().available / 2**30
    table.add_row(
        "free memory", f"{memory:.1f} GiB", "" if memory > 4 else "the demo wants 4 GiB: close other programs"
    )
    for place, path in (("free disk here", os.getcwd()), ("free disk for temporary files", tempfile.gettempdir())):
        free = shutil.disk_usage(path).free / 2**30
        table.add_row(place, f"{free:.1f} GiB", "" if free > 2 else "free some space, or set TMPDIR")
    return table


def _gpu() -> tuple[str, str, str]:
    import torch

    if not torch.cuda.is_available():
        step = "training runs on the CPU; for a GPU install an NVIDIA driver that serves CUDA " + str(
            torch.version.cuda
        )
        return "GPU", "none", step
    count = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return "GPU", f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB", ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
