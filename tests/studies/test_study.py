"""A study on the phantom cohort: paired cells, resumed, shared by processes, and a record of what was read."""

import importlib
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.splits import split
from medssl.encoders import ResidualUNet
from medssl.preprocessing.cache import Cache
from medssl.reporting.findings import study_warnings
from medssl.studies.plan import make_plan
from medssl.studies.protocol import protocol_points
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig
from medssl.training.finetune import architecture
from medssl.training.pretrain import pretrain
from medssl.training.supervised import TrainingData, train_model
from medssl.training.tasks import task_named
from tests.conftest import small_encoder
from tests.options import options

module = importlib.import_module("medssl.studies.study")
cells_module = importlib.import_module("medssl.studies.cell")
TRAIN = FinetuneConfig(steps=3, batch_size=2)
ENCODER = {"crop": (16, 16, 16), "train": TRAIN}
TWO_DRAWS = StudyDesign(draws=2)


@pytest.fixture(scope="module")
def segmentation(cache: Cache, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "seg"
    arms = ["scratch", "scratch-long", "random-frozen", str(pretrained)]
    study(cache.path, out, "segmentation", arms, ["1p", "100%"], design=TWO_DRAWS, **ENCODER)
    return out


def test_the_grid_is_complete_and_the_table_has_real_counts(segmentation: Path, cache: Cache) -> None:
    table = pd.read_parquet(segmentation / "summary.parquet")
    main = table[table["metric"] == "dice"].set_index(["arm", "budget_name"])
    assert len(main) == 8
    train = int((split(cache.manifest, 0) == "train").sum())
    assert main.loc[("scratch", "100%"), "patients"] == train
    assert main.loc[("scratch", "1p"), "patients"] >= 1
    assert main["draws"].eq(2).all()
    assert main.loc[("scratch", "1p"), ["mean", "low", "high"]].notna().all()
    assert main.drop("scratch")["difference"].notna().all()
    assert main.drop("scratch")["p_holm"].between(0, 1).all()
    assert (main.drop("scratch")["p_holm"] >= main.drop("scratch")["p"] - 1e-12).all()
    assert main.loc["scratch", "difference"].isna().all()


def test_table_equals_the_cells_and_the_cells_their_cases(segmentation: Path) -> None:
    cells = runs.table(segmentation / "cells")
    table = pd.read_parquet(segmentation / "summary.parquet")
    row = table[(table["arm"] == "scratch") & (table["budget_name"] == "1p") & (table["metric"] == "dice")].iloc[0]
    mine = cells[(cells["config.arm"] == "scratch") & (cells["config.budget_name"] == "1p")]
    scores = []
    for folder in mine["folder"]:
        cases = pd.read_parquet(segmentation / "cells" / folder / "predictions.parquet")
        overlap = cases.filter(like="dice.").filter(regex=r"^dice\.").mean(axis=1)
        scores.append(overlap.groupby(cases["patient"]).mean().mean())
    assert row["mean"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_only_test_patients_are_scored_and_arms_are_paired(segmentation: Path, cache: Cache) -> None:
    roles = split(cache.manifest, 0)
    cases = [pd.read_parquet(p) for p in sorted((segmentation / "cells").glob("*/predictions.parquet"))]
    assert all(set(c["patient"]) == set(roles.index[roles == "test"]) for c in cases)
    assert all(c["scan"].equals(cases[0]["scan"]) for c in cases)
    subsets = pd.read_parquet(segmentation / "subsets.parquet")
    assert set(subsets["patient"]) <= set(roles.index[roles == "train"])
    record = runs.read(segmentation)
    assert record.protocol["inductive"]["met"] is True
    assert record.protocol["untouched test set"]["met"] is True


def test_running_it_again_does_nothing_and_a_lost_cell_alone_is_done_again(
    segmentation: Path, cache: Cache, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    real = cells_module._train_and_score
    monkeypatch.setattr(cells_module, "_train_and_score", lambda *a: (done.append(a[1]), real(*a)))
    arms = ["scratch", "scratch-long", "random-frozen", str(pretrained)]
    before = pd.read_parquet(segmentation / "summary.parquet")
    study(cache.path, segmentation, "segmentation", arms, ["1p", "100%"], design=TWO_DRAWS, **ENCODER)
    assert done == []
    lost = next(iter(sorted((segmentation / "cells").iterdir())))
    first = pd.read_parquet(lost / "predictions.parquet")
    shutil.rmtree(lost)
    again = study(cache.path, segmentation, "segmentation", arms, ["1p", "100%"], design=TWO_DRAWS, **ENCODER)
    assert len(done) == 1
    pd.testing.assert_frame_equal(first, pd.read_parquet(lost / "predictions.parquet"))
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds").reset_index(drop=True),
        before.drop(columns="seconds").reset_index(drop=True),
    )


def _work(data: str, out: str, folder: str) -> None:
    study(Path(data), Path(out), "segmentation", ["scratch", folder], ["1p"], design=StudyDesign(draws=3), **ENCODER)


@pytest.mark.slow
def test_two_processes_share_one_study(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "shared", str(pretrained)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(str(cache.path), str(out), folder)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    table = runs.table(out / "cells")
    assert table["status"].tolist() == ["finished"] * 6


@pytest.mark.slow
def test_jobs_are_processes_that_share_the_cells_and_find_what_one_process_finds(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    def run(jobs: int) -> pd.DataFrame:
        arms, out = ["scratch", str(pretrained)], tmp_path / str(jobs)
        table = study(cache.path, out, "segmentation", arms, ["1p"], design=TWO_DRAWS, jobs=jobs, **ENCODER)
        assert runs.table(out / "cells")["status"].tolist() == ["finished"] * 4
        return table.drop(columns="seconds")

    pd.testing.assert_frame_equal(run(2), run(1), rtol=1e-4)


def test_a_study_of_an_older_format_is_neither_continued_nor_changed(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    with runs.recording(old, "study", {"arms": ["scratch"]}, cache.digest, 0):
        pass
    record = json.loads((old / "run.json").read_text())
    del record["format"]
    (old / "run.json").write_text(json.dumps(record | {"versions": {"medssl": "0.1.0"}}))
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(
        MedsslError, match=r"old holds a study run written by medssl 0\.1\.0 \(record format 1\).*give another --out"
    ):
        study(cache.path, old, "segmentation", ["scratch", str(pretrained)], ["1p"], design=TWO_DRAWS, **ENCODER)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == files


def test_classification_with_probes_and_a_random_encoder(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    arms = ["scratch", "random-frozen", str(pretrained)]
    table = study(
        cache.path, tmp_path / "c", "classification", arms, ["100%"], label="lesion", design=TWO_DRAWS, **ENCODER
    )
    main = table[table["metric"] == "auroc"].set_index(["arm", "mode"])
    assert set(main.index) == {
        ("scratch", "finetune"),
        ("random-frozen", "linear"),
        ("random-frozen", "knn"),
    } | {("simmim", mode) for mode in ("finetune", "linear", "knn")}
    assert main["mean"].between(0, 1).all()
    linear = runs.table(tmp_path / "c" / "cells").query("`config.mode` == 'linear' and `config.draw` == 0")
    folders = [tmp_path / "c" / "cells" / name for name in linear["folder"]]
    probed = [pd.read_parquet(folder / "predictions.parquet")["p.yes"] for folder in folders]
    assert len(probed) == 2
    assert not np.allclose(*probed)  # a pretrained encoder is not the random one
    cases = pd.read_parquet(next((tmp_path / "c" / "cells").glob("*/predictions.parquet")))
    assert np.allclose(cases[["p.no", "p.yes"]].sum(axis=1), 1, atol=1e-4)


def test_a_pretraining_run_that_saw_test_scans_is_rejected_or_recorded(cache: Cache, tmp_path: Path) -> None:
    pretrain(
        cache.path,
        tmp_path / "all",
        small_encoder(),
        **options(crop=(16, 16, 16), steps=1, batch_size=4, transductive=True, accelerator="cpu"),
    )
    settings = {
        "task": "segmentation",
        "arms": ["scratch", str(tmp_path / "all")],
        "budgets": ["1p"],
        "design": TWO_DRAWS,
        **ENCODER,
    }
    with pytest.raises(MedsslError, match="pretraining saw test scans"):
        study(cache.path, tmp_path / "s", **settings)
    study(cache.path, tmp_path / "s", **settings | {"design": StudyDesign(draws=2, allow_seen=True)})
    point = runs.read(tmp_path / "s").protocol["inductive"]
    assert point["met"] is False
    assert "test scans seen in pretraining" in point["evidence"]


def test_where_patients_were_named_with_another_key_the_verdict_is_that_it_cannot_be_known(
    cache: Cache, pretrained: Path, tmp_path: Path
) -> None:
    """The check answered 0 for a manifest with another key, in which the same person has another name."""
    other = shutil.copytree(pretrained, tmp_path / "simmim")
    seen = pd.read_parquet(other / "seen.parquet")
    seen["patient"], seen["digest"], seen["pseudonym_key"] = seen["patient"].str[::-1], "other", "f" * 12
    seen.to_parquet(other / "seen.parquet")
    settings = StudySettings(cache.path, tmp_path / "s", "segmentation", [str(other)], ["100%"], design=TWO_DRAWS)
    with pytest.warns(UserWarning, match="whether simmim was pretrained on test patients cannot be known"):
        plan = make_plan(settings)
    assert plan.config["seen_test_scans"] == {"simmim": None}
    point = protocol_points(plan.config)["inductive"]
    assert (point["met"], "cannot be known: simmim" in point["evidence"]) == (False, True)
    run = runs.Run("id", "study", plan.config, "data", 0)
    assert any(
        "simmim was pretrained on test patients cannot be known" in line
        for line in study_warnings(run, pd.DataFrame({"status": []}))
    )


def test_a_cell_is_another_one_when_labels_or_weights_are(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    def ids(label: str, arm: Path = pretrained) -> set[str]:
        settings = StudySettings(
            cache.path, tmp_path / "s", "classification", [str(arm)], ["100%"], label, design=design
        )
        return set(make_plan(settings).ids())

    design = StudyDesign(modes=["linear"], draws=1, allow_seen=True)

    other = shutil.copytree(pretrained, tmp_path / "simmim")
    same = ids("lesion", other)
    assert ids("lesion") == same
    weights = bytearray((other / "encoder.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "encoder.safetensors").write_bytes(weights)
    assert ids("lesion", other) != same
    table = pd.read_parquet(cache.path / "manifest.parquet")
    relabelled = shutil.copytree(cache.path, tmp_path / "relabelled")
    table["label.lesion"] = table["label.lesion"].map({"yes": "no", "no": "yes"})
    table.to_parquet(relabelled / "manifest.parquet")
    settings = StudySettings(
        relabelled, tmp_path / "s", "classification", [str(pretrained)], ["100%"], "lesion", design=design
    )
    assert set(make_plan(settings).ids()) != same


def test_the_best_validation_score_is_kept_and_nan_is_ignored(cache: Cache, tmp_path: Path, monkeypatch: Any) -> None:
    scores = iter([float("nan"), 0.5, 0.4, float("nan"), 0.45])
    task = task_named("segmentation").from_cache(cache)
    monkeypatch.setattr(type(task), "validation_score", lambda *_: next(scores))
    scans = list(cache.manifest["scan"])
    model = task.build_model(small_encoder(), 0)
    train = FinetuneConfig(steps=5, batch_size=1).for_random_start()
    data = TrainingData(cache, task, (16, 16, 16), scans[:4], scans[4:6])
    assert train_model(model, data, train, 0).score == 0.5


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cells_module._predictions

    def fails_once(plan: Any, cell: Any) -> Any:
        if cell.draw == 0:
            raise MedsslError("the loss is nan at step 2")
        return real(plan, cell)

    monkeypatch.setattr(cells_module, "_predictions", fails_once)
    arms = {
        "task": "segmentation",
        "arms": ["scratch"],
        "budgets": ["1p"],
        "design": TWO_DRAWS,
        "encoder": small_encoder(),
        **ENCODER,
    }
    with pytest.raises(MedsslError, match="1 of 2 cells failed.*the loss is nan"):
        study(cache.path, tmp_path / "s", **arms)
    assert sorted(runs.table(tmp_path / "s" / "cells")["status"]) == ["failed", "finished"]
    monkeypatch.setattr(cells_module, "_predictions", real)
    study(cache.path, tmp_path / "s", **arms)
    assert runs.table(tmp_path / "s" / "cells")["status"].tolist() == ["finished"] * 2


def test_the_encoder_may_be_named_beside_the_run_that_has_it(cache: Cache, pretrained: Path) -> None:
    """A record comes back from JSON with lists where the object has tuples: still the same encoder."""
    assert architecture(cache, pretrained, small_encoder(), None)[0] == runs.read(pretrained).config["encoder"]
    with pytest.raises(MedsslError, match="another encoder than the one given"):
        architecture(cache, pretrained, ResidualUNet(3, width=6, blocks=(1, 1)), None)


def test_arms_that_do_not_exist_and_labels_that_are_not_there_are_named(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="did you mean scratch"):
        study(cache.path, tmp_path / "s", "segmentation", ["scrath"], ["1p"])
    with pytest.raises(MedsslError, match="no label 'leson'.*lesion"):
        task_named("classification").from_cache(cache, "leson")
    with pytest.raises(MedsslError, match="needs --label"):
        task_named("classification").from_cache(cache)


def test_what_a_semi_supervised_arm_learns_from(cache: Cache, tmp_path: Path) -> None:
    """The unlabelled are scans of training patients outside of the budget: never validation, test or the budget's own."""
    arms = ["scratch", "mean-teacher(scratch)"]
    settings = StudySettings(
        cache.path, tmp_path / "s", "segmentation", arms, ["1p", "5p", "100%"], None, small_encoder(), design=TWO_DRAWS
    )
    plan = make_plan(settings)
    roles, patient = split(cache.manifest, 0), cache.manifest.set_index("scan")["patient"]
    semi = [cell for cell in plan.cells if cell.arm == arms[1]]
    assert {cell.budget_name for cell in semi} == {"1p", "5p"}  # at 100% nobody is left
    for cell in semi:
        subset = plan.subsets.query("draw == @cell.draw and budget_name == @cell.budget_name")
        learned_from = {patient[scan] for scan in plan.unlabelled(cell)}
        assert learned_from == set(roles.index[roles == "train"]) - set(subset["patient"])
    alone = StudySettings(
        cache.path, tmp_path / "s", "segmentation", arms[1:], ["100%"], None, small_encoder(), design=TWO_DRAWS
    )
    with pytest.raises(MedsslError, match="no training scan is left unlabelled for mean-teacher"):
        make_plan(alone)


def test_a_study_compares_semi_supervised_arms_with_their_own_start_and_measures_the_last_third(
    cache: Cache, tmp_path: Path
) -> None:
    arms = ["scratch", "mean-teacher(scratch)"]
    table = study(
        cache.path, tmp_path / "s", "segmentation", arms, ["1p"], encoder=small_encoder(), design=TWO_DRAWS, **ENCODER
    )
    main = table[table["metric"] == "dice"].set_index("arm")
    assert np.isfinite(main["last_third"]).all()
    assert main.loc[arms[1], "start_difference"] == pytest.approx(main.loc[arms[1], "difference"])
    assert np.isnan(main.loc["scratch", "start_difference"])
    assert main["labelled_samples"].tolist() == [6, 6]
    assert main["unlabelled_samples"].tolist() == [0, 6]
    assert set(table["metric"]) & {"last_third"} == set()
    cells = runs.table(tmp_path / "s" / "cells")
    assert np.allclose(cells.groupby("config.arm")["metrics.last_third"].mean()[arms], main.loc[arms, "last_third"])


def test_clusters_and_class_means_stand_beside_the_other_probes(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    design = StudyDesign(modes=["class-mean", "kmeans", "propagation"], draws=2)
    arms = ["scratch", "random-frozen", str(pretrained)]
    table = study(cache.path, tmp_path / "c", "classification", arms, ["5p"], "lesion", design=design, **ENCODER)
    main = table[table["metric"] == "auroc"].set_index(["arm", "mode"])
    assert {("simmim", "class-mean"), ("simmim", "kmeans"), ("random-frozen", "kmeans")} < set(main.index)
    cells = runs.table(tmp_path / "c" / "cells")
    probes = [
        pd.read_parquet(tmp_path / "c" / "cells" / name / "predictions.parquet")["p.yes"].to_numpy()
        for name in cells[(cells["config.arm"] == "random-frozen") & (cells["config.mode"] == "class-mean")]["folder"]
    ]
    assert not np.allclose(*probes)  # each draw has a random encoder of its own
