"""The loader: crops as batches, shared out among devices and worker processes.

data = CropData(Crops(cache, scans, size, seed=0), batch_size=8, total=1000)
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from medssl.preprocessing.crops import Crops, StepSampler


class CropData(pl.LightningDataModule):
    """`Crops` in the order of `StepSampler`, for any number of devices and workers.

    Args:
        crops: The samples.
        batch_size: Samples in a batch of one device.
        total: Number of batches, each counted once for all devices.
        start: First batch, for a run that is resumed.
        workers: Processes that load samples, for each device; 0 loads them in the training process.
    """

    def __init__(self, crops: Crops, batch_size: int, total: int, start: int = 0, workers: int = 0):
        super().__init__()
        self.crops, self.batch_size, self.total, self.start, self.workers = crops, batch_size, total, start, workers

    def train_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        steps = StepSampler(self.batch_size, self.total, self.start, rank, world)
        context = {"multiprocessing_context": "spawn", "persistent_workers": True} if self.workers else {}
        pinned = torch.cuda.is_available()
        return DataLoader(self.crops, batch_sampler=steps, num_workers=self.workers, pin_memory=pinned, **context)  # type: ignore[arg-type]
