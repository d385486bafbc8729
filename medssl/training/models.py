"""An encoder with a head, and how it is applied to a whole scan.

model = Segmenter(encoder, Decoder(encoder, 1 + structures))
mask = segment(model, x, size=(32, 32, 32))            # (C, *S) in 0..1 -> (*S) class numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
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
    """(B, C, *S) -> (B, classes) logits, linear on the pooled features."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.out_dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Segmenter(nn.Module):
    """(B, C, *S) -> (B, classes, *S) logits, class 0 the background."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.decoder = encoder, Decoder(encoder, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder.features(x))


def fresh_encoder(spec: dict, seed: int, external_encoder: Encoder | None = None) -> Encoder:
    """A randomly initialised encoder as a record describes it; external_encoder: one of a class outside of medssl."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if external_encoder is not None and describes_same(describe(external_encoder), spec):
            return twin(external_encoder)
        return rebuild(spec, Encoder)  # type: ignore[type-abstract]


def describe_method(method: Method) -> dict:
    """The method without its encoder, which a run's record describes apart."""
    spec = describe(method)
    spec["init_args"].pop("encoder", None)
    return spec


def pretrained_encoder(folder: Path, encoder: Encoder | None = None) -> Encoder:
    """The encoder of a pretraining run; `encoder` stands in for a class outside of medssl."""
    built = fresh_encoder(runs.read(folder).config["encoder"], 0, encoder)
    load_encoder(built, folder)
    return built


def load_encoder(encoder: Encoder, folder: Path) -> None:
    """Put a pretraining run's weights into an encoder. Raises MedsslError where any does not fit."""
    _load_exactly(encoder, folder / "encoder.safetensors")


def load_pretrained(model: Classifier | Segmenter, folder: Path) -> list[str]:
    """Put a pretraining run's weights into the model: every one of the encoder's, and the decoder's where there is one.

    Returns the names of the parts that were loaded. Raises MedsslError where a weight is missing, left over or of
    another shape: nothing is ever left random without a word.
    """
    load_encoder(model.encoder, folder)
    decoder = folder / "decoder.safetensors"
    if not (isinstance(model, Segmenter) and decoder.exists()):
        return ["encoder"]
    body = {k: v for k, v in load(decoder.read_bytes()).items() if not k.startswith("head.")}
    kept = {k: v for k, v in model.decoder.state_dict().items() if k.startswith("head.")}
    model.decoder.load_state_dict(body | kept)  # the head is the new task's
    return ["encoder", "decoder"]


def load_method(folder: Path, encoder: Encoder | None = None) -> tuple[Method, runs.Run]:
    """The whole method of a finished pretraining run, its own weights and views in it, in evaluation mode; and the record.

    encoder: for a run whose encoder class lies outside of medssl.
    """
    run = runs.read(folder)
    if run.kind != "pretrain" or run.status != "finished":
        raise MedsslError(f"{folder.name} holds a {run.status} {run.kind} run: expected a finished pretraining run")
    encoder = fresh_encoder(run.config["encoder"], 0, encoder)
    method = rebuild(run.config["method"], Method, encoder=encoder)  # type: ignore[type-abstract]
    method.set_up_views(DataSpec.from_record(run.config), run.config["crop"])
    _load_exactly(method, folder / "method.safetensors")
    return method.eval(), run


def save_weights(module: nn.Module, path: Path) -> None:
    """A module's state as safetensors, written whole or not at all."""
    state = {
        k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()
    }  # clone: some share memory
    write_atomically(path, save(state))


def _load_exactly(module: nn.Module, path: Path) -> None:
    if not path.exists():
        raise MedsslError(f"{path.parent.name} holds no {path.name}: expected a finished pretraining run; run it again")
    given, own = load(path.read_bytes()), module.state_dict()
    wrong = sorted(
        (given.keys() ^ own.keys()) | {k for k in given.keys() & own.keys() if given[k].shape != own[k].shape}
    )
    if wrong:
        raise MedsslError(
            f"{len(wrong)} of {len(own)} weights do not fit the {path.stem}, the first is {wrong[0]}: expected the same names and "
            f"shapes; build it as the record in {path.parent.name} says"
        )
    module.load_state_dict(given)


@torch.no_grad()
def segment_probabilities(model: nn.Module, x: Tensor, size: Sequence[int]) -> Tensor:
    """(C, *S) -> (classes, *S) probabilities, by overlapping windows of `size` (a scan that is smaller is padded)."""
    model.eval()
    logits = sliding_window_inference(
        x[None], tuple(size), 4, model, overlap=0.25, mode="gaussian", padding_mode="constant"
    )
    return F.softmax(logits[0].float(), dim=0)


def segment(model: nn.Module, x: Tensor, size: Sequence[int]) -> Tensor:
    """(C, *S) -> (*S) uint8 class numbers."""
    return segment_probabilities(model, x, size).argmax(0).to(torch.uint8)


@torch.no_grad()
def classify(model: nn.Module, x: Tensor, batch: int = 64) -> Tensor:
    """(N, C, *size) -> (N, classes) probabilities."""
    model.eval()
    return torch.cat([F.softmax(model(part).float(), dim=1) for part in x.split(batch)])
