"""Arms of other networks in one study: each with the encoder of its own run, and the report says which they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.core import runs
from medssl.core.spec import describe, describes_same
from medssl.encoders import PooledLevels, ResidualUNet, ResNet
from medssl.methods import SimCLR
from medssl.preprocessing.cache import Cache
from medssl.reporting.findings import study_warnings
from medssl.studies.plan import make_plan
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig
from medssl.training.pretrain import pretrain
from tests.options import options


@pytest.fixture(scope="module")
def other(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "resnet"
    settings = options(crop=(16, 16, 16), steps=2, batch_size=4, workers=0, accelerator="cpu")
    pretrain(cache.path, folder, PooledLevels(ResNet(3, depth=10, width=4, max_pool=False)), SimCLR, **settings)
    return folder


def settings(cache: Cache, out: Path, *arms: Path, **given) -> StudySettings:
    names = ["scratch", *map(str, arms)]
    train = FinetuneConfig(steps=2, batch_size=2)
    return StudySettings(
        cache.path, out, "segmentation", names, ["1p"], train=train, design=StudyDesign(draws=1), **given
    )


def test_each_arm_has_the_encoder_of_its_run_and_scratch_that_of_the_first(
    cache: Cache, pretrained: Path, other: Path, tmp_path: Path
) -> None:
    plan = make_plan(settings(cache, tmp_path / "s", pretrained, other))
    own = {
        name: runs.read(folder).config["encoder"] for name, folder in ((pretrained.name, pretrained), ("resnet", other))
    }
    assert all(describes_same(plan.encoders[name], spec) for name, spec in own.items())
    assert describes_same(plan.encoders["scratch"], own[pretrained.name])
    assert plan.config["other_encoders"].keys() == {"resnet"}
    alone = make_plan(settings(cache, tmp_path / "s", pretrained))
    assert "other_encoders" not in alone.config
    assert set(alone.ids()) < set(
        plan.ids()
    )  # a further arm of another network leaves the cells that are done as they are


def test_an_encoder_that_is_given_is_that_of_the_random_start_alone(cache: Cache, other: Path, tmp_path: Path) -> None:
    given = ResidualUNet(3, width=6, blocks=(1, 1))
    plan = make_plan(settings(cache, tmp_path / "s", other, encoder=given, crop=(16, 16, 16)))
    assert describes_same(plan.encoders["scratch"], describe(given))
    assert describes_same(plan.encoders["resnet"], runs.read(other).config["encoder"])


def test_such_a_study_runs_and_says_that_the_networks_differ(
    cache: Cache, pretrained: Path, other: Path, tmp_path: Path
) -> None:
    asked = settings(cache, tmp_path / "s", pretrained, other)
    table = study(
        asked.data,
        asked.out,
        asked.task,
        asked.arms,
        asked.budgets,
        train=asked.train,
        design=asked.design,
        crop=asked.crop,
    )
    assert {"scratch", pretrained.name, "resnet"} == set(table["arm"])
    lines = study_warnings(runs.read(asked.out), runs.table(asked.out / "cells"))
    assert any(line.startswith("Another network: resnet has") for line in lines)
