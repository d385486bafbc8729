"""Settings that cannot be meant are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.splits import SplitSpec
from medssl.studies.settings import StudyDesign
from medssl.training.config import FinetuneConfig, Hardware, Monitoring, TrainConfig
from medssl.training.predict import _check_distinct


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (TrainConfig, {"warmup": -5}, "warmup is -5"),
        (FinetuneConfig, {"weight_decay": -1.0}, "weight_decay -1.0"),
        (Hardware, {"workers": -1}, "workers is -1"),  # ended as a bug of medssl, after the run had begun
        (Hardware, {"checkpoint_every": 0}, "checkpoint_every 0"),
        (
            TrainConfig,
            {"lr": float("nan")},
            "lr is nan",
        ),  # no number is below it, so it passed every check of its range
        (TrainConfig, {"weight_decay": float("inf")}, "weight_decay is inf"),
        (TrainConfig, {"steps": 2.5}, "steps is 2.5: expected a whole number"),
        (FinetuneConfig, {"adapter_rank": True}, "adapter_rank is True"),
        (Hardware, {"workers": 1.5}, "workers is 1.5"),
        (Monitoring, {"patience": 2.5}, "patience is 2.5"),
        (SplitSpec, {"seed": -1}, "seed is -1"),
        (StudyDesign, {"seed": -1}, "seed is -1"),
        (StudyDesign, {"long": 0.0}, "long is 0"),
        (StudyDesign, {"long": float("nan")}, "long is nan"),
        (StudyDesign, {"modes": ["knn", "linear", "knn"]}, "--modes names knn twice"),
        (StudyDesign, {"selection": ["typiclust", "typiclust"]}, "--selection names typiclust twice"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(kind: Callable, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MedsslError, match=words):
        kind(**options)


def test_zeros_are_settings() -> None:
    assert TrainConfig(warmup=0, weight_decay=0).weight_decay == 0
    assert FinetuneConfig(encoder_share=0, head_first=0, averaging=0, growth=0).encoder_share == 0


def test_a_model_is_not_averaged_with_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MedsslError, match="b is named twice|a is named twice"):
        _check_distinct([tmp_path / "a", tmp_path / "b"])
