"""One self-contained HTML page about a study: its result, how certain it is, what it cost and how to reproduce it.

    medssl report studies/hippo --out report.html

The numbers are the study's own: scores and differences come from `summary.parquet`, labels saved and the area under the
label curve from the predictions of the cells. Whatever is missing, unfinished or broken is shown as such. The page
makes no network request, and contains no path and no patient.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.runs import WITH_ENCODER, Run, read, table
from medssl.evaluation.forecast import MIN_BUDGETS
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting import captions, figures, record_tables, tables
from medssl.reporting.findings import findings, study_facts, study_warnings
from medssl.reporting.html.template import render
from medssl.reporting.methods_text import citations, methods_text
from medssl.reporting.pdf import pdf
from medssl.reporting.public_weights import public_weights
from medssl.reporting.reproduce import command
from medssl.reporting.shown import EVERYTHING, Shown
from medssl.reporting.style import METRICS, counted, number, status_name
from medssl.studies.forecast import ArmForecast, forecasts
from medssl.studies.results import (
    UNREADABLE,
    arrays,
    cases_of,
    cells_of,
    check_record,
    label_curves,
    pretraining_of,
    selection_of,
    summary_of,
)
from medssl.training.tasks import task_named


def report(runs: Path, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a study.

    Args:
        runs: The folder of a study, or a folder of several studies and pretraining runs.
        out: The file to write; `report.html` in that folder by default. A name that ends in .pdf gives the same page as PDF,
            with pip install 'weasyprint>=70'.

    Returns:
        The path of the page.

    Raises:
        MedsslError: The folder holds neither a study nor a run with an encoder, its own record is broken, or what makes a PDF is not
            installed.
    """
    root = Path(runs)
    if (root / "run.json").exists():
        read(root)  # a broken record of the very run that was asked for is an error
    records = (table(root) if root.is_dir() else pd.DataFrame()).reindex(columns=["folder", "kind", "status", "reason"])
    studies, pretraining = (
        records.loc[records["kind"].isin(kinds), "folder"].tolist() for kinds in (("study",), WITH_ENCODER)
    )
    unreadable = _unreadable_runs(records, studies)
    if not (studies or pretraining):
        reasons = "".join(f"; {name} cannot be read: {reason}" for name, reason in unreadable.items())
        raise MedsslError(
            f"{runs} holds no study and no pretraining run: expected a folder that `medssl study` wrote{reasons}"
        )
    known = pretraining_runs([root / name for name in pretraining])
    views, unreadable_studies = _study_views(root, studies, known)
    used = {run_id for view in views for run_id in view["uses"]}
    others = _other_runs({run_id: known[run_id] for run_id in known if run_id not in used})
    problems = tables.unreadable_runs(unreadable | unreadable_studies)
    target = Path(out) if out else root / "report.html"
    html = page(views, others, problems)
    content = pdf(html) if target.suffix.lower() == ".pdf" else html.encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return target


def page(
    studies: list[dict[str, Any]], others: dict[str, Any] | None = None, unreadable: tables.Table | None = None
) -> str:
    """Return the HTML of a report.

    Args:
        studies: Views, as from `study_view`.
        others: The pretraining runs that no study uses.
        unreadable: The runs that cannot be shown.
    """
    return render(
        "report.html.j2",
        studies=studies,
        others=others,
        unreadable=unreadable,
        version=version("medssl"),
        captions=captions,
    )


def _unreadable_runs(records: pd.DataFrame, studies: list[str]) -> dict[str, str]:
    """Folder -> reason of every record that cannot be read, but for the cells of the studies, which list their own."""
    broken = records[records["status"] == "broken"]
    prefixes = tuple("cells/" if study == "." else f"{study}/cells/" for study in studies)
    return {
        name: str(reason) for name, reason in zip(broken["folder"], broken["reason"]) if not name.startswith(prefixes)
    }


def _study_views(
    root: Path, names: list[str], pretrained: dict[str, tuple[Run, Path]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The views of the studies, and folder -> reason of those that have none; MedsslError if that is `root` itself."""
    views, reasons = [], {}
    for name in names:
        try:
            views.append(_checked_view(root / name, pretrained))
        except MedsslError as error:
            if name == ".":
                raise
            reasons[name] = str(error)
    return views, reasons


def _checked_view(folder: Path, pretrained: dict[str, tuple[Run, Path]]) -> dict[str, Any]:
    """The view of a study; MedsslError, with what to do, where its record or its files are damaged."""
    run = read(folder)
    check_record(run)
    try:
        return study_view(folder, run, cells_of(table(folder / "cells"), run), pretrained)
    except UNREADABLE as error:
        raise MedsslError(
            f"the study in {folder.name} was written by {run.writer}, and its files are not as this version "
            f"expects them ({type(error).__name__}): run the study again with another --out"
        ) from error


def study_view(
    folder: Path, run: Run, cells: pd.DataFrame, pretrained: dict[str, tuple[Run, Path]], shown: Shown = EVERYTHING
) -> dict[str, Any]:
    """Return everything that the template shows of one study.

    Args:
        folder: The folder of the study.
        run: Its record.
        cells: Its rows of `runs.table`.
        pretrained: The id of a pretraining run -> its record and its folder.
        shown: What of the study is shown; the sentence is about all of it.
    """
    config, task = run.config, task_named(str(run.config.get("task", "")))
    metric = task.metric.name
    cases, damaged = cases_of(folder, cells)
    summary = summary_of(folder, run, cells, damaged)
    whole = summary[summary["metric"] == metric]
    main = shown.rows(whole)
    compared = main[main["difference"].notna()]
    lead, detail = findings(whole, METRICS[metric])
    label_efficiency = shown.curves(label_curves(cases, whole, task.metric))
    saved, saved_reason, full = tables.labels_saved(label_efficiency, whole)
    arms = {
        arm if len(each) == 1 else f"{arm}, seed {about.get('seed')}": about.get("id")
        for arm, each in pretraining_of(config).items()
        for about in each
    }
    return {
        "title": f"What was pretraining worth? {task.name.capitalize()}",
        "facts": study_facts(run),
        "lead": lead,
        "detail": detail,
        "shown": shown.sentence(),
        "warnings": study_warnings(run, cells),
        "metric": METRICS[metric],
        "scored": f"{config.get('scored_patients', '–')} {config.get('score_on', 'test')}",
        "curves": figures.label_curves(main, METRICS[metric]) if len(main) else None,
        "scores": tables.scores(main),
        "selection": tables.selection(shown.rows(selection_of(folder, run, cells, damaged))),
        "trials": tables.trials(shown.rows(cells, "config.arm", "config.budget_name")),
        "forest": figures.forest(compared, METRICS[metric]) if len(compared) else None,
        "gap": tables.gap_closed(label_efficiency),
        "saved": saved,
        "saved_reason": saved_reason,
        "scratch_full": full,
        **_forecast_view(shown.forecasts(forecasts(cases, whole, task.metric) if len(whole) else []), metric),
        "others": tables.other_metrics(shown.other_metrics(summary[summary["metric"] != metric])),
        "keeps_examples": task.keeps_examples,
        "examples": _examples(folder, shown.rows(cells, "config.arm", "config.budget_name"), config),
        "public_weights": public_weights(config.get("pretraining", {})),
        "pretraining": _pretraining({a: pretrained[i] for a, i in arms.items() if i in pretrained}, arms),
        "cost": tables.cost(shown.rows(cells, "config.arm", "config.budget_name"), config),
        "cells": tables.cell_counts(cells, config),
        "incomplete": tables.incomplete_cells(cells, damaged),
        "protocol": tables.protocol(run.protocol),
        "command": command(run),
        "provenance": tables.provenance(run, cells),
        "subsets": tables.budgets(_subsets(folder)),
        "methods": methods_text(run),
        "citations": citations(run),
        "cohort": record_tables.cohort(run),
        "settings": record_tables.settings(config),
        "uses": [i for i in arms.values() if i],
    }


def _forecast_view(arms: list[ArmForecast], metric: str) -> dict[str, Any]:
    """The picture and the table of the forecasts, or the reason why there is none."""
    if not any(arm.forecast for arm in arms):
        reason = f"This needs {MIN_BUDGETS} budgets or more, with two scored patients of every class."
        return {"forecast": None, "forecast_table": None, "forecast_reason": reason}
    return {
        "forecast": figures.forecasts(arms, METRICS[metric]),
        "forecast_table": tables.forecasts(arms),
        "forecast_reason": "",
    }


def _examples(folder: Path, cells: pd.DataFrame, config: dict) -> list[dict[str, Any]]:
    """Worst, median and best case of each arm, at the smallest and at the largest budget that have any."""
    examples: dict[tuple[float, str], dict[str, Any]] = {}
    columns = ["config.arm", "config.budget_name", "config.patients", "folder"]
    for arm, name, patients, cell in cells.reindex(columns=columns).itertuples(index=False):
        if slices := arrays(folder / "cells" / str(cell) / "examples.npz", "image"):
            examples.setdefault((patients, name), {})[arm] = slices
    smallest_and_largest = sorted(examples)[:1] + sorted(examples)[1:][-1:]
    volumes = DataSpec.from_record(config).dims == 3
    side = " The patient's right is on the left." if volumes else ""
    return [
        {
            "drawing": figures.segmentations(examples[patients, name], volumes),
            "caption": f"Budget {name} ({counted(patients, 'labelled patient')}), first draw: the worst, median and best "
            f"case of each arm. The solid yellow line is the reference, the dashed blue line the prediction.{side}",
        }
        for patients, name in smallest_and_largest
    ]


def pretraining_runs(folders: list[Path]) -> dict[str, tuple[Run, Path]]:
    """Return run id -> record and folder; a study keeps copies of what the page shows of its pretraining runs."""
    known: dict[str, tuple[Run, Path]] = {}
    for folder in folders:
        run = read(folder)
        known.setdefault(run.id, (run, folder))
    return known


def _pretraining(runs: dict[str, tuple[Run, Path]], arms: dict[str, Any]) -> dict[str, Any]:
    """The curves and reconstructions of pretraining runs (name -> record and folder); arms: arm -> id of its run."""
    logs, pictures = {}, []
    for arm, (run, folder) in runs.items():
        if (log := _log(folder)) is not None:
            logs[arm] = log
        if crops := arrays(folder / "examples.npz", "source"):
            volumes = len(run.config.get("crop", [0, 0, 0])) == 3
            caption = f"{arm}: middle slices of crops, as given, as corrupted, and as restored by the pretext task."
            pictures.append({"drawing": figures.reconstructions(crops, volumes), "caption": caption})
    missing = [
        f"The run of {arm} ({run_id}) is not in this folder, so its curves are not shown."
        for arm, run_id in arms.items()
        if arm not in runs
    ]
    trained = [arm for arm, (run, _) in runs.items() if run.kind != "import"]
    missing += [f"The run of {arm} has no readable log of its training." for arm in trained if arm not in logs]
    figure = figures.training_curves(logs) if logs else None
    return {"figure": figure, "pictures": pictures, "missing": missing}


def _log(folder: Path) -> pd.DataFrame | None:
    try:
        log = pd.read_csv(folder / "metrics.csv")
    except UNREADABLE:
        return None
    known = {"loss", "effective_rank", "knn"} & set(log.dropna(axis=1, how="all"))
    return log if "step" in log and known else None


def _subsets(folder: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(folder / "subsets.parquet")
    except UNREADABLE:
        return None


def _other_runs(runs: dict[str, tuple[Run, Path]]) -> dict[str, Any] | None:
    """The pretraining runs that no study of the page uses."""
    if not runs:
        return None
    listed = tables.Table(["run", "method", "status", "#scans", "#steps", "#effective rank", "#device-hours"])
    by_name = {}
    for run_id, (run, folder) in runs.items():
        method = str(run.config.get("method", {}).get("class_path", "")).rpartition(".")[2]
        method = method or str(run.config.get("source", {}).get("layout", ""))
        by_name[f"{method} {run_id[:6]}".strip()] = (run, folder)
        counts = run.config.get("scans", "–"), run.config.get("steps", "–")
        rank = number(run.metrics.get("effective_rank"), 1)
        listed.add(run_id, method, status_name(run.status), *counts, rank, tables.device_hours(run.cost))
    imported = public_weights({name: run.config for name, (run, _) in by_name.items()})
    return {"table": listed, "public_weights": imported, **_pretraining(by_name, {})}
