"""What this machine has, what is missing, and what to do about it.

medssl doctor
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import psutil
from rich.table import Table

from medssl.core.runs import PACKAGES

CODECS = {"pylibjpeg": "JPEG", "libjpeg": "JPEG lossless and JPEG-LS", "openjpeg": "JPEG 2000", "rle": "RLE"}
MIN_MEMORY_GIB = 4  # what the demo needs
MIN_DISK_GIB = 2
Row = tuple[str, str, str]  # what was checked, what was found, what to do


def doctor() -> Table:
    """Check packages, decoders, GPU, cores, memory and disk.

    Returns:
        A table with one row for each check, and the next step where something is missing.
    """
    table = Table("checked", "found", "what to do")
    for row in (*_packages(), *_decoders(), _gpu(), _cores(), _memory(), *_disks()):
        table.add_row(*row)
    return table


def _packages() -> Iterator[Row]:
    for name in PACKAGES:
        try:
            yield name, version(name), ""
        except PackageNotFoundError:
            yield name, "missing", f"pip install {name}"


def _decoders() -> Iterator[Row]:
    for module, syntax in CODECS.items():
        if importlib.util.find_spec(module):
            yield f"DICOM {syntax}", "ok", ""
        else:
            yield (
                f"DICOM {syntax}",
                "missing",
                f"pip install {module if module == 'pylibjpeg' else f'pylibjpeg-{module}'}",
            )


def _gpu() -> Row:
    import torch

    if not torch.cuda.is_available():
        driver = f"an NVIDIA driver for CUDA {torch.version.cuda}"
        return "GPU", "none", f"training runs on the CPU; to use a GPU install {driver}"
    memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    return "GPU", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory_gib:.0f} GiB", ""


def _cores() -> Row:
    return "CPU cores", f"{os.cpu_count() or 1} (OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')})", ""


def _memory() -> Row:
    free_gib = psutil.virtual_memory().available / 2**30
    advice = f"the demo needs {MIN_MEMORY_GIB} GiB: close other programs" if free_gib < MIN_MEMORY_GIB else ""
    return "free memory", f"{free_gib:.1f} GiB", advice


def _disks() -> Iterator[Row]:
    for place, folder in (("free disk here", os.getcwd()), ("free disk for temporary files", tempfile.gettempdir())):
        free_gib = shutil.disk_usage(folder).free / 2**30
        yield place, f"{free_gib:.1f} GiB", "free some space, or set TMPDIR" if free_gib < MIN_DISK_GIB else ""
