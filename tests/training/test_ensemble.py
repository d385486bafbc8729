"""The mean over models and views: each view undone exactly, and models that do not belong together refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.config import FinetuneConfig
from medssl.training.ensemble import Ensemble, mirror, prediction_views, scale
from medssl.training.finetune import finetune
from medssl.training.predict import predict
from tests.conftest import small_encoder


def test_the_mean_of_two_classifiers_is_the_mean_of_their_probabilities() -> None:
    models, x = [nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2)], torch.randn(5, 1, 4, 4)
    expected = (models[0](x).softmax(1) + models[1](x).softmax(1)) / 2
    assert torch.allclose(Ensemble(models)(x).softmax(1), expected, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_view_of_a_voxelwise_model_changes_nothing(dims: int) -> None:
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    model = kind(1, 2, 1)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * dims, indexing="ij")
    x = torch.exp(-4 * sum((a - 0.1 * i) ** 2 for i, a in enumerate(axes)))[None, None]
    alone = model(x).softmax(1)
    assert torch.allclose(Ensemble([model], [mirror(2), mirror(2 + dims - 1)])(x).softmax(1), alone, atol=1e-6)
    scaled = Ensemble([model], [scale(0.9), scale(1.1)])
    assert scaled.passes == 3
    assert (scaled(x).softmax(1) - alone).abs().max() < 0.01


def test_only_scans_without_a_side_are_mirrored() -> None:
    assert len(prediction_views(["mirrored", "scaled"], DataSpec(2, modality="US"))) == 3
    with pytest.raises(MedsslError, match="mirrored views of 3D MR would exchange left and right"):
        prediction_views(["mirrored"], DataSpec(3, modality="MR"))


def test_predictions_of_several_models_are_their_mean(cache: Cache, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": "classification", "label": "lesion", "train": FinetuneConfig(steps=2, growth=0)}
    settings["encoder"] = small_encoder()
    for seed in (0, 1):
        finetune(cache.path, tmp_path / f"m{seed}", crop=(16, 16, 16), seed=seed, budget="100%", **settings)
    finetune(cache.path, tmp_path / "larger", crop=(24, 24, 24), **settings)
    first, second = (predict(tmp_path / f"m{seed}", cache.path, tmp_path / f"p{seed}")["p.yes"] for seed in (0, 1))
    both = predict(tmp_path / "m0", cache.path, tmp_path / "both", others=[tmp_path / "m1"])["p.yes"]
    assert np.allclose(both, (first + second) / 2, atol=1e-5)
    with pytest.raises(MedsslError, match=r"larger has the crop \[24, 24, 24\], the first model \[16, 16, 16\]"):
        predict(tmp_path / "m0", cache.path, tmp_path / "wrong", others=[tmp_path / "larger"])
