"""Models for classification and segmentation: built, loaded from a run, saved, and applied to a whole scan.

model = Segmenter(encoder, classes=1 + structures)
mask = segment(model, x, size=(32, 32, 32))            # (C, *S) in 0..1 -> (*S) class numbers
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.spec import describe, describes_same, rebuild, twin
from medssl.encoders import Decoder, Encoder
from medssl.methods.base import Method
from medssl.preprocessing.data_spec import DataSpec


class Classifier(nn.Module):
    """A linear layer on the pooled features of an encoder: (B, C, *S) -> (B, classes) logits."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.out_dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Segmenter(nn.Module):
    """A decoder on the feature pyramid of an encoder: (B, C, *S) -> (B, classes, *S) logits; class 0 is the background."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.decoder = encoder, Decoder(encoder, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder.features(x))


def fresh_encoder(spec: dict, seed: int, external_encoder: Encoder | None = None) -> Encoder:
    """Build a randomly initialised encoder from a record.

    Args:
        spec: Record of the encoder, as `describe` makes it.
        seed: Seed of the weights.
        external_encoder: An encoder whose class lies outside medssl; it is copied in place of building from the record, if
            the record describes it.

    Raises:
        MedsslError: The record does not name an encoder of medssl.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if external_encoder is not None and describes_same(describe(external_encoder), spec):
            return twin(external_encoder)
        return rebuild(spec, Encoder)  # type: ignore[type-abstract]


def describe_method(method: Method) -> dict:
    """The record of a method without its encoder, which a run's record holds under a key of its own."""
    spec = describe(method)
    spec["init_args"].pop("encoder", None)
    return spec


def describe_view(view: nn.Module) -> dict:
    """The record of a view with all its settings, so that a changed range makes another run.

    A view that cannot be recorded, since it wraps a function, is described by its attributes and the code of its functions.
    """
    try:
        return describe(view)  # type: ignore[arg-type]
    except MedsslError:
        settings = {name: _settings(value) for name, value in sorted(vars(view).items()) if not name.startswith("_")}
        parts = [describe_view(part) for part in view.children()]
        return {"class_path": type(view).__name__, "settings": settings | {"parts": parts}}


def _settings(value: Any, depth: int = 4) -> Any:
    """A value as data, the same in every process: a function by its code, an object by its attributes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth == 0:
        return type(value).__name__
    if isinstance(value, dict):
        return {str(key): _settings(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_settings(item, depth - 1) for item in value]
        return items if isinstance(value, list | tuple) else sorted(map(str, items))
    if isinstance(value, Tensor | np.ndarray):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        return f"{array.dtype.name} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:12]}"
    if isinstance(value, FunctionType):
        code = value.__code__
        constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
        inner = [each.co_code.hex() for each in code.co_consts if isinstance(each, CodeType)]
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = (constants, inner, list(code.co_names), value.__defaults__, value.__kwdefaults__, cells)
        shown = [code.co_code.hex(), *(_settings(part, depth - 1) for part in parts)]
        return f"{value.__name__} {hashlib.sha256(repr(shown).encode()).hexdigest()[:12]}"
    own = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return {"class": getattr(value, "__name__", type(value).__name__)} | _settings(own, depth - 1)


def pretrained_encoder(folder: Path, encoder: Encoder | None = None) -> Encoder:
    """Load the encoder of a pretraining run or an import, with its weights.

    Args:
        folder: Folder of the run.
        encoder: Encoder of a run whose encoder class lies outside medssl.

    Raises:
        MedsslError: The run is not finished, or a weight does not fit.
    """
    built = fresh_encoder(runs.read(folder).config["encoder"], 0, encoder)
    load_encoder(built, folder)
    return built


def load_encoder(encoder: Encoder, folder: Path) -> None:
    """Load a pretraining run's weights into an encoder, in place. Raises MedsslError if a weight does not fit."""
    load_exactly(encoder, folder / "encoder.safetensors")


def load_pretrained(model: Classifier | Segmenter, folder: Path) -> list[str]:
    """Load a pretraining run's weights into a model, in place: the encoder, and the decoder if both have one.

    The last layer of the decoder is not loaded, because it belongs to the pretext.

    Args:
        model: Classifier or segmenter with the encoder of the run.
        folder: Folder of the run.

    Returns:
        The names of the parts that were loaded.

    Raises:
        MedsslError: A weight is missing, left over or of another shape. No weight silently stays random.
    """
    load_encoder(model.encoder, folder)
    decoder = folder / "decoder.safetensors"
    if not (isinstance(model, Segmenter) and decoder.exists()):
        return ["encoder"]
    body = {k: v for k, v in read_weights(decoder).items() if not k.startswith("head.")}
    head = {k: v for k, v in model.decoder.state_dict().items() if k.startswith("head.")}
    model.decoder.load_state_dict(body | head)
    return ["encoder", "decoder"]


def load_method(folder: Path, encoder: Encoder | None = None) -> tuple[Method, runs.Run]:
    """Load the whole method of a pretraining run, with its encoder, its own weights and its views.

    Args:
        folder: Folder of the run.
        encoder: Encoder of a run whose encoder class lies outside medssl.

    Returns:
        The method in evaluation mode, and the run's record.

    Raises:
        MedsslError: The run is of another kind or not finished, or a weight does not fit.
    """
    run = runs.read(folder)
    if run.kind != "pretrain" or run.status != "finished":
        raise MedsslError(f"{folder.name} holds a {run.status} {run.kind} run: expected a finished pretraining run")
    encoder = fresh_encoder(run.config["encoder"], 0, encoder)
    method = rebuild(run.config["method"], Method, encoder=encoder)  # type: ignore[type-abstract]
    method.set_up_views(DataSpec.from_record(run.config), run.config["crop"])
    load_exactly(method, folder / "method.safetensors")
    return method.eval(), run


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors, atomically."""
    state = module.state_dict()
    own = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}  # safetensors takes no shared memory
    write_atomically(path, save(own))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors, which never holds code.

    Raises:
        MedsslError: It is damaged, or a file of another kind.
    """
    try:
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise MedsslError(
            f"{path.name} in {path.parent.name} is damaged or not a file of weights ({type(error).__name__}): expected safetensors, "
            f"as medssl writes them; restore it from a copy, or run the job again"
        ) from None


def load_exactly(module: nn.Module, path: Path) -> None:
    """Load a file of weights into a module, in place. Raises MedsslError for one that is missing, damaged or does not fit."""
    if not path.exists():
        raise MedsslError(f"{path.parent.name} holds no {path.name}: expected a finished run; run it again")
    stored, expected = read_weights(path), module.state_dict()
    shared = stored.keys() & expected.keys()
    misfits = sorted((stored.keys() ^ expected.keys()) | {k for k in shared if stored[k].shape != expected[k].shape})
    if misfits:
        raise MedsslError(
            f"{len(misfits)} of {len(expected)} weights do not fit the {path.stem}, the first is {misfits[0]}: expected the "
            f"same names and shapes; build it as the record in {path.parent.name} says"
        )
    module.load_state_dict(stored)


@torch.no_grad()
def segment_probabilities(model: nn.Module, x: Tensor, size: Sequence[int]) -> Tensor:
    """Segment a whole scan by overlapping windows.

    Args:
        model: (B, C, *size) -> (B, classes, *size) logits.
        x: (C, *S) scan; one that is smaller than a window is padded.
        size: Voxels of a window along each axis.

    Returns:
        (classes, *S) probabilities.
    """
    model.eval()
    logits = sliding_window_inference(
        x[None], tuple(size), 4, model, overlap=0.25, mode="gaussian", padding_mode="constant"
    )
    return F.softmax(logits[0].float(), dim=0)


def segment(model: nn.Module, x: Tensor, size: Sequence[int]) -> Tensor:
    """Segment a whole scan (C, *S) into uint8 class numbers (*S); see `segment_probabilities`."""
    return segment_probabilities(model, x, size).argmax(0).to(torch.uint8)


@torch.no_grad()
def classify(model: nn.Module, x: Tensor, batch: int = 64) -> Tensor:
    """Classify images (N, C, *size), `batch` of them at once: (N, classes) probabilities."""
    model.eval()
    return torch.cat([F.softmax(model(part).float(), dim=1) for part in x.split(batch)])
