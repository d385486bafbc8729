"""A folder that timm reads by `local-dir:`: our 2D ResNet and ViT.

medssl export RUN --to timm --out FOLDER
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from medssl.exports.targets.base import Target, write_json
from medssl.exports.timm_models import timm_model
from medssl.exports.trained import TrainedModel, input_description


class Timm(Target):
    """`model.safetensors` under timm's names, and the `config.json` that timm reads."""

    title = "timm"

    def check(self, model: TrainedModel) -> None:
        timm_model(model)

    def left_out(self, model: TrainedModel) -> str | None:
        decoder = "The decoder is left out: timm has none." if model.kind == "segmenter" else None
        return " ".join(filter(None, (decoder, timm_model(model).note))) or None

    def write(self, model: TrainedModel, folder: Path) -> None:
        found = timm_model(model)
        weights = {name: weight.contiguous() for name, weight in found.weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        crop = model.crop
        about = {
            "architecture": found.name,
            "num_classes": found.args["num_classes"],
            "num_features": found.features,
            "model_args": {name: value for name, value in found.args.items() if name != "num_classes"},
            "pretrained_cfg": {
                "input_size": [model.encoder.in_channels, *crop],
                "num_classes": found.args["num_classes"],
                "mean": [0.0] * model.encoder.in_channels,  # the scale of the input is in `input`, and in README.md
                "std": [1.0] * model.encoder.in_channels,
                "first_conv": None,  # or timm would leave it random where there are not 1 or 3 channels
            },
            "input": input_description(model),
        }
        write_json(folder / "config.json", about)

    def usage(self, model: TrainedModel) -> str:
        classes = timm_model(model).args["num_classes"]
        return f"""
import timm

model = timm.create_model("local-dir:.", pretrained=True, num_classes={classes})  # "." is this folder
model.eval()
"""
