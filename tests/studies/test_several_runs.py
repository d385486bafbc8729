"""An arm of several pretraining runs: what its name means, which runs are refused, and what a study makes of it."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from medssl.cli.terminal import study_table
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.progress import PlainConsole
from medssl.preprocessing.cache import Cache
from medssl.studies.arms import PretrainedRun, PretrainedRuns, SemiSupervisedArm, parse_arm, parse_arms, start_of
from medssl.studies.plan import make_plan
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.several_runs import common_name, expand_braces
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig

cells_module = importlib.import_module("medssl.studies.cell")


@pytest.fixture
def seeds(pretrained: Path, tmp_path: Path) -> Path:
    """A folder with three runs, simmim-0 to simmim-2, which differ in their seeds and weights alone."""
    for seed in range(3):
        folder = shutil.copytree(pretrained, tmp_path / "runs" / f"simmim-{seed}")
        change(folder, id=f"{seed}" * 12, seed=seed)
        weights = load_file(folder / "encoder.safetensors")
        save_file({name: weight * (1 + seed) for name, weight in weights.items()}, folder / "encoder.safetensors")
    return tmp_path / "runs"


def change(folder: Path, **fields: Any) -> None:
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_braces_mean_what_a_shell_makes_of_them() -> None:
    assert expand_braces("a-{0,1}") == expand_braces("a-{0..1}") == ["a-0", "a-1"]
    assert expand_braces("{x,y}/a-{0,1}") == ["x/a-0", "x/a-1", "y/a-0", "y/a-1"]
    assert expand_braces("runs/a") == ["runs/a"]


@pytest.mark.parametrize("name", ["simclr-{0,1,2}", "{a,b}", "s{1,10}-long", "s-{9,10,11}"])
def test_the_name_of_an_arm_is_how_it_is_typed(name: str) -> None:
    assert common_name(expand_braces(name)) == name


def test_an_arm_of_several_runs_has_another_run_in_each_draw(seeds: Path) -> None:
    arm = parse_arm(f"{seeds}/simmim-{{0,1,2}}")
    assert isinstance(arm, PretrainedRuns)
    assert arm.name == "simmim-{0,1,2}"
    expected = [PretrainedRun(seeds / f"simmim-{number}") for number in (0, 1, 2, 0)]
    assert [arm.in_draw(draw) for draw in range(4)] == expected
    assert arm.settings(FinetuneConfig()) == expected[0].settings(FinetuneConfig())


def test_a_semi_supervised_arm_starts_from_the_same_run_in_each_draw(seeds: Path) -> None:
    arms = parse_arms([f"{seeds}/simmim-{{0..2}}", f"self-training({seeds}/simmim-{{0,1,2}}, teachers=3)"])
    plain, semi = arms.values()
    assert isinstance(semi, SemiSupervisedArm)
    assert semi.name == "self-training(simmim-{0,1,2}, teachers=3)"
    assert start_of(semi.name) == plain.name
    assert semi.options == "teachers=3"
    assert [semi.in_draw(draw).pretraining for draw in range(4)] == [plain.in_draw(d).pretraining for d in range(4)]


def test_runs_that_differ_in_more_than_their_seeds_are_refused_with_the_difference(seeds: Path) -> None:
    word, second = f"{seeds}/simmim-{{0,1,2}}", seeds / "simmim-1"
    config = runs.read(second).config
    change(second, config=config | {"lr": 0.5})
    with pytest.raises(MedsslError, match=rf"simmim-0 and simmim-1 differ: config.lr is {config['lr']} and 0.5"):
        parse_arm(word)
    change(second, config=config, data="other")
    with pytest.raises(MedsslError, match="differ: scans is .* and 'other'"):
        parse_arm(word)
    change(second, data=runs.read(seeds / "simmim-0").data, seed=0)
    with pytest.raises(MedsslError, match="have the seeds 0, 0, 2: expected a different seed in each"):
        parse_arm(word)
    with pytest.raises(MedsslError, match="simmim-7 holds no run.json"):
        parse_arm(f"{seeds}/simmim-{{0,7}}")
    with pytest.raises(MedsslError, match="are called simmim-0, simmim-0"):
        parse_arm(f"{seeds}/simmim-{{0,0}}")


def test_braces_that_the_shell_expanded_are_answered_with_how_to_quote_them(seeds: Path, cache: Cache) -> None:
    arms = [str(seeds / f"simmim-{seed}") for seed in range(3)]
    settings = StudySettings(cache.path, seeds, "segmentation", arms, ["1p"], design=StudyDesign(draws=1))
    with pytest.warns(UserWarning, match=r"are 3 arms: .*--arms 'FOLDER/simmim-\{0,1,2\}'"):
        make_plan(settings)


def test_a_probe_of_each_draw_embeds_with_the_run_of_that_draw(
    seeds: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = StudyDesign(modes=["knn"], draws=4)
    arms = [f"{seeds}/simmim-{{0,1,2}}", str(seeds / "simmim-1")]
    plan = make_plan(StudySettings(cache.path, seeds, "classification", arms, ["100%"], "lesion", design=design))
    parents = {arm: [cell.parent for cell in plan.cells if cell.arm == arm] for arm in plan.arms}
    assert parents == {"simmim-{0,1,2}": ["0" * 12, "1" * 12, "2" * 12, "0" * 12], "simmim-1": ["1" * 12] * 4}
    assert len(set(plan.config["weights"]["simmim-{0,1,2}"].values())) == 3
    assert len(set(plan.ids())) == 8
    used: list[dict[str, torch.Tensor]] = []

    def embed(encoder: torch.nn.Module, _cache: Cache, scans: list[str], _size: Any) -> np.ndarray:
        used.append(dict(encoder.state_dict()))
        return np.zeros((len(scans), 2))

    monkeypatch.setattr(cells_module, "embed", embed)
    for cell in plan.cells:
        cells_module._features(plan, cell)
    assert len(used) == 4  # once for each run of each arm
    order = [load_file(seeds / f"simmim-{seed}" / "encoder.safetensors") for seed in (0, 1, 1, 2)]
    for mine, theirs in zip(used, order):
        assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert any(not torch.equal(used[0][name], used[1][name]) for name in order[0])


def test_a_study_counts_the_runs_behind_an_arm_and_says_which_draw_had_which(seeds: Path, cache: Cache) -> None:
    arms = ["scratch", f"{seeds}/simmim-{{0,1,2}}", str(seeds / "simmim-1")]
    settings: dict[str, Any] = {"crop": (16, 16, 16), "train": FinetuneConfig(steps=1, batch_size=1)}
    out = seeds / "study"
    table = study(cache.path, out, "segmentation", arms, ["1p"], design=StudyDesign(draws=3), **settings)
    main = table[table["metric"] == "dice"].set_index("arm")
    assert main["pretraining_runs"].to_dict() == {"scratch": 0, "simmim-{0,1,2}": 3, "simmim-1": 1}
    assert "a sign flip over 3 pretraining runs" in main.loc["simmim-{0,1,2}", "note"]
    assert "a sign flip over 3 draws" in main.loc["simmim-1", "note"]
    cells = runs.table(out / "cells").query("`config.arm` == 'simmim-{0,1,2}'").sort_values("config.draw")
    assert cells["parent"].tolist() == ["0" * 12, "1" * 12, "2" * 12]
    record = runs.read(out)
    assert [run["seed"] for run in record.config["pretraining"]["simmim-{0,1,2}"]["runs"]] == [0, 1, 2]
    point = record.protocol["several pretraining runs"]
    assert point["met"] is False
    assert "one run of simmim-1: p and interval are about this run" in point["evidence"]
    assert "3 of simmim-{0,1,2}: a random effect" in point["evidence"]
    copies = sorted(path.parent.name for path in (out / "pretraining").glob("**/run.json"))
    assert copies == ["simmim-0", "simmim-1", "simmim-1", "simmim-2"]
    printed = _printed(table)
    assert "simmim-1 (this run)" in printed
    assert "simmim-{0,1,2} (this run)" not in printed
    assert "so interval and p are about this run, not about its method" in printed


def _printed(table: pd.DataFrame) -> str:
    console = PlainConsole(width=200, record=True)
    console.print(study_table(table))
    return " ".join(console.export_text().split())
