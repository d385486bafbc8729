"""A MONAI bundle that predicts by `python -m monai.bundle run`, without medssl and without a network connection.

medssl export RUN --to monai --out FOLDER

The network is a program of torch.export, so no class of medssl is needed; `scripts/` has the steps before and after it. Masks come
back on each scan's own grid, as `medssl predict` writes them. The steps are run on NIfTI (3D) and pictures (2D).
"""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import Dim

from medssl.core.errors import MedsslError
from medssl.exports import bundle
from medssl.exports.targets.base import Target, write_json
from medssl.exports.trained import TrainedModel, input_description

SCRIPTS = Path(bundle.__file__).parent
RUN = "python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json --scans FOLDER"
REQUIRED = {"scipy": "1.14", "nibabel": "5.3", "pillow": "11", "fire": "0.7", "pytorch-ignite": "0.5"}
SCHEMA = "docs/metadata_schema.json"


class Monai(Target):
    """`configs/`, `docs/`, `models/`, `scripts/` and `LICENSE`, as MONAI's bundle specification has them."""

    title = "MONAI"
    card: ClassVar[str] = "docs/README.md"

    def check(self, model: TrainedModel) -> None:
        if model.kind == "encoder":
            raise MedsslError(
                "this run is an encoder, and a bundle predicts: expected a fine-tuned model; fine-tune it first, or export the encoder "
                "to safetensors or onnx"
            )

    def write(self, model: TrainedModel, folder: Path) -> None:
        for name in ("models", "scripts"):
            (folder / name).mkdir()
        for source in SCRIPTS.glob("*.py"):
            shutil.copy(source, folder / "scripts" / source.name)
        torch.export.save(_program(model), folder / "models" / "model.pt2")
        write_json(folder / "configs" / "metadata.json", _metadata(model))
        write_json(folder / "configs" / "inference.json", _inference(model))
        write_json(folder / SCHEMA, METADATA_SCHEMA)
        write_json(folder / "medssl.json", {"input": input_description(model), "run": model.run.id})
        (folder / "LICENSE").write_text("The licence of the weights stands in docs/README.md.\n")

    def usage(self, model: TrainedModel) -> str:
        return f"""
import sys

from monai.bundle import ConfigParser

sys.path.insert(0, "")  # this folder, for its scripts
parser = ConfigParser()
parser.read_config("configs/inference.json")
model = parser.get_parsed_content("network_def")

# From a terminal, in this folder; it needs {" and ".join(list(REQUIRED)[3:])}, and predicts all scans in FOLDER:
# {RUN}
# To check metadata.json without a network connection: python -m monai.bundle verify_metadata
#     --meta_file configs/metadata.json --filepath {SCHEMA}
"""


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    """The network for crops of one size, in batches of any."""
    x = torch.zeros(2, model.encoder.in_channels, *model.crop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.module, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=4096)},))
    for node in program.graph.nodes:  # the paths of the code that made it, which name the user of this machine
        node.meta.pop("stack_trace", None)
    return program


def _metadata(model: TrainedModel) -> dict[str, Any]:
    spec, segments = model.data_spec, model.kind == "segmenter"
    image = {
        "type": "image",
        "format": "hounsfield" if spec.family.in_hu else "magnitude",
        "modality": spec.modality,
        "num_channels": spec.channels,
        "spatial_shape": list(model.crop),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": segments,
        "channel_def": {str(number): "image" for number in range(spec.channels)},
    }
    pred = {
        "type": "image" if segments else "probabilities",
        "format": "segmentation" if segments else "classes",
        "num_channels": len(model.outputs),
        "spatial_shape": list(model.crop) if segments else [1],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": segments,
        "channel_def": {str(number): name for number, name in enumerate(model.outputs)},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"written by medssl {version('medssl')} from run {model.run.id}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": _versions(),
        "name": f"{model.kind} of {spec.modality}",
        "task": f"{model.run.config['task']} in {spec.dims}D {spec.modality}",
        "description": "A model that medssl fine-tuned with few labels; its card is docs/README.md.",
        "authors": "not named",
        "copyright": "see docs/README.md",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def _versions() -> dict[str, str]:
    """Versions of the packages here, and the oldest that do of those that are not."""
    found = {package.metadata["Name"]: package.version for package in distributions()}
    return {name: found.get(name, oldest) for name, oldest in REQUIRED.items()}


def _inference(model: TrainedModel) -> dict[str, Any]:
    spec, segments = model.data_spec, model.kind == "segmenter"
    load: dict[str, Any] = {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}
    if spec.dims == 2:  # rows by columns, and 8 bits stay 8 bits
        load |= {"reader": {"_target_": "PILReader", "reverse_indexing": False}, "dtype": None}
    steps = {
        "_target_": "scripts.steps.ToModelInput",
        "keys": "image",
        "channels": spec.channels,
        "intensity": input_description(model)["intensity"],
        "air": spec.family.air,
        "spacing_mm": list(spec.spacing_mm) if spec.dims == 3 else None,
        "size": list(spec.size) if spec.size else None,
        "crop": None if segments else list(model.crop),
    }
    endings = [".nii", ".nii.gz"] if spec.dims == 3 else [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"]
    return {
        "imports": ["$import os"],
        "bundle_root": ".",
        "scans": "scans",
        "output_dir": "predictions",
        "endings": endings,
        "files": {"_target_": "scripts.steps.scans_in", "folder": "@scans", "endings": "@endings"},
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "scripts.network.ExportedNetwork",
            "path": "$os.path.join(@bundle_root, 'models', 'model.pt2')",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [load, steps]},
        "dataset": {"_target_": "Dataset", "data": "@files", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(model),
        "postprocessing": {"_target_": "Compose", "transforms": _after(model)},
        "handlers": [] if segments else [_table()],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _inferer(model: TrainedModel) -> dict[str, Any]:
    """The windows of `medssl.training.models.segment_probabilities`."""
    if model.kind == "classifier":
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(model.crop),
        "sw_batch_size": 4,
        "overlap": 0.25,
        "mode": "gaussian",
        "padding_mode": "constant",
    }


def _after(model: TrainedModel) -> list[dict[str, Any]]:
    if model.kind == "classifier":
        return [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    values = [0, *map(int, model.outputs[1:])]
    save = {"_target_": "scripts.steps.WriteMask", "keys": "pred", "scan": "image", "folder": "@output_dir"}
    return [{"_target_": "scripts.steps.ToScanGrid", "keys": "pred", "values": values}, save]


def _table() -> dict[str, Any]:
    """Writes the probabilities of all scans."""
    return {
        "_target_": "ClassificationSaver",
        "output_dir": "@output_dir",
        "filename": "probabilities.csv",
        "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
        "output_transform": "$monai.handlers.from_engine('pred')",
    }


METADATA_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "The fields that MONAI's bundle specification asks for in metadata.json, in the words of medssl",
    "type": "object",
    "required": [
        "version",
        "changelog",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    ],
    "properties": {
        "version": {"type": "string"},
        "changelog": {"type": "object"},
        "required_packages_version": {"type": "object"},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
                    "properties": {"num_channels": {"type": "integer"}, "spatial_shape": {"type": "array"}},
                },
            },
        },
    },
}
