"""An arm is made from its name, says how it trains and is used, and two of one name are rejected."""

from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.studies.arms import PretrainedRun, RandomFrozen, Scratch, ScratchLong, parse_arm, parse_arms, start_of
from medssl.training.config import FinetuneConfig
from medssl.training.tasks import Classification, Segmentation

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


def test_a_semi_supervised_arm_has_the_start_and_the_settings_of_another(run: Path) -> None:
    arms = parse_arms(["self-training(scratch, teachers=3)", f"fixmatch({run})"])
    first, second = arms.values()
    assert list(arms) == ["self-training(scratch, teachers=3)", "fixmatch(simmim)"]
    assert (first.trainings, first.pretraining, second.pretraining) == (4, None, run)
    assert first.settings(BASE) == Scratch().settings(BASE)
    assert second.settings(BASE) == PretrainedRun(run).settings(BASE)
    assert first.modes(Classification(("no", "yes")), None) == ["finetune"]
    assert [start_of(name) for name in (*arms, "simmim")] == ["scratch", "simmim", None]


@pytest.mark.parametrize("start", ["random-frozen", "fixmatch(scratch)"])
def test_a_semi_supervised_arm_does_not_start_from_what_it_cannot_train(start: str) -> None:
    with pytest.raises(MedsslError, match="mean-teacher starts from .*: expected scratch"):
        parse_arm(f"mean-teacher({start})")


def test_labels_spread_over_features_that_were_learned(run: Path) -> None:
    assert parse_arm(f"label-propagation({run})").trainings == 1
    with pytest.raises(MedsslError, match="this start is random: expected a pretraining run"):
        parse_arm("label-propagation(scratch)")


def test_an_algorithm_for_another_task_is_rejected() -> None:
    with pytest.raises(MedsslError, match="CopyPaste is for segmentation: it cannot be used for classification"):
        parse_arm("copy-paste(scratch)").check(Classification(("no", "yes")))
