"""An arm is made from its name, says how it trains and is used, and two of one name are rejected."""

from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.studies.arms import PretrainedRun, RandomFrozen, Scratch, ScratchLong, parse_arm, parse_arms
from medssl.training.config import FinetuneConfig
from medssl.training.task import Classification, Segmentation

BASE = FinetuneConfig(steps=10)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "simmim"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return folder


def test_the_baselines_by_their_names() -> None:
    assert [parse_arm(name, long=2.0) for name in ("scratch", "scratch-long", "random-frozen")] == [
        Scratch(),
        ScratchLong(2.0),
        RandomFrozen(),
    ]
    with pytest.raises(MedsslError, match="'scrath' is neither a baseline nor the folder.*did you mean scratch"):
        parse_arm("scrath")


def test_a_run_is_named_after_its_folder(run: Path) -> None:
    arm = parse_arm(str(run))
    assert (arm, arm.name, arm.pretraining) == (PretrainedRun(run), "simmim", run)
    with pytest.raises(MedsslError, match="two of the arms simmim, simmim have the same name"):
        parse_arms([str(run), f"{run}/../simmim"])


def test_how_each_arm_trains(run: Path) -> None:
    settings = {name: arm.settings(BASE) for name, arm in parse_arms(["scratch", "random-frozen", str(run)]).items()}
    assert {name: s.encoder_share for name, s in settings.items()} == {"scratch": 1, "random-frozen": 0, "simmim": 1}
    assert {name: s.head_first for name, s in settings.items()} == {"scratch": 0, "random-frozen": 0, "simmim": 0.1}
    assert parse_arm("scratch-long", long=2.5).settings(BASE).steps == 25


def test_how_the_encoder_of_each_arm_is_used(run: Path) -> None:
    task, segmentation = Classification(("no", "yes")), Segmentation(("1",))
    arms = parse_arms(["scratch", "scratch-long", "random-frozen", str(run)])
    assert {name: arm.modes(task, None) for name, arm in arms.items()} == {
        "scratch": ["finetune"],
        "scratch-long": ["finetune"],
        "random-frozen": ["linear", "knn"],
        "simmim": ["finetune", "linear", "knn"],
    }
    assert arms["random-frozen"].modes(task, ["finetune"]) == ["linear"]
    assert arms["simmim"].modes(task, ["knn"]) == ["knn"]
    assert all(arm.modes(segmentation, ["knn"]) == ["finetune"] for arm in arms.values())
