"""A 2D ResNet for torchvision, where ours is its network one to one.

medssl export RUN --to torchvision --out FOLDER
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from medssl.encoders.resnet import BLOCKS, ResNet
from medssl.exports.resnets import check_resnet, resnet_weights
from medssl.exports.targets.base import Target, write_json
from medssl.exports.trained import TrainedModel, input_description


class Torchvision(Target):
    """`model.safetensors` under torchvision's names, and `config.json`."""

    title = "torchvision"

    def check(self, model: TrainedModel) -> None:
        check_resnet(model.encoder, "torchvision")

    def left_out(self, model: TrainedModel) -> str | None:
        return "The decoder is left out: it is not part of torchvision's ResNet." if model.kind == "segmenter" else None

    def write(self, model: TrainedModel, folder: Path) -> None:
        weights = {name: weight.contiguous() for name, weight in resnet_weights(model).items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        write_json(folder / "config.json", {"input": input_description(model), "run": model.run.id})

    def usage(self, model: TrainedModel) -> str:
        encoder = model.encoder
        assert isinstance(encoder, ResNet)
        block = "Bottleneck" if encoder.depth >= 50 else "BasicBlock"
        classes = f", num_classes={len(model.outputs)}" if model.head is not None else ""
        code = f"""
import torch
from safetensors.torch import load_file
from torchvision.models.resnet import {block}, ResNet

model = ResNet({block}, {list(BLOCKS[encoder.depth])}{classes})  # ResNet-{encoder.depth}
"""
        if encoder.in_channels != 3:
            code += f"model.conv1 = torch.nn.Conv2d({encoder.in_channels}, 64, 7, 2, 3, bias=False)\n"
        if model.head is None:
            code += "model.fc = torch.nn.Identity()  # gives the feature vector; put your own layer here\n"
        return code + 'model.load_state_dict(load_file("model.safetensors"))\nmodel.eval()\n'
