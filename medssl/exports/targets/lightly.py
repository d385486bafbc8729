"""The state dict that lightly-train exports and takes, under the names of timm: our 2D ResNet and ViT.

medssl export RUN --to lightly --out FOLDER
"""

from __future__ import annotations

from pathlib import Path

import torch

from medssl.exports.targets.base import Target, write_json
from medssl.exports.timm_models import timm_model
from medssl.exports.trained import TrainedModel, input_description


class Lightly(Target):
    """`exported_last.pt`, the state dict of a timm model, as lightly-train names and writes it."""

    title = "lightly-train"

    def check(self, model: TrainedModel) -> None:
        timm_model(model)

    def left_out(self, model: TrainedModel) -> str | None:
        decoder = "The decoder is left out: lightly-train takes backbones." if model.kind == "segmenter" else None
        return " ".join(filter(None, (decoder, timm_model(model).note))) or None

    def write(self, model: TrainedModel, folder: Path) -> None:
        found = timm_model(model)
        torch.save({name: weight.clone() for name, weight in found.weights.items()}, folder / "exported_last.pt")
        about = {"model": f"timm/{found.name}", "model_args": found.args, "input": input_description(model)}
        write_json(folder / "config.json", about)

    def usage(self, model: TrainedModel) -> str:
        found = timm_model(model)
        return f"""
import timm

args = {found.args}
model = timm.create_model("{found.name}", checkpoint_path="exported_last.pt", **args)
model.eval()

# lightly-train takes the model, or its name and file:
# import lightly_train
# args["checkpoint_path"] = "exported_last.pt"
# lightly_train.train(out="run", data="images", model="timm/{found.name}", model_args=args)
"""
