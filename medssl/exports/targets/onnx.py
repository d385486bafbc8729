"""ONNX with free batch and image size, for any runtime.

medssl export RUN --to onnx --out FOLDER

A classifier and a segmenter give logits; whoever uses the segmenter cuts the windows. An encoder gives its vector and pyramid.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from medssl.encoders import Encoder
from medssl.exports.targets.base import Target, write_json
from medssl.exports.trained import TrainedModel, input_description

AXES = {2: "hw", 3: "xyz"}


class Onnx(Target):
    """`model.onnx`, checked by ONNX's own checker, and `config.json`."""

    title = "ONNX"
    needs = ("onnx", "onnxscript")

    def write(self, model: TrainedModel, folder: Path) -> None:
        import onnx

        network, names = _network(model)
        program = _exported(network, _example(model), names, model.encoder.strides[-1])
        program.save(folder / "model.onnx", external_data=False)
        _forget_machine(folder / "model.onnx")
        onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
        write_json(folder / "config.json", {"outputs": names, "input": input_description(model), "run": model.run.id})

    def usage(self, model: TrainedModel) -> str:
        return """
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def model(x):
    return session.run(None, {"x": x})  # float32 (B, C, *S) -> a list of arrays, in the order of config.json
"""


class _AllFeatures(nn.Module):
    """The vector of an encoder, then its pyramid, fine to coarse."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder(x), *self.encoder.features(x))


def _forget_machine(path: Path) -> None:
    """Take out what torch notes of each node: the paths of the code that made it, which name the user of this machine."""
    import onnx

    stored = onnx.load(path)
    for node in (*stored.graph.node, *(node for function in stored.functions for node in function.node)):
        del node.metadata_props[:]
    onnx.save(stored, path)


def _network(model: TrainedModel) -> tuple[nn.Module, list[str]]:
    """What is exported, and the names of its outputs."""
    if model.kind != "encoder":
        return model.module, ["logits"]
    levels = [f"features_{number}" for number in range(len(model.encoder.channels))]
    return _AllFeatures(model.encoder), ["vector", *levels]


def _example(model: TrainedModel) -> Tensor:
    """A batch of two; more than one patch along each axis, all different, so that no size is taken for a constant."""
    size = [stride * (3 + axis) for axis, stride in enumerate(model.encoder.strides[-1])]
    return torch.zeros(2, model.encoder.in_channels, *size)


def _exported(network: nn.Module, x: Tensor, names: list[str], strides: tuple[int, ...]) -> Any:
    shape = {0: Dim("batch")} | {
        2 + axis: stride * Dim(AXES[len(strides)][axis], min=2) for axis, stride in enumerate(strides)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            network, (x,), dynamo=True, dynamic_shapes=(shape,), input_names=["x"], output_names=names, verbose=False
        )
