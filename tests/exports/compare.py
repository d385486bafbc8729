"""How far each export is from the run it was made of, in the library it is for: the table of `how_to/take_a_model_elsewhere.md`.

python -m tests.exports.compare
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import medssl
from medssl.encoders import Encoder, ResidualUNet, ResNet, Timm, ViT
from tests.exports.made import loaded, make_run, scan

CASES: list[tuple[str, str, Encoder, str]] = [  # target, the library that loads it, encoder, kind
    ("safetensors", "safetensors", ResidualUNet(dims=3, width=8, blocks=(1, 1, 1)), "segmenter"),
    ("onnx", "onnxruntime", ResNet(dims=2, depth=18), "encoder"),
    ("onnx", "onnxruntime", ViT(dims=2), "classifier"),
    ("onnx", "onnxruntime", ResidualUNet(dims=3, width=8, blocks=(1, 1, 1)), "segmenter"),
    ("torchvision", "torchvision", ResNet(dims=2, depth=50), "classifier"),
    ("timm", "timm", ResNet(dims=2, in_channels=2, depth=18), "encoder"),
    ("timm", "timm", ViT(dims=2), "classifier"),
    ("timm", "timm", Timm(name="convnext_atto"), "classifier"),
    ("lightly", "timm", ResNet(dims=2, depth=18), "encoder"),
    ("nnunet", "dynamic-network-architectures", ResidualUNet(dims=3, width=8, blocks=(1, 1, 1)), "segmenter"),
]


def largest_difference(target: str, encoder: Encoder, kind: str, folder: Path) -> float:
    """The largest difference of any output, over the largest output, on a transposed scan."""
    network = make_run(folder / "run", encoder, kind, crop=2 * max(encoder.strides[-1]))
    medssl.export(folder / "run", target, folder / "out")
    fixed = target in ("timm", "lightly") and isinstance(encoder, ViT)
    x = scan(encoder, (2 * max(encoder.strides[-1]),) * 2 if fixed else ())
    with torch.no_grad():
        expected = network(x)
        model = loaded(folder / "out")
        if target == "onnx":
            given = torch.from_numpy(model(np.ascontiguousarray(x.numpy()))[0])
        elif target == "nnunet":
            given = model(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        else:
            given = model(x)
    return float((given - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    torch.manual_seed(0)
    print(
        f"torch {version('torch')}\n\n| `--to` | read by | model | largest difference / largest output |\n|---|---|---|---|"
    )
    for target, library, encoder, kind in CASES:
        with tempfile.TemporaryDirectory() as folder:
            apart = largest_difference(target, encoder, kind, Path(folder))
        name = f"{encoder.dims}D {type(encoder).__name__}, {kind}"
        print(f"| `{target}` | {library} {version(library)} | {name} | {apart:.0e} |", flush=True)
