"""What a choice depends on: the cohort, the task and the machine.

situation = Situation.of(cache, pretraining_scans(cache), task="segmentation", accelerator="auto")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.fingerprint import ANISOTROPIC
from medssl.training.config import PretrainingTask


@dataclass(frozen=True)
class Situation:
    """The cohort that is pretrained on, the task afterwards, and the machine.

    Attributes:
        task: What the pretrained encoder is for.
        dims: 2 for images, 3 for volumes.
        modality: DICOM's code.
        scans: Scans of training patients.
        patients: Training patients.
        shape: Voxels of the median scan along each axis.
        spacing_mm: Spacing along each axis.
        cores: CPU cores.
        memory_mib: Memory of the device: of the GPU, or what is free of the machine's.
        gpu: Whether it trains on a GPU.
    """

    task: PretrainingTask
    dims: int
    modality: str
    scans: int
    patients: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    cores: int
    memory_mib: int
    gpu: bool

    @property
    def anisotropic(self) -> bool:
        """Whether the slices are thick: one axis is more than three times as coarse as another."""
        return max(self.spacing_mm) > ANISOTROPIC * min(self.spacing_mm)

    @classmethod
    def of(cls, cache: Cache, scans: Sequence[str], task: PretrainingTask, accelerator: str = "auto") -> Situation:
        """Measure it.

        Args:
            cache: Where the scans are.
            scans: Those that are pretrained on.
            task: What the pretrained encoder is for.
            accelerator: auto, cpu or gpu, as in `Hardware`.

        Raises:
            MedsslError: There is no scan.
        """
        if not scans:
            raise MedsslError(
                "no scan to pretrain on: expected at least one scan of a training patient; check --split-seed"
            )
        manifest = cache.manifest[cache.manifest["scan"].isin(scans)]
        median = np.median([cache.shape(scan) for scan in scans], axis=0)
        gpu = accelerator != "cpu" and torch.cuda.is_available()
        return cls(
            task=task,
            dims=cache.dims,
            modality=cache.modality,
            scans=len(scans),
            patients=int(manifest["patient"].nunique()),
            shape=tuple(int(n) for n in median),
            spacing_mm=cache.spacing_mm,
            cores=os.cpu_count() or 1,
            memory_mib=device_memory_mib(gpu),
            gpu=gpu,
        )

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        device = "a GPU" if self.gpu else f"{self.cores} CPU cores"
        return (
            f"{self.scans} {self.modality} {'images' if self.dims == 2 else 'volumes'} of {self.patients} training patients, median "
            f"{size} voxels; {self.task}; {device} with {self.memory_mib / 1024:,.0f} GiB"
        )


def device_memory_mib(gpu: bool) -> int:
    """Memory of the first GPU, or what is free of the machine's, in MiB."""
    memory = torch.cuda.get_device_properties(0).total_memory if gpu else psutil.virtual_memory().available
    return memory >> 20


def task_of(cache: Cache, task: PretrainingTask | None, label: str | None) -> tuple[PretrainingTask, str]:
    """The task that was named, or the one that the cohort suggests, and the reason.

    Args:
        cache: Its masks suggest segmentation.
        task: As named by the user; None if it is not.
        label: A label column suggests classification.
    """
    if task is not None:
        return task, "as --task says"
    has_masks = bool(cache.manifest["has_mask"].any())
    if has_masks and not label:
        return "segmentation", "no --task is given, and there are masks"
    if label and not has_masks:
        return "classification", "no --task is given, there is a label and no mask"
    return "both", "no --task is given, and the cohort does not decide it"
