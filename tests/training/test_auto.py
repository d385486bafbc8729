"""The table of choices has no gap and quotes what the pages say; a plan, its command and --method auto are the same run."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from medssl.cli.arguments import parse_arguments
from medssl.cli.main import main
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.spec import describe
from medssl.encoders import ResidualUNet
from medssl.methods import SimCLR
from medssl.preprocessing.cache import Cache
from medssl.training.auto import forecast as forecasts
from medssl.training.auto import plan as plans
from medssl.training.auto import resolve as resolving
from medssl.training.auto.forecast import Forecast
from medssl.training.auto.plan import plan
from medssl.training.auto.rules import DECISIONS, RULES, choose
from medssl.training.auto.situation import Situation, task_of
from medssl.training.config import Hardware, Monitoring, Planning, TrainConfig
from medssl.training.models import describe_method
from medssl.training.pretrain import pretrain
from medssl.training.samples import default_crop

PAGES = Path(__file__).parents[2] / "medssl" / "docs" / "pages" / "results"
CPU = Hardware(accelerator="cpu")
MACHINES = {"cpu": (False, 8_000), "small gpu": (True, 8_000), "large gpu": (True, 80_000)}
COHORTS = {
    "thick slices": ((256, 256, 20), (0.8, 0.8, 6.0), 500),
    "few slices": ((256, 256, 9), (1.0, 1.0, 3.0), 500),
    "small volumes": ((35, 51, 35), (1.0, 1.0, 1.0), 100),
    "large volumes": ((200, 240, 190), (1.0, 1.0, 1.0), 20_000),
    "tiny images": ((28, 28), (1.0, 1.0), 4_000),
    "wide images": ((400, 300), (1.0, 1.0), 20_000),
}


@pytest.mark.parametrize(
    ("task", "machine", "cohort"), itertools.product(("segmentation", "classification", "both"), MACHINES, COHORTS)
)
def test_every_situation_gets_a_pretext_that_works_on_its_encoder_and_crop(
    task: Any, machine: str, cohort: str
) -> None:
    (gpu, memory_mib), (shape, spacing_mm, scans) = MACHINES[machine], COHORTS[cohort]
    situation = Situation(task, len(shape), "OT", scans, scans, shape, spacing_mm, 8, memory_mib, gpu)
    rules = {decides: choose(decides, situation) for decides in DECISIONS}
    like_cache: Any = SimpleNamespace(
        dims=len(shape), spacing_mm=spacing_mm, manifest={"scan": ["a"]}, shape=lambda scan: shape
    )
    with torch.device("meta"):
        encoder = rules["encoder"].take(situation)(len(shape), 1)
        method = rules["pretext"].take(situation)(encoder)
    crop = plans._crop(like_cache, encoder, rules["crop"].take(situation))
    method.check(crop, rules["batch"].take(situation))
    assert max(crop) <= max(default_crop(like_cache, encoder, 224))
    assert rules["steps"].take(situation) > rules["batch"].take(situation)
    restores = {"segmentation": True, "classification": False, "both": True}[task]
    assert (method.decoder is not None) == restores


def test_the_evidence_is_a_page_that_says_so_a_published_figure_or_that_there_is_none() -> None:
    for evidence in {note for rule in RULES for note in rule.evidence}:
        named = re.findall(r"results/(\w+)", evidence)
        text = "".join((PAGES / f"{page}.md").read_text() for page in named)
        for number in re.findall(r"\d+\.\d{2,3}\b", evidence) if named else ():
            assert number in text, f"{evidence!r}: {number} is not on the pages that it names"
        assert named or re.search(r"arXiv \d{4}\.\d{5}|no measurement of our own|configs/\w+", evidence), evidence


def test_the_cohort_suggests_a_task_where_none_is_named(cache: Cache) -> None:
    assert task_of(cache, "both", None)[0] == "both"
    assert task_of(cache, None, None)[0] == "segmentation"  # there are masks
    assert task_of(cache, None, "lesion")[0] == "both"
    without: Any = SimpleNamespace(manifest=cache.manifest.assign(has_mask=False))
    assert task_of(without, None, "lesion")[0] == "classification"
    assert task_of(without, None, None)[0] == "both"


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forecast of one second a step, without a trial."""
    monkeypatch.setattr(
        plans, "measure", lambda trial: Forecast((trial.train.steps + 100) / 3600, 900, 1.0, 100, "cpu")
    )
    monkeypatch.setattr(plans, "fitting_batch", lambda trial, memory_mib: trial.train.batch_size)


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("task", ["segmentation", "classification", "both"])
def test_the_printed_command_builds_exactly_what_was_planned(cache: Cache, task: Any) -> None:
    chosen = plan(cache.path, task=task, label="lesion", hardware=CPU, seed=3)
    program, command, *words = shlex.split(chosen.command)
    assert (program, command) == ("medssl", "pretrain")
    settings = parse_arguments(pretrain, "medssl pretrain", words=words)
    assert settings is not None
    encoder = settings["encoder"]
    assert describe(encoder) == chosen.encoder
    assert describe_method(settings["method"](encoder)) == chosen.method
    assert (tuple(settings["crop"]), settings["train"]) == (chosen.crop, chosen.train)
    assert (settings["monitoring"], settings["hardware"], settings["seed"]) == (chosen.monitoring, CPU, 3)
    assert "auto" not in words[2:].__str__().replace("runs/auto", "")


@pytest.mark.usefixtures("instant")
def test_hours_cut_the_steps_and_what_is_given_stays(cache: Cache) -> None:
    chosen = plan(cache.path, task="segmentation", hours=0.5, hardware=CPU)
    assert chosen.train.steps == 1700
    assert chosen.forecast.hours == pytest.approx(0.5)
    steps = next(each for each in chosen.choices if each.decides == "steps")
    assert "cut from 3,000 to fit into 0.5 hours" in steps.reason
    given = plans.Given(None, None, TrainConfig(steps=1000, lr=1e-4), Monitoring(), CPU, plans.SplitSpec(), 0)
    kept = plans.plan_pretraining(cache, Planning("segmentation", 0.1, keep=("steps",)), given)
    assert (kept.train.steps, kept.train.lr, kept.train.batch_size) == (1000, 1e-4, 8)
    assert {each.decides for each in kept.choices if each.reason.startswith("given")} == {"steps", "lr"}
    with pytest.raises(MedsslError, match="not one step fits into --hours 0.001"):
        plan(cache.path, task="segmentation", hours=0.001, hardware=CPU)


def test_a_batch_is_halved_until_it_fits(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "_three_steps", lambda trial, batch, trainer: {"memory_mib": 1000 + 100 * 4.0})
    monkeypatch.setattr(forecasts, "_memory_in_use_mib", lambda device: 1000.0)
    trial: Any = forecasts.TrialRun(
        SimCLR(small()),
        cache,
        list(cache.manifest["scan"]),
        (),
        (16, 16, 16),
        TrainConfig(batch_size=64),
        Monitoring(),
        CPU,
        0,
    )
    assert forecasts.fitting_batch(trial, 10_000) == 64
    assert forecasts.fitting_batch(trial, 4_000) == 16
    assert forecasts.fitting_batch(trial, 100) == trial.method.min_batch_size


def test_auto_runs_as_planned_records_why_and_is_the_same_run_as_its_settings(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    short = {"train": TrainConfig(steps=2, batch_size=4), "hardware": CPU, "planning": Planning("segmentation")}
    run = pretrain(cache.path, tmp_path / "run", small(), "auto", crop=(16, 16, 16), **short)
    shown = capsys.readouterr().err
    assert "medssl pretrain --data" in shown
    assert run.status == "finished"
    assert "auto" not in {str(value) for name, value in run.config.items() if name != "devices"}
    assert run.config["method"]["class_path"] == "SimMIM"
    assert run.protocol["pretext"]["reason"].startswith("segmentation")
    assert run.protocol["pretext"]["evidence"]
    assert run.protocol["forecast"]["memory_mib"] > 50
    assert 0 < run.protocol["forecast"]["step_seconds"] * 2 < 3600

    def never(*_: Any) -> None:
        raise AssertionError("a second plan was made")

    monkeypatch.setattr(resolving, "plan_pretraining", never)
    assert pretrain(cache.path, tmp_path / "run", small(), "auto", crop=(16, 16, 16), **short).id == run.id

    command = shown[shown.index("medssl pretrain --data") :].partition("timing a few trial steps")[0]
    words = shlex.split(command.replace("\n", " "))[2:]
    settings = parse_arguments(pretrain, "medssl pretrain", words=words) or {}
    again = pretrain(**settings | {"out": tmp_path / "run"})
    assert again.started == run.started  # it was finished already: the same id


def test_another_task_in_the_same_folder_is_refused(cache: Cache, tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(MedsslError, match="made with other settings or data"):
        pretrain(
            cache.path, pretrained, small(), "auto", (16, 16, 16), TrainConfig(steps=1), CPU, planning=Planning("both")
        )


def test_the_command_line_keeps_the_options_that_it_names_even_at_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: auto\nlr: 0.001\n")
    words = ["--data", "c", "--out", "o", "--config", str(tmp_path / "mine.yaml"), "--steps", "1000", "--task", "both"]
    settings = parse_arguments(pretrain, "medssl pretrain", words=words) or {}
    assert settings["method"] == "auto"
    assert {"lr", "steps"} <= set(settings["planning"].keep)
    assert "batch_size" not in settings["planning"].keep
    assert settings["planning"].task == "both"


def test_bad_input_is_answered(cache: Cache, manifest: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", str(manifest)]) == 2
    assert "is a manifest: expected a cache" in capsys.readouterr().err
    assert main(["plan", str(cache.path), "--label", "nothing"]) == 2
    assert main(["plan", str(cache.path), "--hours", "-1"]) == 2
    assert "hours is -1.0: expected a number above 0" in capsys.readouterr().err
    assert main(["pretrain", "--data", str(cache.path), "--out", "o", "--method", "automatic"]) == 2
    assert "there is no method 'automatic'" in capsys.readouterr().err


def test_a_run_starts_from_the_encoder_of_another_and_passes_on_what_that_has_seen(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    earlier = pd.read_parquet(pretrained / "seen.parquet")
    parent = tmp_path / "parent"
    copy_run(pretrained, parent, pd.concat([earlier, earlier.head(1).assign(digest="0" * 64, patient="somebody")]))
    still = TrainConfig(steps=1, batch_size=2, lr=1e-12)
    run = pretrain(cache.path, tmp_path / "run", None, SimCLR, (16, 16, 16), still, CPU, init=parent)
    assert run.parent == runs.read(parent).id
    assert run.config["encoder"] == runs.read(parent).config["encoder"]
    seen = pd.read_parquet(tmp_path / "run" / "seen.parquet")
    assert set(seen["patient"]) == {*earlier["patient"], "somebody"}
    assert len(seen) == len(earlier) + 1
    from safetensors.torch import load_file

    before, after = (load_file(folder / "encoder.safetensors") for folder in (parent, tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_another_encoder_or_an_unfinished_run_cannot_be_continued(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedsslError, match=r"the encoder is ResidualUNet\(.*width=8.*: --init \w+ has .*width=4"):
        pretrain(cache.path, tmp_path / "a", ResidualUNet(3, width=8, blocks=(1, 1, 1)), init=pretrained)
    copy_run(pretrained, tmp_path / "failed", pd.read_parquet(pretrained / "seen.parquet"), status="failed")
    with pytest.raises(MedsslError, match="holds a failed pretrain run: expected a finished pretraining run"):
        pretrain(cache.path, tmp_path / "a", init=tmp_path / "failed")


def copy_run(run: Path, to: Path, seen: pd.DataFrame, **changes: Any) -> None:
    import json
    import shutil
    from dataclasses import asdict

    shutil.copytree(run, to)
    seen.to_parquet(to / "seen.parquet")
    (to / "run.json").write_text(json.dumps(asdict(replace(runs.read(to), **changes))))


def small() -> ResidualUNet:
    return ResidualUNet(3, width=4, blocks=(1, 1, 1))
