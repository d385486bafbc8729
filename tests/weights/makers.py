"""Small files of weights in published layouts, written by the original library's own rebuilt models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl.core import runs
from medssl.encoders import Encoder
from medssl.training.models import pretrained_encoder
from medssl.weights.importing import import_weights


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with no weight or running statistic at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator)
                value.copy_(0.5 + noise if "running_var" in name else value + 0.1 * (noise - 0.5))
    return net.eval()


def imported(content: Any, folder: Path, **options: Any) -> tuple[runs.Run, Encoder]:
    """The run and the encoder after an import of what `torch.save` writes of `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "weights.pth")
    run = import_weights(str(folder / "weights.pth"), folder / "run", **options)
    return run, pretrained_encoder(folder / "run").eval()
