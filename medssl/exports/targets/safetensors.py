"""The weights as safetensors, which hold no code, with a `config.json` that rebuilds the network.

medssl export RUN --to safetensors --out FOLDER
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from medssl.exports.targets.base import Target, write_json
from medssl.exports.trained import TrainedModel, input_description
from medssl.training.models import save_weights


class Safetensors(Target):
    """`model.safetensors` under the names that medssl uses, and `config.json`."""

    title = "safetensors"

    def write(self, model: TrainedModel, folder: Path) -> None:
        save_weights(model.module, folder / "model.safetensors")
        about = {
            "medssl": version("medssl"),
            "kind": model.kind,
            "encoder": model.run.config["encoder"],
            "input": input_description(model),
            "run": model.run.id,
        }
        write_json(folder / "config.json", about)

    def usage(self, model: TrainedModel) -> str:
        heads = {"encoder": "encoder", "classifier": "Classifier(encoder, len(outputs))"}
        whole = heads.get(model.kind, "Segmenter(encoder, len(outputs))")
        return f"""
import json
from pathlib import Path

from safetensors.torch import load_file

from medssl.core.spec import rebuild
from medssl.encoders import Encoder
from medssl.training.models import Classifier, Segmenter

config = json.loads(Path("config.json").read_text())
encoder, outputs = rebuild(config["encoder"], Encoder), config["input"]["outputs"]
model = {whole}
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""
