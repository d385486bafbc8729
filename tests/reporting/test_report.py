"""The page shows what the study's files hold, survives broken ones, and makes no network request."""

from __future__ import annotations

import base64
import doctest
import html
import json
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.evaluation import intervals as stats
from medssl.evaluation import label_curves
from medssl.evaluation.case_metrics import Dice
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting import redaction
from medssl.reporting import tables as report_tables
from medssl.reporting.findings import findings
from medssl.reporting.html.report import report
from medssl.reporting.methods_text import citations
from medssl.reporting.style import MODES
from medssl.studies.arms import Mode
from medssl.studies.results import LabelCurve, cases_of, cells_of, summary_of
from medssl.studies.results import label_curves as study_curves

pytestmark = pytest.mark.long

ARMS = ("scratch", "simmim")
BUDGETS = {"1p": (1, 5), "10%": (8, 5), "100%": (80, 3)}  # name -> patients, draws
TRUTH = {"scratch": (0.6, 0.75, 0.85), "simmim": (0.72, 0.8, 0.86)}
SECRET = "Doe_Jane"


def record(folder: Path, kind: str, config: dict, **changes) -> None:
    """A finished run record with what a real one has."""
    run = runs.Run(folder.name, kind, config, "data123", 0, commit="abc1234", status="finished", started=1.7e9)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"versions": {"medssl": "0.1.0", "torch": "2.10.0"}} | changes
    text = runs._json({**run.__dict__, **about})
    (folder / "run.json").write_text(text)


def slices(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A worst, a median and a best case with a disc for a structure."""
    y, x = np.mgrid[:48, :40]
    shown = {}
    for n, shift in enumerate((9, 3, 1)):
        reference = ((x - 20) ** 2 + (y - 24) ** 2 < 90).astype(int)
        shown[f"image.{n}"] = reference * 80 + generator.normal(100, 12, reference.shape)
        shown[f"reference.{n}"], shown[f"prediction.{n}"] = reference, np.roll(reference, shift, 0)
        shown[f"dice.{n}"] = np.array(1 - shift / 12)
    return shown


def dice_cases(generator: np.random.Generator, mean: float, draw: int) -> pd.DataFrame:
    """Predictions of one segmentation cell: 24 patients, the first four with two scans."""
    patients = [f"p{i:02d}" for i in (*range(24), *range(4))]
    own = np.random.default_rng(7).normal(0, 0.04, 28) + np.random.default_rng(draw).normal(0, 0.02)
    values = {f"dice.{s}": mean + own + generator.normal(0, 0.02, 28) for s in (1, 2)}
    return pd.DataFrame({"scan": [f"s{i:02d}" for i in range(28)], "patient": patients, **values})


def class_cases(generator: np.random.Generator, mean: float, draw: int) -> pd.DataFrame:
    """Predictions of one classification cell: 40 patients, two classes."""
    label = np.arange(40) % 2
    own = np.random.default_rng(7).normal(0, 1, 40) + generator.normal(0, 0.3, 40)
    p = 1 / (1 + np.exp(-(own + label * (4 * mean - 1.5))))
    scans = [f"s{i:02d}" for i in range(40)]
    table = {"scan": scans, "patient": scans, "label": label, "p.normal": 1 - p, "p.pneumonia": p}
    return pd.DataFrame(table)


def make_study(root: Path, task: str = "segmentation", pretraining_runs: int = 1) -> Path:
    """A study as `medssl study` leaves it, with the pretraining runs beside it."""
    generator = np.random.default_rng(0)
    cost = {"seconds": 90.0, "samples_per_s": 88.0}
    behind = [{"id": f"pre{123 + seed}", "seed": seed, "cost": cost} for seed in range(pretraining_runs)]
    pretraining = {"simmim": {"steps": 500, "runs": behind}}
    data_spec = DataSpec(3, 1, "CT", (1.0, 1.0, 2.0)) if task == "segmentation" else DataSpec(2, 1, "CT")
    config = {
        "task": task,
        "data_spec": data_spec.to_record(),
        "arms": list(ARMS),
        "budgets": list(BUDGETS),
        "score_on": "test",
        "split_seed": 0,
        "cells": 26,
        "scored_patients": 24,
        "scored_scans": 28,
        "patients": {"train": 80, "validation": 10, "test": 24},
        "pretraining": pretraining,
        "seen_test_scans": {"simmim": 0},
        "given_options": {
            "task": task,
            "budgets": list(BUDGETS),
            "draws": 5,
            "crop": [32, 32, 32],
            "steps": 7,
            "allow_seen": True,
        },
    }
    study = root / "hippo"
    points = {"split by patient": {"met": True, "evidence": "80 train, 24 test"}}
    points |= {"strong baselines": {"met": False, "evidence": "no semi-supervised arm"}}
    points |= {"labels saved": {"met": None, "evidence": "in the report"}}
    frames: dict[tuple, list[pd.DataFrame]] = {}
    for place, (budget, (patients, draws)) in enumerate(BUDGETS.items()):
        for arm in ARMS:
            for draw in range(draws):
                folder = study / "cells" / f"{arm}-{budget.strip('%')}-{draw}"
                cell = {"arm": arm, "mode": "finetune", "budget_name": budget, "budget": patients / 80}
                cell |= {"draw": draw, "patients": patients, "train_scans": patients, "validation_scans": 0}
                cost = {"seconds": 20.0 + draw, "peak_memory_mib": 900, "samples_per_s": 55.5}
                parent = behind[draw % pretraining_runs]["id"] if arm == "simmim" else None
                record(folder, "cell", cell, cost=cost, metrics={"hd95_mm.1": 3.25}, parent=parent)
                make = dice_cases if task == "segmentation" else class_cases
                frame = make(generator, TRUTH[arm][place], draw)
                frame.to_parquet(folder / "predictions.parquet")
                frames.setdefault((arm, budget), []).append(frame)
                if draw == 0 and task == "segmentation":
                    np.savez(folder / "examples.npz", **slices(generator))
    config["cell_ids"] = [*sorted(p.name for p in (study / "cells").iterdir()), "simmim-10-0"]
    record(study, "study", config, protocol=points)
    summary(frames, task, pretraining_runs).to_parquet(study / "summary.parquet")
    rows = [
        (d, b, f"p{i}", "validation" if i % 5 == 4 else "train")
        for b, (n, k) in BUDGETS.items()
        for d in range(k)
        for i in range(n)
    ]
    pd.DataFrame(rows, columns=["draw", "budget_name", "patient", "role"]).to_parquet(study / "subsets.parquet")
    for run in behind:
        pretraining_run(study / "pretraining" / "simmim" / ("" if len(behind) == 1 else run["id"]), run["id"])
    return study


def pretraining_run(folder: Path, run_id: str) -> None:
    record(folder, "pretrain", {"crop": [32, 32, 32], "steps": 500, "scans": 90}, id=run_id)
    steps = np.arange(0, 500, 50)
    log = pd.DataFrame({"step": steps, "loss": np.exp(-steps / 200), "effective_rank": np.nan})
    log.loc[::5, "effective_rank"] = 12.0
    log.to_csv(folder / "metrics.csv", index=False)
    crops = {
        f"{kind}.{n}": np.random.default_rng(n).normal(size=(32, 32))
        for n in range(3)
        for kind in ("source", "corrupted", "restored")
    }
    np.savez(folder / "examples.npz", **crops)


def summary(frames: dict[tuple, list[pd.DataFrame]], task: str, pretraining_runs: int) -> pd.DataFrame:
    """What `study` writes, in its columns; here without its code, so that the report is tested alone."""
    rows = []
    for (arm, budget), draws in frames.items():
        about = {"arm": arm, "mode": "finetune", "budget_name": budget, "budget": BUDGETS[budget][0] / 80}
        about |= {"patients": BUDGETS[budget][0], "scans": float(BUDGETS[budget][0]), "draws": len(draws)}
        about["pretraining_runs"] = pretraining_runs if arm == "simmim" else 0
        mine, base = table_of(draws, task), table_of(frames["scratch", budget], task)
        estimate = stats.crossed_interval(mine)
        row = about | {"metric": "dice" if task == "segmentation" else "auroc", "note": estimate.note}
        row |= {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        if arm != "scratch":
            paired = stats.crossed_interval(mine - base)
            row |= {"difference": paired.mean, "difference_low": paired.low, "difference_high": paired.high}
            row |= {"p": paired.p, "p_holm": min(1, 3 * paired.p)}
        rows += [row, about | {"metric": "hd95_mm.1", "mean": 3.25}]
    return pd.DataFrame(rows)


def table_of(draws: list[pd.DataFrame], task: str) -> np.ndarray:
    patients = draws[0]["patient"]
    if task == "segmentation":
        scans = np.stack([d[["dice.1", "dice.2"]].mean(axis=1) for d in draws])
        return stats.patient_means(scans, patients)[0]
    return stats.auroc_by_patient(draws[0]["label"], np.stack([d["p.pneumonia"] for d in draws]), patients)[0]


def text_of(page: Path) -> str:
    """The page's text without tags, entities and pictures."""
    without = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(without))


# ------------------------------------------------------------------------------------------------- contents


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp(SECRET))


@pytest.fixture(scope="module")
def page(studied) -> Path:
    return report(studied)


def test_numbers_are_the_summarys(studied, page):
    text = text_of(page)
    for row in pd.read_parquet(studied / "summary.parquet").query("metric == 'dice'").itertuples():
        assert f"{row.mean:.3f} {row.low:.3f} to {row.high:.3f}" in text
        if row.arm != "scratch":
            signed = f"{row.difference:+.3f} [{row.difference_low:.3f}, {row.difference_high:.3f}]"
            assert signed.replace("-", "−") in text


def test_labels_saved_are_those_of_the_statistics(studied, page):
    tables = []
    for arm in ARMS:
        for budget, (_, draws) in BUDGETS.items():
            cells = [studied / "cells" / f"{arm}-{budget.strip('%')}-{d}" for d in range(draws)]
            tables.append(table_of([pd.read_parquet(c / "predictions.parquet") for c in cells], "segmentation"))
    saved = label_curves.labels_saved([1, 8, 80], tables[3:], tables[2])
    area = label_curves.area_under_label_curve([1, 8, 80], tables[3:])
    assert np.isinf(saved.high)
    assert f"{saved.budget:.3g} {saved.low:.3g} or more" in text_of(page)
    assert f"{area.mean:.3f} {area.low:.3f} to {area.high:.3f}" in text_of(page)
    closed = label_curves.gap_closed(tables[3], tables[0], tables[2])
    assert f"{100 * closed.share:.0f}% {100 * closed.low:.0f} to {100 * closed.high:.0f}%" in text_of(page)
    needs = label_curves.labels_saved([1, 8, 80], tables[:3], tables[4])
    assert f"{needs.budget:.3g} {needs.low:.3g} to {needs.high:.3g}" in text_of(page)


def test_every_section_has_its_content(page):
    text = text_of(page)
    for word in (
        "better in 2 and worse in 0",
        "1 patient",
        "peak memory",
        "HD95, mm (1)",
        "abc1234",
        "data123",
        "torch 2.10.0",
    ):
        assert word in text
    for row in (
        "strong baselines not met no semi-supervised arm",
        "labels saved not applicable",
        "16",
        "finished 26",
    ):
        assert row in text
    assert text.index("split by patient") < text.index("strong baselines") < text.index("labels saved not")
    options = "--allow-seen true --budgets 1p 10% 100% --crop 32 32 32 --draws 5 --steps 7"
    assert f"medssl study --data CACHE --out STUDY --task segmentation --arms scratch RUN_1 {options}" in text


def test_the_report_has_what_a_paper_needs_beside_the_numbers(studied, page):
    text = text_of(page)
    for sentence in (
        "Scans are 3D CT on a grid of 1 × 1 × 2 mm. Patients were split at random (seed 0): 80 for training, 10 for validation, 24 for testing",
        "simmim was pretrained without labels for 500 steps, in 1 run.",
        "The arms scratch, simmim were trained for segmentation with the label budgets 1p, 10%, 100%, in 5 draws",
        "Settings given: steps 7; crop 32 × 32 × 32.",
        "The primary metric is Dice.",
        "Holm, A simple sequentially rejective multiple test procedure",
        "patients for training, of whom the budgets are drawn 80",
        "spacing, mm 1 × 1 × 2",
        "given_options.crop 32, 32, 32",
        "HD95 of a structure that the prediction lacks is the diagonal of the scan",
    ):
        assert sentence in text
    assert "{" not in text  # no raw JSON
    assert "pretraining.simmim.runs.0.id pre123" in text


def test_the_works_behind_a_study_are_named():
    arms = ["scratch", "runs/simclr", "self-training(scratch)"]
    pretraining = {"simclr": {"method": {"class_path": "SimCLR"}}, "own": {"method": {"class_path": "Mine"}}}
    config = {"task": "classification", "arms": arms, "pretraining": pretraining}
    works = citations(runs.Run("a", "study", config, "data", 0))
    assert works[0].startswith("Chen et al., A Simple Framework for Contrastive Learning of Visual Representations")
    assert works[1].startswith("Self-training (Lee 2013")
    assert any("DeLong" in work for work in works)
    assert len(works) == len(set(works))


def test_page_is_one_file_that_makes_no_network_request(page):
    source = page.read_text()
    assert not re.search(r"<script|<link|@import|https?://|//cdn|<iframe", source)
    images = re.findall(r'src="([^"]+)"', source)
    assert len(images) == 7  # curves, forest, forecast, two budgets of examples, training, reconstructions
    for image in images:
        kind, _, content = image.partition(";base64,")
        assert kind in ("data:image/png", "data:image/svg+xml")
        drawn = base64.b64decode(content)
        addresses = set(re.findall(rb"https?://[^\"' ]+", drawn)) if kind.endswith("xml") else set()
        assert all(b"www.w3.org" in a for a in addresses)  # names of formats, which nothing fetches


def test_page_holds_no_path_and_no_patient(studied, page):
    assert SECRET not in page.read_text()
    assert str(studied.parent) not in page.read_text()
    assert not re.search(r"\bp\d\d\b", text_of(page))


def test_classification_takes_auroc_through_its_pseudo_values(tmp_path):
    study = make_study(tmp_path, "classification")
    text = text_of(report(study, tmp_path / "elsewhere" / "page.html"))
    tables = []
    for budget, (_, draws) in BUDGETS.items():
        cells = [study / "cells" / f"simmim-{budget.strip('%')}-{d}" for d in range(draws)]
        tables.append(table_of([pd.read_parquet(c / "predictions.parquet") for c in cells], "classification"))
    assert f"{label_curves.area_under_label_curve([1, 8, 80], tables).mean:.3f}" in text
    assert "AUROC" in text
    assert "Example segmentations" not in text


# -------------------------------------------------------------------------------- what is broken or missing


def test_broken_and_missing_cells_are_shown_as_such(tmp_path):
    study = make_study(tmp_path)
    cells = study / "cells"
    (cells / "simmim-1p-0" / "run.json").write_text('{"id": "half')
    (cells / "simmim-1p-1" / "predictions.parquet").write_bytes(b"PAR1 cut off")
    (cells / "simmim-1p-0" / "examples.npz").write_bytes(b"PK cut off")
    failed = {
        "arm": "simmim",
        "mode": "finetune",
        "budget_name": "10%",
        "draw": 0,
        "patients": 8,
        "budget": 0.1,
    }
    reason = f"loss is nan in /data/{SECRET}/x.nii: lower the rate"
    record(cells / "simmim-10-0", "cell", failed, status="failed", reason=reason)
    text = text_of(report(study))
    assert "Incomplete: 24 of 26 cells are finished" in text
    assert "record cannot be read 1" in text
    assert "predictions cannot be read" in text
    assert "loss is nan in [path]: lower the rate" in text
    assert SECRET not in text


def test_a_study_of_an_older_version_says_so_and_one_of_a_newer_version_is_listed(tmp_path):
    study = make_study(tmp_path)
    about = json.loads((study / "run.json").read_text())
    data_spec = about["config"].pop("data_spec")
    old = {key: value for key, value in about.items() if key != "format"} | {"config": about["config"] | data_spec}
    (study / "run.json").write_text(json.dumps(old))
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "run.json").write_text(json.dumps(about | {"format": 99}))
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "run.json").write_text(json.dumps(about | {"config": {"task": "segmentation", "arms": None} | data_spec}))
    text = text_of(report(tmp_path))
    assert "Older version: this study was written by medssl 0.1.0 (record format 1)" in text
    assert "better in 2 and worse in 0" in text
    assert "Runs that cannot be shown" in text
    assert "expected record format" in text
    assert "arms in its run.json is None: expected a list; run the study again with another --out" in text
    with pytest.raises(MedsslError, match="expected record format"):
        report(newer)


@pytest.mark.parametrize("error", [TypeError, AttributeError])
def test_a_bug_is_not_called_an_older_version(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error("a bug")

    monkeypatch.setattr(report_tables, "scores", broken)
    with pytest.raises(error, match="a bug"):
        report(make_study(tmp_path))


def test_study_without_a_finished_cell(tmp_path):
    config = {
        "task": "segmentation",
        "arms": ["scratch"],
        "budgets": ["1%"],
        "cells": 4,
        "data_spec": DataSpec(3).to_record(),
    }
    record(tmp_path / "young", "study", config, status="running")
    text = text_of(report(tmp_path / "young"))
    assert "No cell of this study is finished yet" in text
    assert "not started 4" in text


def test_an_unfinished_study_shows_what_is_finished(tmp_path):
    study = make_study(tmp_path)
    (study / "summary.parquet").unlink()
    shutil.rmtree(study / "cells" / "simmim-100-2")
    whole = json.loads((study / "run.json").read_text())
    (study / "run.json").write_text(json.dumps(whole | {"status": "stopped"}))
    text = text_of(report(study))
    assert "Incomplete" in text
    assert "In 3 comparisons" in text
    assert "compares no pretrained arm" not in text
    assert "This needs two budgets" not in text
    assert "stopped by the user" in text


def test_nothing_is_claimed_of_labels_saved_where_any_number_fits():
    nothing = label_curves.LabelsSaved(budget=1.5, low=1.0, high=np.inf, share=0.9)
    assert report_tables._labels_saved_texts(nothing, 1.0) == ("–", "any number", "–")


def test_pretraining_runs_alone(tmp_path):
    pretraining_run(tmp_path / "a", "run001")
    text = text_of(report(tmp_path))
    assert "Pretraining runs" in text
    assert "run001" in text


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "a.txt").touch())])
def test_folder_without_a_run_is_refused(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(MedsslError, match="no study and no pretraining run"):
        report(tmp_path / "x")


def test_cells_of_other_data_or_of_an_earlier_recipe_do_not_enter(tmp_path):
    study = make_study(tmp_path)
    before = text_of(report(study))
    record(study / "cells" / "foreign", "cell", {"arm": "other", "mode": "knn", "draw": 0}, data="elsewhere")
    old = runs.read(study / "cells" / "simmim-1p-0").config
    record(study / "cells" / "older", "cell", old, started=1.0)
    assert text_of(report(study)) == before


# --------------------------------------------------------------------------------------------- the sentence


def rows(*differences: tuple[float, float]) -> pd.DataFrame:
    table = pd.DataFrame(differences, columns=["difference_low", "difference_high"])
    table["difference"] = table.mean(axis=1)
    return table.assign(
        arm="simmim", mode="finetune", patients=[1, 8, 80][: len(table)], p_holm=0.5, pretraining_runs=3
    )


def test_with_one_pretraining_run_every_interval_is_of_this_run(tmp_path):
    study = make_study(tmp_path / "one")
    text = text_of(report(study))
    assert "This run: one pretraining run stands behind simmim. Its p-values and intervals are about this run" in text
    assert "paired difference in Dice (this run) does not exclude zero" in text
    assert "(1 patient): simmim, fine-tuned (this run) +" in text
    assert (
        text.count("simmim, fine-tuned (this run)") == 8
    )  # the sentence, three scores, labels saved, two gaps closed, the forecast
    assert "scratch, fine-tuned (this run)" not in text


def test_with_several_pretraining_runs_nothing_is_of_this_run(tmp_path):
    study = make_study(tmp_path / "three", pretraining_runs=3)
    text = text_of(report(study))
    assert "this run" not in text.lower().replace("the same study command", "")
    assert "simmim, pretraining 3 90.0 0.075" in text
    assert "# 'RUN_1_{1..3}': simmim, run pre123, pre124, pre125" in text
    assert "--arms scratch 'RUN_1_{1..3}'" in text
    curve = {c.arm: c for c in _curves(study)}["simmim"]
    assert curve.pretraining_runs == 3
    one = {c.arm: c for c in _curves(make_study(tmp_path / "one"))}["simmim"]
    assert one.area != curve.area  # of the same scores, but runs count in place of draws


def test_an_arm_with_the_smallest_budget_alone_closes_its_share_of_the_gap_and_has_no_area(tmp_path):
    study = make_study(tmp_path)
    whole = {c.arm: c for c in _curves(study)}["simmim"]
    for cell in (study / "cells").iterdir():
        config = json.loads((cell / "run.json").read_text())["config"]
        if config["arm"] == "simmim" and config["budget_name"] != whole.gains[0].budget:
            shutil.rmtree(cell)
    curves = _curves(study)
    alone = {c.arm: c for c in curves}["simmim"]
    assert alone.area is None
    assert alone.gains == whole.gains[:1]
    (closed,) = [row for row in report_tables.gap_closed(curves).rows if "simmim" in str(row)]
    assert closed
    saved, _, _ = report_tables.labels_saved(
        curves, pd.DataFrame({"arm": ["scratch"], "patients": [1.0], "mean": [0.5]})
    )
    assert not any("simmim" in str(row) for row in saved.rows)


def _curves(study: Path) -> list[LabelCurve]:
    run = runs.read(study)
    cells = cells_of(runs.table(study / "cells"), run)
    cases, damaged = cases_of(study, cells)
    main = summary_of(study, run, cells, damaged).query("metric == 'dice'")
    return study_curves(cases, main, Dice()) or []


def test_a_study_from_before_runs_were_counted_had_one_run_an_arm(tmp_path):
    study = make_study(tmp_path)
    about = json.loads((study / "run.json").read_text())
    pretraining = about["config"]["pretraining"]["simmim"]
    (run,) = pretraining.pop("runs")
    pretraining |= {"id": run["id"], "cost": run["cost"]}
    (study / "run.json").write_text(json.dumps(about))
    file = study / "summary.parquet"
    pd.read_parquet(file).drop(columns="pretraining_runs").to_parquet(file)
    text = text_of(report(study))
    assert "simmim, fine-tuned (this run)" in text
    assert "one pretraining run stands behind simmim" in text
    assert "simmim, pretraining 1 90.0 0.025" in text
    assert "# RUN_1: simmim, run pre123" in text


def test_the_sentence_reports_losses_and_nothing_as_it_reports_gains():
    lead, _ = findings(rows((-0.1, 0.1), (-0.1, 0.2)), "Dice")
    assert lead.startswith("Neither a gain nor a loss from pretraining could be shown: in all 2")
    lead, detail = findings(rows((-0.2, -0.1), (-0.1, 0.2), (0.01, 0.2)), "Dice")
    assert "better in 1 and worse in 1; in 1, the 95% interval" in lead
    assert "(1 patient): simmim, fine-tuned −0.150 [−0.200, −0.100]" in detail
    lead, _ = findings(rows((-0.2, -0.1)), "Dice")
    assert "pretraining was worse than training from scratch" in lead
    lead, _ = findings(rows((0.1, 0.2), (0.1, 0.2)).assign(difference_low=np.nan, difference_high=np.nan), "Dice")
    assert "None of the comparisons with training from scratch (2) has a 95% interval" in lead
    lead, _ = findings(rows((0.1, 0.2)).assign(arm="scratch-long"), "Dice")
    assert "cannot say what pretraining is worth" in lead


def test_every_example_in_the_docstrings_holds():
    for tested in (redaction, stats):
        assert doctest.testmod(tested).failed == 0


def test_every_mode_has_a_name():
    assert set(MODES) == set(get_args(Mode))
