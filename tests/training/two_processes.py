"""Every method in two processes (gloo, on the CPU) and in one at the same global batch: how far the weights are apart.

AdamW takes the rounding errors in the gradient of a weight that has none (a bias before a norm) for a gradient, and moves it by up to
the learning rate at each step. So that rounding shows no difference, weights are float64, and each sample's views are made alone:
float32 rounds a batch of two in another way than one of four.

python -m tests.training.two_processes OUT                      # all methods, 20 steps; prints a table
python -m tests.training.two_processes OUT MAE "SimCLR chunks"  # some
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import medssl
from medssl.core.errors import MedsslError
from medssl.core.registry import METHODS
from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT
from medssl.methods import Method, Rotation, SimCLR, SimMIM
from medssl.training.config import Hardware, Monitoring, TrainConfig
from medssl.training.pretrain import pretrain

STEPS, BATCH, FRAMES = 20, 4, 3
LIMIT = 1e-4  # between the weights of both
TRAINING = {"warmup": 5, "lr": 1e-3}


def resnet() -> Encoder:
    return ResNet(3, depth=10, width=4, max_pool=False)  # with batch norm


def vit() -> Encoder:
    return ViT(3, patch=4, width=24, depth=1, heads=1)


def unet(channels: int = 1) -> Encoder:
    return ResidualUNet(3, channels, width=4, blocks=(1, 1))


ENCODERS: dict[str, Callable[[], Encoder]] = dict.fromkeys(("MAE", "AIM", "IBOT"), vit) | {
    "MaskedMotion": partial(unet, FRAMES)
}
ENCODERS |= dict.fromkeys(
    (
        *("SimCLR", "MoCo", "BYOL", "SimSiam", "BarlowTwins", "VICReg", "PatientContrast", "CLIP"),
        *("Rotation", "Autoencoder"),
    ),
    resnet,
)
SETTINGS: dict[str, dict[str, Any]] = {
    "MoCo": {"queue": 10},
    "Autoencoder": {"latent": 16},
    "VAE": {"latent": 16},
    "SimMIM": {"mask_block": 4},
    "MaskedMotion": {"mask_block": 4},
    "Jigsaw": {"grid": 2, "permutations": 8},
    "VoCo": {"grid": 2},
    "DINO": {"prototypes": 32, "local_views": 1},
    "IBOT": {"prototypes": 32},
    "CLIP": {"text_width": 32},
    "Joint": {"parts": [partial(SimMIM, mask_block=4), Rotation, SimCLR]},
}
FURTHER: dict[str, tuple[str, Callable[[], Encoder], dict[str, Any]]] = {
    "MoCo v3": ("MoCo", resnet, {"version": "v3"}),
    "SimCLR chunks": ("SimCLR", unet, {"chunk": 1}),
    "SimCLR ViT": ("SimCLR", vit, {}),
    "DINO ViT": ("DINO", vit, SETTINGS["DINO"]),
    "BYOL ViT": ("BYOL", vit, {}),
    "Rotation ViT": ("Rotation", vit, {}),
    "SimMIM ViT": ("SimMIM", vit, SETTINGS["SimMIM"]),
    "SimMIM places": ("SimMIM", unet, {"mask_block": 4, "place_weight": 1.0}),
}


def cases() -> dict[str, tuple[str, Callable[[], Encoder], dict[str, Any]]]:
    """By name: a method, an encoder that suits it, and settings."""
    return {name: (name, ENCODERS.get(name, unet), SETTINGS.get(name, {})) for name in METHODS.names()} | FURTHER


class OneByOne:
    """In place of a method's `make_views`: the views of each sample alone, put together.

    Args:
        make: The method's own.
    """

    def __init__(self, make: Callable[[dict[str, Any]], dict[str, Any]]):
        self.make = make

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        count = len(batch["key"])
        made = [self.make({name: values[i : i + 1] for name, values in batch.items()}) for i in range(count)]
        return {name: self.joined([one[name] for one in made]) for name in made[0]}

    def joined(self, parts: list[Any]) -> Any:
        if isinstance(parts[0], torch.Tensor):
            return torch.cat(parts)
        if parts[0] and isinstance(parts[0][0], torch.Tensor):  # views: a tensor each
            return [torch.cat(views) for views in zip(*parts)]
        return [item for part in parts for item in part]  # reports


def exact(method: Method) -> Method:
    """The method in float64, with the views of each sample made alone."""
    method.make_views = OneByOne(method.make_views)  # type: ignore[method-assign]
    return method.double()


def train(name: str, data: Path, out: Path, devices: int, steps: int = STEPS) -> None:
    """Pretrain one case; `devices` processes like this one share each batch."""
    method, encoder, settings = cases()[name]
    cache = data / {"MaskedMotion": "sequences"}.get(method, "cache")
    optimisation = TrainConfig(steps=steps, batch_size=BATCH // devices, **TRAINING)
    hardware, monitoring = Hardware("cpu", devices), Monitoring(monitor_every=steps, on_collapse="warn")
    kind: Any = METHODS.load(method)
    pretrain(
        cache,
        out / name,
        encoder(),
        lambda given: exact(kind(given, **settings)),
        (16, 16, 16),
        optimisation,
        hardware,
        monitoring=monitoring,
    )


def train_all(names: Sequence[str], data: Path, out: Path, devices: int, steps: int = STEPS) -> None:
    """Pretrain several cases, one after the other; why one failed is written beside it."""
    for name in names:
        try:
            train(name, data, out, devices, steps)
        except (MedsslError, RuntimeError) as error:
            (out / f"{name}.failed").write_text(f"{type(error).__name__}: {error}")


def in_two_processes(names: Sequence[str], data: Path, out: Path, steps: int = STEPS) -> None:
    """What `torchrun --nproc-per-node 2` does: two processes of this file, that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.two_processes", "--worker"]
    command += [str(data), str(out), str(steps), *names]
    both = [subprocess.Popen(command, env=os.environ | meeting | {"LOCAL_RANK": rank}) for rank in "01"]
    codes = [process.wait(timeout=3600) for process in both]
    assert codes == [0, 0], f"the processes ended with the codes {codes}"


def weights_apart(one: Path, two: Path) -> float:
    """The largest difference between the weights of two runs of the same method."""
    first, second = (load_file(folder / "method.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def make_data(out: Path) -> None:
    """A cache of phantoms with reports, and one of sequences of three frames."""
    if (out / "sequences").exists():
        return
    medssl.phantom(out / "scans", patients=12, shape=(32, 32, 24), spacing_mm=(10, 10, 12))
    labels = pd.read_csv(out / "scans/labels.csv").merge(pd.read_csv(out / "scans/reports.csv"), on="file")
    labels.to_csv(out / "labels.csv", index=False)
    names = {
        "labels": out / "labels.csv",
        "patient": "patient",
        "report": "report",
        "mask": "../../masks/{name}.nii.gz",
    }
    medssl.index([out / "scans"], out / "manifest", **names)
    medssl.prepare(out / "manifest", out / "cache", spacing_mm=(12.0, 12.0, 12.0))
    (out / "films").mkdir()
    for n in range(8):
        film = np.random.default_rng(n).normal(100, 20, (20, 20, 20, FRAMES)).astype(np.float32)
        film[n : n + 6, 4:10] += 100
        nibabel.save(nibabel.Nifti1Image(film, np.diag([4.0, 4, 4, 1])), out / f"films/{n}.nii.gz")
    medssl.index([out / "films"], out / "manifest-films", modality="MR")
    medssl.prepare(out / "manifest-films", out / "sequences", frames="sequence")


def compare(names: Sequence[str], out: Path) -> dict[str, float | str]:
    """For each case the largest difference of the weights, or why a training failed."""
    make_data(out / "data")
    for devices in (1, 2):
        (out / str(devices)).mkdir(exist_ok=True)
    train_all(names, out / "data", out / "1", devices=1)
    in_two_processes(names, out / "data", out / "2")
    answers: dict[str, float | str] = {}
    for name in names:
        failed = [path.read_text() for path in (out / f"{n}/{name}.failed" for n in (1, 2)) if path.exists()]
        answers[name] = failed[0] if failed else weights_apart(out / "1" / name, out / "2" / name)
    return answers


def main() -> int:
    torch.set_num_threads(1)
    if sys.argv[1] == "--worker":
        data, out, steps, *names = sys.argv[2:]
        train_all(names, Path(data), Path(out), devices=2, steps=int(steps))
        return 0
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    answers = compare(sys.argv[2:] or list(cases()), out)
    for name, apart in answers.items():
        print(f"| {name} | {apart if isinstance(apart, str) else f'{apart:.1e}'} |")
    return int(any(isinstance(apart, str) or apart > LIMIT for apart in answers.values()))


if __name__ == "__main__":
    sys.exit(main())
