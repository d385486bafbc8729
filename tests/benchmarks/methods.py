"""What a step of each method costs, and whether ours are as fast as lightly's.

    python tests/benchmarks/methods.py [--quick] [--only MAE SimMIM] [--encoders ResNet ViT]

Every method that `medssl.methods` holds, on every encoder of `medssl.encoders` it can use, in 2D and 3D: the time of a
step (loss and backward, on views that are made; the views' own time stands beside it) over that of the bare encoder
forward and backward on as large a batch, and its memory. On a GPU memory is the peak allocated; on a CPU it is weights,
their gradients and what the forward pass keeps for the backward pass.

Rivals: SimCLR, BYOL and DINO as in lightly's own examples (`lightly_methods.py`), with the same encoder, heads and views;
MAE as in lightly's example, on a timm ViT of the same width and depth. Ours and theirs take turns in one process; best of all rounds. Times on
a CPU are CPU seconds, which a busy machine lengthens little. The last line is JSON: `ratios` (ours over lightly's), `goals`,
`met`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightly.models import utils
from torch import Tensor, nn

import medssl.encoders
import medssl.methods
from medssl.core.errors import MedsslError
from medssl.core.registry import ENCODERS, METHODS
from medssl.encoders import Encoder
from medssl.methods import Method
from medssl.methods.check import synthetic_batch
from medssl.preprocessing.data_spec import DataSpec
from tests.benchmarks.lightly_methods import LightlyBYOL, LightlyDINO, LightlySimCLR, Rival

GOAL = 1.05
SIZES = {2: (64, 64), 3: (32, 32, 32)}
BATCH = {2: 16, 3: 4}
SMALL: dict[str, dict[str, Any]] = {  # so that a CPU can time them all; an encoder that is not here has its defaults
    "ResNet": {"depth": 10, "width": 16, "max_pool": False},
    "ResidualUNet": {"width": 16, "blocks": (1, 1, 1, 1)},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


clock = time.perf_counter if DEVICE == "cuda" else time.process_time


def encoder_of(name: str, dims: int) -> Encoder:
    kind: Any = getattr(medssl.encoders, name)
    return kind(dims=dims, **SMALL.get(name, {})).to(DEVICE)


def method_of(name: str, encoder: Encoder) -> Method:
    """The method with its defaults; Joint, which has none, of the two that every encoder takes."""
    kind: Any = getattr(medssl.methods, name)
    needed = [n for n, p in inspect.signature(kind).parameters.items() if p.default is p.empty and n != "encoder"]
    if needed == ["parts"]:
        return kind(encoder, [medssl.methods.SimCLR, medssl.methods.Rotation]).to(DEVICE)  # type: ignore[attr-defined]
    return kind(encoder).to(DEVICE)


def seconds(step: Callable[[], Tensor], rounds: int) -> float:
    """The best of `rounds` forward and backward passes."""
    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        begun = clock()
        step().backward()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begun)
    return best


def memory_mib(module: nn.Module, step: Callable[[], Tensor]) -> float:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step().backward()
        return torch.cuda.max_memory_allocated() / 2**20
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {
        p.untyped_storage().data_ptr(): p.numel() * p.element_size() * (1 + p.requires_grad)
        for p in module.parameters()
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = step()
    del loss
    return (sum(weights.values()) + sum(size for place, size in kept.items() if place not in weights)) / 2**20


def batch_of(method: Method, size: tuple[int, ...]) -> tuple[dict[str, Any], float]:
    """A batch with its views, and the seconds they took."""
    method.set_up_views(DataSpec(len(size), modality="MR"), size)
    made = synthetic_batch(method.encoder, method.source_size(size), BATCH[len(size)])
    batch = {k: v.to(DEVICE) if isinstance(v, Tensor) else v for k, v in made.items()}
    method.make_views(dict(batch))
    begun = clock()
    batch = method.make_views(batch)
    return batch, clock() - begun


def cost(name: str, encoder_name: str, dims: int, rounds: int) -> dict[str, float] | str:
    """What a step costs, or why the method does not take the encoder."""
    torch.manual_seed(0)
    encoder, size = encoder_of(encoder_name, dims), SIZES[dims]
    x = torch.rand(BATCH[dims], 1, *size, device=DEVICE)
    try:
        method = method_of(name, encoder)
        method.check(size, BATCH[dims])
    except MedsslError as error:
        return str(error)
    batch, views = batch_of(method, size)
    method.train()
    bare = seconds(lambda: encoder(x).square().mean(), rounds)
    step = seconds(lambda: method.loss(batch), rounds)
    memory = memory_mib(method, lambda: method.loss(batch))
    return {
        "bare_ms": 1e3 * bare,
        "step_ms": 1e3 * step,
        "over_bare": step / bare,
        "views_ms": 1e3 * views,
        "memory_mib": memory,
    }


class TimmMAE(Rival):
    def __init__(self, encoder: Any, ours: Any, size: Sequence[int]):
        super().__init__(encoder, ours, size)
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        self.patch = int(encoder.strides[-1][0])
        vit = VisionTransformer(
            size[0], self.patch, 1, 0, embed_dim=encoder.width, depth=encoder.depth, num_heads=encoder.heads
        )
        self.backbone, self.mask_ratio = MaskedVisionTransformerTIMM(vit), ours.mask_ratio
        self.length = self.backbone.sequence_length
        decoder = {"embed_dim": ours.decoder_width, "depth": ours.decoder_depth, "num_heads": ours.decoder_heads}
        self.decoder = MAEDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            patch_size=self.patch,
            in_chans=1,
            embed_dim=encoder.width,
            decoder_embed_dim=decoder["embed_dim"],
            decoder_depth=decoder["depth"],
            decoder_num_heads=decoder["num_heads"],
            mlp_ratio=4.0,
        )
        self.criterion = nn.MSELoss()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x = batch["views"][0]
        keep, mask = utils.random_token_mask((len(x), self.length), mask_ratio=self.mask_ratio, device=x.device)
        encoded = self.decoder.embed(self.backbone.encode(images=x, idx_keep=keep))
        masked = utils.repeat_token(self.decoder.mask_token, (len(x), self.length))
        decoded = self.decoder.decode(utils.set_at_index(masked, keep, encoded.type_as(masked)))
        predicted = self.decoder.predict(utils.get_at_index(decoded, mask))
        return self.criterion(predicted, utils.get_at_index(utils.patchify(x, self.patch), mask - 1))


RIVALS: dict[str, tuple[type[Rival], str]] = {
    "SimCLR": (LightlySimCLR, "ResNet"),
    "BYOL": (LightlyBYOL, "ResNet"),
    "DINO": (LightlyDINO, "ResNet"),
    "MAE": (TimmMAE, "ViT"),
}


def against_lightly(name: str, rounds: int) -> float:
    """Time of our step over lightly's on the same views of one batch, in turns; the best of each."""
    rival, encoder_name = RIVALS[name]
    torch.manual_seed(0)
    ours = method_of(name, encoder_of(encoder_name, 2)).train()
    theirs: Any = rival(encoder_of(encoder_name, 2), ours, SIZES[2]).to(DEVICE).train()
    batch, _ = batch_of(ours, SIZES[2])
    mine, other = [], []
    for _ in range(rounds):
        mine.append(seconds(lambda: ours.loss(batch), 2))
        other.append(seconds(lambda: theirs.loss(batch), 2))
    print(f"{name:16} 2D {encoder_name:14} ours {1e3 * min(mine):8.1f} ms   lightly {1e3 * min(other):8.1f} ms")
    return min(mine) / min(other)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="2D alone, one encoder a method, few rounds")
    parser.add_argument("--only", nargs="*", help="methods; all by default")
    parser.add_argument("--encoders", nargs="*", help="all by default")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    kinds = ENCODERS.names()
    methods = given.only or METHODS.names()
    rounds = 2 if given.quick else 8
    for dims in (2,) if given.quick else (2, 3):
        for name in methods:
            for encoder in given.encoders or kinds:
                found = cost(name, encoder, dims, rounds)
                if isinstance(found, str):
                    print(f"{name:16} {dims}D {encoder:14} not: {found}")
                    continue
                print(
                    f"{name:16} {dims}D {encoder:14} step {found['step_ms']:8.1f} ms = {found['over_bare']:5.2f} x bare encoder, "
                    f"views {found['views_ms']:7.1f} ms, {found['memory_mib']:7.0f} MiB",
                    flush=True,
                )
                if given.quick:
                    break
    ratios = {n: round(against_lightly(n, 3 if given.quick else 10), 3) for n in RIVALS if n in methods}
    print(
        json.dumps(
            {
                "device": DEVICE,
                "ratios": ratios,
                "goals": dict.fromkeys(ratios, GOAL),
                "met": all(r <= GOAL for r in ratios.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
