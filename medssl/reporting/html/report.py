"""One self-contained HTML page of a study: what it shows, how surely, at what cost, and how to do it again.

    medssl report studies/hippo --out report.html

The numbers are the study's own: `summary.parquet` for scores and differences, the cells' predictions for
labels saved and the area under the label curve. What is missing, unfinished or broken is shown as such. The
page makes no outside request, and holds no path and no patient.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.runs import Run, read, table
from medssl.reporting import figures, tables
from medssl.reporting.html.data import arrays, cases_of, cells_of, summary_of
from medssl.reporting.tables import STATUSES, UNREADABLE


def report(runs: Path, out: Path | None = None) -> Path:
    """Write the page for the study (or all studies and pretraining runs) in folder `runs`; returns its path.

    Raises MedsslError where the folder holds no run at all.
    """
    root = Path(runs)
    if (root / "run.json").exists():
        read(root)  # a broken record of the very run asked for is an error
    found = table(root) if root.is_dir() else pd.DataFrame()
    kinds = found.reindex(columns=["folder", "kind"]).groupby("kind")["folder"].apply(list).to_dict()
    studies, pretraining = ([root / f for f in kinds.get(kind, [])] for kind in ("study", "pretrain"))
    if not (studies or pretraining):
        raise MedsslError(f"{runs} holds no study and no pretraining run: expected a folder that `medssl study` wrote")
    known = _pretraining_runs(pretraining)
    views = [study_view(folder, known) for folder in studies]
    used = {run_id for view in views for run_id in view["uses"]}
    loose = {run_id: known[run_id] for run_id in known if known[run_id][1] in pretraining and run_id not in used}
    html = _template().render(studies=views, loose=_loose(loose), version=version("medssl"))
    target = Path(out) if out else root / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, html.encode())
    return target


def study_view(folder: Path, pretrained: dict[str, tuple[Run, Path]]) -> dict[str, Any]:
    """Everything the template shows of one study; pretrained: run id -> record and folder."""
    run = read(folder)
    config, task = run.config, str(run.config.get("task", ""))
    metric = "dice" if task == "segmentation" else "auroc"
    cells = cells_of(table(folder / "cells"), run)
    cases, troubles = cases_of(folder, cells)
    summary = summary_of(folder, run, cells, troubles)
    main = summary[summary["metric"] == metric]
    compared = main[main["difference"].notna()]
    lead, detail = findings(main, tables.METRICS[metric])
    if not len(main):
        lead = "No cell of this study is finished yet, so there is nothing to say."
    saved, saved_reason, full = tables.labels_saved(cases, main, task)
    arms = {arm: about.get("id") for arm, about in config.get("pretraining", {}).items()}
    return {
        "title": f"What was pretraining worth? {task.capitalize()}",
        "facts": facts_of(run),
        "lead": lead,
        "detail": detail,
        "warnings": warnings_of(run, cells),
        "metric": tables.METRICS[metric],
        "scored": f"{config.get('scored_patients', '–')} {config.get('score_on', 'test')}",
        "curves": figures.label_curves(main, tables.METRICS[metric]) if len(main) else None,
        "scores": tables.scores(main),
        "forest": figures.forest(compared, tables.METRICS[metric]) if len(compared) else None,
        "saved": saved,
        "saved_reason": saved_reason,
        "scratch_full": full,
        "others": tables.other_metrics(summary[summary["metric"] != metric]),
        "segmentation": task == "segmentation",
        "examples": _examples(folder, cells, config),
        "pretraining": _pretraining({a: pretrained[i] for a, i in arms.items() if i in pretrained}, arms),
        "cost": tables.cost(cells, config),
        "cells": tables.cell_counts(cells, config),
        "troubles": tables.troubles(cells, troubles),
        "protocol": tables.protocol(run.protocol),
        "command": _command(run),
        "provenance": tables.provenance(run, cells),
        "subsets": tables.budgets(folder),
        "config": tables.without_paths(json.dumps(config, indent=1, sort_keys=True)),
        "uses": [i for i in arms.values() if i],
    }


def findings(main: pd.DataFrame, metric: str) -> tuple[str, str]:
    """The study in one plain sentence, and what it found at its smallest budget and after Holm's correction.

    main: the summary's rows of the primary metric. Baselines are no pretraining, so they are not counted.
    """
    rows = main[main["difference"].notna() & ~main["arm"].isin(list(figures.BASELINES))]
    if rows.empty:
        nothing = "This study compares no pretrained arm with training from scratch"
        return f"{nothing}, so it cannot say what pretraining is worth.", ""
    better, worse = int((rows["difference_low"] > 0).sum()), int((rows["difference_high"] < 0).sum())
    unclear, total = len(rows) - better - worse, len(rows)
    zero = f"the 95% interval of the paired difference in {metric} does not exclude zero"
    if total == 1:
        only = "was better than" if better else "was worse than" if worse else "could not be told from"
        lead = f"In the one comparison made, pretraining {only} training from scratch ({metric}, paired, 95%)."
    elif better == worse == 0:
        lead = (
            f"No gain and no loss from pretraining could be shown: in all {total} comparisons with training "
            f"from scratch, {zero}."
        )
    else:
        rest = f", and in {unclear} {zero}" if unclear else f" ({metric}, 95% intervals of the paired difference)"
        lead = (
            f"Of {total} comparisons with training from scratch, pretraining was better in {better} and "
            f"worse in {worse}{rest}."
        )
    least = rows[rows["patients"] == rows["patients"].min()]
    said = "; ".join(f"{figures.named(r.arm, r.mode)} {tables.signed_row(r)}" for r in least.itertuples())
    fewest, holding = _counted(least["patients"].iloc[0], "patient"), int((rows["p_holm"] < 0.05).sum())
    return lead, (
        f"Difference with the fewest labels ({fewest}): {said}. After Holm's correction, {holding} of "
        f"{_counted(total, 'comparison')} stay{'s' if holding == 1 else ''} below p = 0.05."
    )


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def facts_of(run: Run) -> str:
    config = run.config
    arms, budgets = len(config.get("arms", [])), len(config.get("budgets", []))
    scored = f"{config.get('scored_patients', '–')} {config.get('score_on', '')} patients"
    parts = [
        f"{config['dims']}D {config.get('modality', '')}".strip() if config.get("dims") else "",
        f"{_counted(arms, 'arm')}, {_counted(budgets, 'budget')}",
        f"scored on {scored}, {config.get('scored_scans', '–')} scans",
        f"run {run.id}, {STATUSES.get(run.status, run.status)}",
    ]
    return " · ".join(part for part in parts if part)


def warnings_of(run: Run, cells: pd.DataFrame) -> list[str]:
    config, finished = run.config, int((cells["status"] == "finished").sum())
    planned = config.get("cells", len(cells))
    lines = []
    if finished < planned:
        lines.append(f"Incomplete: {finished} of {planned} cells are finished. The same study command does the rest.")
    if config.get("score_on", "test") != "test":
        lines.append("Exploration: scored on validation patients. These numbers choose, they do not prove.")
    for arm, count in config.get("seen_test_scans", {}).items():
        if count:
            lines.append(f"Transductive: {arm} was pretrained on {count} of the test scans or of their patients.")
    return lines


def _examples(folder: Path, cells: pd.DataFrame, config: dict) -> list[dict[str, str]]:
    """Worst, median and best case of each arm, at the smallest and at the largest budget that kept any."""
    found: dict[tuple[float, str], dict[str, Any]] = {}
    columns = ["config.arm", "config.budget_name", "config.patients", "folder"]
    for arm, name, patients, place in cells.reindex(columns=columns).itertuples(index=False):
        if shown := arrays(folder / "cells" / str(place) / "examples.npz", "image"):
            found.setdefault((patients, name), {})[arm] = shown
    ends = sorted(found)[:1] + sorted(found)[1:][-1:]
    volumes = config.get("dims", 3) == 3
    side = "; the patient's right is on the left." if volumes else "."
    return [
        {
            "uri": figures.segmentations(found[patients, name], volumes),
            "caption": f"Budget {name} ({_counted(patients, 'labelled patient')}), first draw. Yellow, "
            f"solid: reference; blue, dashed: prediction. Each arm's own worst, median and best case{side}",
        }
        for patients, name in ends
    ]


def _pretraining_runs(inside: list[Path]) -> dict[str, tuple[Run, Path]]:
    """Run id -> record and folder; a study keeps copies of what the page shows of its pretraining runs."""
    found: dict[str, tuple[Run, Path]] = {}
    for folder in inside:
        run = read(folder)
        found.setdefault(run.id, (run, folder))
    return found


def _pretraining(found: dict[str, tuple[Run, Path]], arms: dict[str, Any]) -> dict[str, Any]:
    curves, pictures = {}, []
    for arm, (run, folder) in found.items():
        if (frame := _log(folder)) is not None:
            curves[arm] = frame
        if shown := arrays(folder / "examples.npz", "source"):
            volumes = len(run.config.get("crop", [0, 0, 0])) == 3
            caption = f"{arm}: middle slices of crops, as the pretext corrupted and as it restored them."
            pictures.append({"uri": figures.reconstructions(shown, volumes), "caption": caption})
    missing = [
        f"The run of {arm} ({run_id}) is not in this folder: its curves are not shown."
        for arm, run_id in arms.items()
        if arm not in found
    ]
    missing += [f"{arm} kept no log of its training." for arm in found if arm not in curves]
    return {
        "figure": figures.training_curves(curves) if curves else None,
        "pictures": pictures,
        "missing": missing,
    }


def _log(folder: Path) -> pd.DataFrame | None:
    try:
        frame = pd.read_csv(folder / "metrics.csv")
    except UNREADABLE:
        return None
    return (
        frame if "step" in frame and {"loss", "effective_rank", "knn"} & set(frame.dropna(axis=1, how="all")) else None
    )


def _loose(found: dict[str, tuple[Run, Path]]) -> dict[str, Any] | None:
    if not found:
        return None
    shown = tables.Table(["run", "method", "status", "#scans", "#steps", "#effective rank", "#device-hours"])
    named = {}
    for run_id, (run, folder) in found.items():
        method = str(run.config.get("method", {}).get("class_path", "")).rpartition(".")[2]
        named[f"{method} {run_id[:6]}".strip()] = (run, folder)
        counts = run.config.get("scans", "–"), run.config.get("steps", "–")
        rank = tables.number(run.metrics.get("effective_rank"), 1)
        shown.add(run_id, method, STATUSES.get(run.status, run.status), *counts, rank, tables.hours(run.cost))
    return {"table": shown, **_pretraining(named, {})}


def _command(run: Run) -> str:
    """The command of this study, with the folders left for the reader to fill in."""
    config = run.config
    named = {arm: f"RUN_{i}" for i, arm in enumerate(config.get("pretraining", {}), 1)}
    arms = [named.get(arm, arm) for arm in config.get("arms", [])]
    values = {"task": config.get("task", ""), "arms": arms} | config.get("asked", {})
    words = [f"--{name.replace('_', '-')} {_typed(value)}" for name, value in values.items()]
    lines = [f"# {word}: {arm}, run {config['pretraining'][arm].get('id', '–')}" for arm, word in named.items()]
    return tables.without_paths("\n".join([" ".join(["medssl study --data CACHE --out STUDY", *words]), *lines]))


def _typed(value: Any) -> str:
    """An option's value as one types it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2")
