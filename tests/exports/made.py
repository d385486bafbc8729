"""Finished runs with random weights, made without training, and exports loaded as their model cards say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl.core import runs
from medssl.core.spec import describe
from medssl.encoders import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.models import Classifier, Segmenter, save_weights

KINDS = ("encoder", "classifier", "segmenter")


def make_run(folder: Path, encoder: Encoder, kind: str, data_spec: DataSpec | None = None, crop: int = 0) -> nn.Module:
    """Write a finished run of a random network, whose norms have statistics of their own; returns the network."""
    classes = ["a", "b", "c"] if kind == "classifier" else ["1", "4"]
    heads = {"classifier": Classifier, "segmenter": Segmenter}
    module = heads[kind](encoder, 3) if kind in heads else encoder
    shake(module)
    if isinstance(module, Segmenter):
        balance(module)
    size = [crop or 2 * stride for stride in encoder.strides[-1]]
    spec = data_spec or DataSpec(encoder.dims, encoder.in_channels, "CT")
    config: dict[str, Any] = {"encoder": describe(encoder), "crop": size, "data_spec": spec.to_record(), "scans": 30}
    config |= {"split_seed": 0, "split_column": None}
    if kind == "encoder":
        config |= {"steps": 10, "batch_size": 2, "transductive": False, "method": {"class_path": "SimMIM"}}
    else:
        task = {"classifier": "classification", "segmenter": "segmentation"}[kind]
        train = {"steps": 10, "batch_size": 2, "lr": 1e-3}
        config |= {"task": task, "classes": classes, "budget": "5p", "patients": 5, "train": train}
    with runs.recording(folder, "pretrain" if kind == "encoder" else "finetune", config, "0" * 64, 0):
        save_weights(module, folder / f"{'encoder' if kind == 'encoder' else 'model'}.safetensors")
    return module.eval()


def shake(module: nn.Module) -> None:
    """Random statistics, weights and biases of all norms, so that none that is left out goes unnoticed."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight), alpha=0.2)


@torch.no_grad()
def balance(model: Segmenter) -> None:
    """Shift the last layer so that noise gets every class about equally often."""
    encoder = model.encoder
    logits = model.eval()(torch.rand(2, encoder.in_channels, *[2 * stride for stride in encoder.strides[-1]]))
    model.decoder.head.bias -= logits.transpose(0, 1).flatten(1).median(1).values


def scan(module: Encoder, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """(2, C, *S): a batch of another size than the crop, different along each axis, and transposed in memory."""
    size = shape or tuple(stride * (2 + axis) for axis, stride in enumerate(module.strides[-1]))
    x = torch.randn(2, module.in_channels, *size[::-1])
    return x.permute(0, 1, *range(1 + len(size), 1, -1))


def loaded(folder: Path) -> Any:
    """What the card's own code leaves in `model`, run in the folder."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    here = os.getcwd()
    try:
        os.chdir(folder)
        exec(compile(code[1], "README.md", "exec"), names)
    finally:
        os.chdir(here)
    return names["model"]
