"""A finished run as what is exported: the network, and what has to be known to use it.

model = read_trained(Path("runs/model"))
model.kind, model.outputs               # "segmenter", ("background", "1", "2")
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.normalize import CLIP, PERCENTILES
from medssl.scans.modality import LOWEST_HU
from medssl.training.finetune import load_model
from medssl.training.models import Classifier, Segmenter, pretrained_encoder
from medssl.views.intensity import Window
from medssl.views.recipes import window


@dataclass(frozen=True)
class TrainedModel:
    """The network of a finished run.

    Attributes:
        run: The run's record.
        module: The network in evaluation mode, on the CPU.
    """

    run: runs.Run
    module: Encoder | Classifier | Segmenter

    @property
    def kind(self) -> str:
        """encoder, classifier or segmenter."""
        names = {Classifier: "classifier", Segmenter: "segmenter"}
        return next((name for kind, name in names.items() if isinstance(self.module, kind)), "encoder")

    @property
    def encoder(self) -> Encoder:
        """The encoder, which is the whole network after pretraining."""
        return self.module if isinstance(self.module, Encoder) else self.module.encoder

    @property
    def data_spec(self) -> DataSpec:
        """The scans that the model takes."""
        return DataSpec.from_record(self.run.config)

    @property
    def crop(self) -> tuple[int, ...]:
        """Voxels of the crop or window that the model was trained on."""
        return tuple(self.run.config["crop"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each output channel stands for; none for an encoder."""
        if self.kind == "encoder":
            return ()
        return (*(["background"] if self.kind == "segmenter" else []), *map(str, self.run.config["classes"]))

    @property
    def head(self) -> nn.Linear | None:
        """The last layer of a classifier."""
        return self.module.head if isinstance(self.module, Classifier) else None


def read_trained(folder: Path, encoder: Encoder | None = None) -> TrainedModel:
    """Load the network of a finished run.

    Args:
        folder: Folder of a pretraining run or a fine-tuned model.
        encoder: Encoder of a run whose encoder class lies outside medssl.

    Raises:
        MedsslError: The run is of another kind or not finished, or its weights do not fit.
    """
    run = runs.read(folder)
    if run.kind not in (*runs.WITH_ENCODER, "finetune") or run.status != "finished":
        raise MedsslError(
            f"{folder.name} holds a {run.status} {run.kind} run: expected a finished pretraining run or fine-tuned model; let it "
            "end, or give another folder"
        )
    module = load_model(folder, encoder)[1] if run.kind == "finetune" else pretrained_encoder(folder, encoder)
    return TrainedModel(run, copy.deepcopy(module).eval())


def intensity_steps(data_spec: DataSpec) -> dict[str, Any]:
    """How voxels become the network's input, as data.

    CT: HU through `points`, straight lines between them. Others: the scan's own percentiles become 0 and 1, clipped;
    images of 8 bits are divided by 255.

    Args:
        data_spec: The scans.
    """
    if not data_spec.family.in_hu:
        return {"percentiles": list(PERCENTILES), "to": [0.0, 1.0], "clip": list(CLIP), "images_of_8_bits": "v / 255"}
    (view,) = window(data_spec.family)
    assert isinstance(view, Window)
    low, high = view.level_hu - view.width_hu / 2, view.level_hu + view.width_hu / 2
    air, bone = min(low - 1, view.air_hu), max(high + 1, view.bone_hu)
    points = [[air, 0.0], [low, view.tails], [high, 1 - view.tails], [bone, 1.0]]
    return {"unit": "HU", "lowest": LOWEST_HU, "points": points}


def input_description(model: TrainedModel) -> dict[str, Any]:
    """What the network takes and gives, as data for a config file.

    Args:
        model: The model.
    """
    spec = model.data_spec
    return {
        "axes": "H, W" if spec.dims == 2 else "X, Y, Z towards R, A, S",
        "dims": spec.dims,
        "channels": spec.channels,
        "modality": spec.modality,
        "spacing_mm": list(spec.spacing_mm),
        "size": None if spec.size is None else list(spec.size),
        "crop": list(model.crop),
        "coarsest_stride": list(model.encoder.strides[-1]),
        "intensity": intensity_steps(spec),
        "outputs": list(model.outputs),
    }
