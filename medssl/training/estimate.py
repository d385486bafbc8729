"""How long a training will take and how much memory it needs, from three steps on a copy of the model."""

from __future__ import annotations

import copy
import sys
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from torch import nn


def estimate(module: nn.Module, batch: dict[str, Any], steps: int, trainer: pl.Trainer, step: Any) -> dict[str, float]:
    """The `seconds` that `steps` more steps will take, and the `memory_mib` that they need.

    Args:
        module: What is trained; a copy of it takes the trial steps.
        batch: A batch as the loader gives it.
        steps: Forward and backward passes to come.
        trainer: Says which device and precision are used.
        step: Computes the loss from the module and a batch.
    """
    device = trainer.strategy.root_device
    trial = copy.deepcopy(module).to(device).train()
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        with trainer.strategy.precision_plugin.forward_context():
            loss = step(trial, dict(moved))
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
    return {"seconds": steps * min(times[1:]), "memory_mib": (used + 2 * weights) / 2**20}


def _peak_rss() -> int:
    """Peak memory of the process in bytes; on Windows as psutil reports it."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
