"""The network of this bundle, as torch.export wrote it: a graph and its weights, without the code of a class.

network = ExportedNetwork("models/model.pt2").to("cuda")
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass


class ExportedNetwork(nn.Module):
    """An exported program that follows its input from device to device. It predicts; it cannot be trained.

    Args:
        path: The file `model.pt2`.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self._programs: dict[str, Any] = {}  # by device; no submodules, since these cannot be switched to evaluation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *crop) -> logits (B, classes, *crop), or (B, classes)."""
        device = str(x.device)
        if device not in self._programs:
            program = torch.export.load(self.path)
            self._programs[device] = move_to_device_pass(program, device).module()
        return self._programs[device](torch.as_tensor(x).as_subclass(Tensor))
