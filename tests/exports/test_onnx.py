"""ONNX: onnxruntime gives what torch gives, for batches and images of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch

import medssl
from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT
from tests.exports.made import loaded, make_run, scan

ONNX = [
    (ResNet(dims=2, depth=10, width=4), "encoder"),
    pytest.param(ViT(dims=2, patch=4, width=24, depth=1), "classifier", marks=pytest.mark.slow),
    (ResidualUNet(dims=3, width=4, blocks=(1, 1)), "segmenter"),
    pytest.param(ViT(dims=3, patch=4, width=24, depth=1), "encoder", marks=pytest.mark.slow),
    pytest.param(ResNet(dims=3, depth=10, width=4), "classifier", marks=pytest.mark.slow),
    pytest.param(ViT(dims=3, patch=(4, 4, 2), width=24, depth=1), "segmenter", marks=pytest.mark.slow),
    pytest.param(ResNet(dims=2, in_channels=3, depth=50, width=8), "segmenter", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("encoder", "kind"), ONNX, ids=lambda value: getattr(value, "dims", value))
def test_onnxruntime_gives_what_torch_gives_at_any_size(encoder: Encoder, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnx is an optional package")
    pytest.importorskip("onnxruntime", reason="onnxruntime is an optional package")
    network = make_run(tmp_path / "run", encoder, kind)
    medssl.export(tmp_path / "run", "onnx", tmp_path / "out")
    model = loaded(tmp_path / "out")
    for x in (scan(encoder), torch.randn(1, encoder.in_channels, *[4 * stride for stride in encoder.strides[-1]])):
        with torch.no_grad():
            expected = [encoder(x), *encoder.features(x)] if kind == "encoder" else [network(x)]
        given = model(np.ascontiguousarray(x.numpy()))
        assert len(given) == len(expected)
        for ours, theirs in zip(expected, given):
            assert np.abs(ours.numpy() - theirs).max() < 1e-4
