"""Estimate how long a training will take and how much memory it needs, from three steps on a copy of the model."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from torch import nn


def estimate(
    module: nn.Module,
    batch: dict[str, Any],
    steps: int,
    trainer: pl.Trainer,
    loss_of: Callable[[Any, dict[str, Any]], torch.Tensor],
) -> dict[str, float]:
    """Estimate time and memory from three trial steps on a copy of the module.

    Args:
        module: Module that will be trained.
        batch: A batch from the loader.
        steps: Number of forward and backward passes to come.
        trainer: Trainer with the device and the precision.
        loss_of: Computes the loss from the module and a batch.

    Returns:
        `seconds` for all steps, and `memory_mib`.
    """
    device = trainer.strategy.root_device
    trial = copy.deepcopy(module).to(device).train()
    on_device = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with trainer.strategy.precision_plugin.forward_context():
            loss = loss_of(trial, dict(on_device))
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
    return {"seconds": steps * min(times[1:]), "memory_mib": (peak + 2 * weights) / 2**20}


def _peak_rss() -> int:
    """Peak memory of the process in bytes; on Windows as psutil reports it."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
