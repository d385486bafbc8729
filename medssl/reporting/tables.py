"""The report's tables: what `report` prints in rows, worked out from the summary, the cells and the record.

    scores(main).rows[0]["cells"]      # [{"text": "5%", "tone": ""}, {"text": "scratch, fine-tuned", ...

A table holds text already written as it is to be read; the template only sets it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.runs import Run
from medssl.evaluation import intervals as stats
from medssl.reporting import figures

UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)  # what a cut-off or damaged file raises
KEY = ["arm", "mode", "budget_name"]
METRICS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95, mm",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
PROTOCOL = (  # the order of the points; a record's keys are sorted
    "split by patient",
    "untouched test set",
    "budget includes validation",
    "nested stratified budgets",
    "paired arms",
    "strong baselines",
    "fine-tuning recipe",
    "preprocessing parity",
    "inductive",
    "crossed statistics",
    "labels saved",
    "cost beside every score",
    "losses published",
)
STATUSES = {"stale": "stopped without a word", "stopped": "stopped by hand", "broken": "record cannot be read"}


@dataclass
class Table:
    """What the template prints: columns (numbers with # before, unbroken text with =), rows and footnotes."""

    columns: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def mark(self) -> int:
        """The column that carries the footnote's number: the arm's."""
        return next((i for i, name in enumerate(self.columns) if name == "=arm"), 0)

    def add(self, *cells: Any, note: str = "", tones: dict[int, str] | None = None, first: bool = False) -> None:
        """One row; note: a footnote to it; tones: column number -> "better" or "worse"; first: ruled off."""
        shown = [{"text": str(cell), "tone": (tones or {}).get(i, "")} for i, cell in enumerate(cells)]
        if note and note not in self.notes:
            self.notes.append(note)
        mark = str(self.notes.index(note) + 1) if note else ""
        self.rows.append({"cells": shown, "first": first, "mark": mark})


def scores(main: pd.DataFrame) -> Table | None:
    """The summary's rows of the primary metric, by budget."""
    if main.empty:
        return None
    names = ["=budget", "=arm", "#patients", "#scans", "#draws", "#mean", "#95% interval", "#minus scratch"]
    shown = Table([*names, "#p", "#p, Holm"])
    last = None
    for row in main.sort_values("patients", kind="stable").itertuples():
        tone = "better" if row.difference_low > 0 else "worse" if row.difference_high < 0 else ""
        first, last = row.budget_name != last, row.budget_name
        counts = f"{row.patients:g}", f"{row.scans:.4g}", f"{row.draws:g}"
        difference = signed_row(row) if np.isfinite(row.difference) else "–"
        name = (row.budget_name if first else "", figures.named(row.arm, row.mode))
        cells = (
            *counts,
            number(row.mean),
            interval(row.low, row.high),
            difference,
            _p(row.p),
            _p(row.p_holm),
        )
        note = "" if pd.isna(row.note) else row.note
        shown.add(*name, *cells, note=note, tones={7: tone}, first=first)
    return shown


def other_metrics(rows: pd.DataFrame) -> list[Table]:
    """Means of the metrics that were not compared: one table a metric with structures, one for the others."""
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(rows["metric"]):
        kind, _, structure = name.partition(".")
        kinds.setdefault(kind if structure else "", []).append(name)
    return [_means(rows[rows["metric"].isin(names)], names) for names in kinds.values()]


def _means(rows: pd.DataFrame, names: list[str]) -> Table:
    shown = Table(["=budget", "=arm", *(f"#{metric_name(name)}" for name in names)])
    last = None
    by = ["patients", "budget_name", "arm", "mode"]
    for (_, budget, arm, mode), group in rows.sort_values("patients", kind="stable").groupby(by, sort=False):
        means = dict(zip(group["metric"], group["mean"]))
        first, last = budget != last, budget
        values = (number(means.get(n), 1 if n.startswith("hd95") else 3) for n in names)
        shown.add(budget if first else "", figures.named(arm, mode), *values, first=first)
    return shown


def labels_saved(
    cases: dict[tuple, dict[int, pd.DataFrame]], main: pd.DataFrame, task: str
) -> tuple[Table | None, str, str]:
    """Labels saved and area under the label curve of every arm with two budgets or more.

    cases: (arm, mode, budget name) -> draw -> predictions. Returns the table, the reason where there is none,
    and the score to reach in words.
    """
    sizes = dict(sorted(zip(main["budget_name"], main["patients"]), key=lambda pair: pair[1]))
    base = {b: cases[("scratch", "finetune", b)] for b in sizes if ("scratch", "finetune", b) in cases}
    if len(set(sizes.values())) < max(2, len(sizes)) or (last := [*sizes][-1]) not in base:
        return None, "This needs two budgets or more, and scratch at the largest of them.", ""
    names = ["=arm", "#patients needed", "#95% interval", "#labels saved"]
    shown = Table([*names, "#area", "#95% interval", "#area minus scratch"])
    for arm, mode in dict.fromkeys(zip(main["arm"], main["mode"])):
        own = {b: cases[(arm, mode, b)] for b in sizes if (arm, mode, b) in cases}
        if len(own) < 2 or last not in own:
            continue
        patients = [sizes[b] for b in own]
        curve, freedom = _tables(own, task)
        area = stats.area_under_label_curve(patients, curve, patient_df=freedom, bounds=(0, 1))
        saved, difference, note = ("", "", ""), "", area.note
        if arm != "scratch":
            (full,), full_freedom = _tables({last: _shared(base[last], own[last])}, task)
            found = stats.labels_saved(patients, curve, full, patient_df=_fewest(freedom, full_freedom))
            saved, note = _saved(found, patients[0]), found.note
            difference = _area_difference(own, base, patients, task) if set(own) <= set(base) else ""
        cells = (*saved, number(area.mean), interval(area.low, area.high), difference)
        shown.add(figures.named(arm, mode), *cells, note=note)
    scratch = main.loc[(main["arm"] == "scratch") & (main["budget_name"] == last), "mean"]
    reached = f"{sizes[last]:g} patients, {number(scratch.iloc[0])}" if len(scratch) else ""
    return (shown if shown.rows else None), "No arm was run at two budgets.", reached


def _area_difference(own: dict, base: dict, budgets: list[float], task: str) -> str:
    a, freedom = _tables({b: _shared(own[b], base[b]) for b in own}, task)
    c, other = _tables({b: _shared(base[b], own[b]) for b in own}, task)
    differences = [x - y for x, y in zip(a, c)]
    free = _fewest(freedom, other)
    found = stats.area_under_label_curve(budgets, differences, patient_df=free, bounds=(-1, 1))
    return figures.signed(found.mean, found.low, found.high) if np.isfinite(found.low) else f"{found.mean:+.3f}"


def _tables(curve: dict[str, dict[int, pd.DataFrame]], task: str) -> tuple[list[np.ndarray], float | None]:
    """Each budget's primary metric as (draws, patients), and for AUROC its patients' degrees of freedom."""
    tables, freedoms = [], []
    for draws in curve.values():
        frames = [draws[d].sort_values("scan") for d in sorted(draws)]
        patients = frames[0]["patient"].to_numpy()
        if task == "segmentation":
            columns = [c for c in frames[0] if c.startswith("dice.")]
            scans = np.stack([f[columns].mean(axis=1).to_numpy() for f in frames])
            tables.append(stats.patient_means(scans, patients)[0])
            continue
        scores = np.stack([f[[c for c in f if c.startswith("p.")]].to_numpy() for f in frames])
        values, freedom = stats.auroc_by_patient(frames[0]["label"], scores, patients)
        tables.append(values if freedom else np.asarray(values.mean()))
        freedoms.append(freedom)
    return tables, (min(freedoms) or None) if freedoms else None


def _shared(draws: dict[int, pd.DataFrame], others: dict[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
    return {d: frame for d, frame in draws.items() if d in others} or draws


def _fewest(*freedoms: float | None) -> float | None:
    return min((f for f in freedoms if f), default=None)


def cost(cells: pd.DataFrame, config: dict) -> Table | None:
    """Time, memory and speed of each arm: its pretraining once, then its cells."""
    shown = Table(["arm", "#runs", "#seconds a run", "#device-hours in all", "#peak memory, MiB", "#samples/s"])
    for arm, about in config.get("pretraining", {}).items():
        spent = about.get("cost", {})
        memory = number(spent.get("device_memory_mib") or spent.get("peak_memory_mib"), 0)
        speed = number(spent.get("samples_per_s"), 1)
        shown.add(f"{arm}, pretraining", 1, number(spent.get("seconds"), 1), hours(spent), memory, speed)
    names = ["cost.seconds", "cost.peak_memory_mib", "cost.samples_per_s"]
    done = cells[cells["status"] == "finished"].reindex(columns=["config.arm", "config.mode", *names])
    for (arm, mode), group in done.groupby(["config.arm", "config.mode"], sort=False):
        seconds, memories, speeds = (pd.to_numeric(group[n], errors="coerce") for n in names)
        times = number(seconds.mean(), 1), number(seconds.sum() / 3600)
        shown.add(figures.named(arm, mode), len(group), *times, number(memories.max(), 0), number(speeds.mean(), 1))
    return shown if shown.rows else None


def cell_counts(cells: pd.DataFrame, config: dict) -> Table:
    """How many cells are in which state, and how many of those planned have not begun."""
    shown = Table(["status", "#cells"])
    for status, count in cells["status"].value_counts().items():
        shown.add(STATUSES.get(str(status), status), count)
    if (rest := config.get("cells", 0) - len(cells)) > 0:
        shown.add("not started", rest)
    return shown


def troubles(cells: pd.DataFrame, damaged: list[str]) -> Table | None:
    """Every cell that is not finished and whole, with the reason; damaged: ids, unreadable predictions."""
    shown = Table(["=cell", "=arm", "=budget", "#draw", "status", "reason"])
    columns = ["id", "config.arm", "config.mode", "config.budget_name", "config.draw", "status", "reason"]
    for run_id, arm, mode, budget, draw, status, reason in cells.reindex(columns=columns).itertuples(index=False):
        if status == "finished" and run_id not in damaged:
            continue
        told = "predictions cannot be read" if run_id in damaged else "" if pd.isna(reason) else str(reason)
        which = ("–", "–") if pd.isna(arm) else (figures.named(arm, mode), budget)
        shown.add(run_id, *which, number(draw, 0), STATUSES.get(status, status), without_paths(told))
    return shown if shown.rows else None


def protocol(points: dict[str, dict[str, Any]]) -> Table | None:
    """The record's points of an honest study: met, not met or not applicable, with the evidence."""
    shown = Table(["#", "=point", "=", "evidence"])
    words = {True: ("met", "better"), False: ("not met", "worse"), None: ("not applicable", "")}
    known = [name for name in PROTOCOL if name in points]
    for place, name in enumerate([*known, *(name for name in points if name not in known)], 1):
        point = points[name]
        word, tone = words[point.get("met")]
        shown.add(place, name, word, without_paths(str(point.get("evidence", ""))), tones={2: tone})
    return shown if points else None


def provenance(run: Run, cells: pd.DataFrame) -> Table:
    """Code, data, seeds and versions behind the numbers."""
    shown, config = Table(["=", ""]), run.config
    commits = {str(c) for c in cells.reindex(columns=["commit"])["commit"].dropna() if c} - {run.commit}
    started = pd.to_datetime(run.started, unit="s").strftime("%Y-%m-%d %H:%M") if run.started else ""
    facts = {
        "run": run.id,
        "commit": run.commit + (f" (cells also from {', '.join(sorted(commits))})" if commits else ""),
        "data (hash)": run.data,
        "seeds": f"study {run.seed}, split {config.get('split_seed', '–')}",
        "patients": ", ".join(f"{count} {role}" for role, count in config.get("patients", {}).items()),
        "started, UTC": started,
        "versions": ", ".join(f"{name} {release}" for name, release in run.versions.items()),
    }
    for name, value in facts.items():
        shown.add(name, without_paths(str(value)) or "–")
    return shown


def budgets(folder: Path) -> Table | None:
    """Real counts of training and validation patients in each budget, over its draws."""
    try:
        subsets = pd.read_parquet(folder / "subsets.parquet")
    except UNREADABLE:
        return None
    shown = Table(["budget", "#draws", "#training patients", "#validation patients"])
    for name, group in subsets.groupby("budget_name", sort=False):
        counts = pd.crosstab(group["draw"], group["role"]).reindex(columns=["train", "validation"], fill_value=0)
        shown.add(name, len(counts), _span(counts["train"]), _span(counts["validation"]))
    return shown


def without_paths(text: str) -> str:
    """The text with anything that looks like a path replaced: messages may hold what a user typed.

    >>> without_paths("cannot write /home/ann/scans/x.nii: disk is full, 3/4 done")
    'cannot write [path]: disk is full, 3/4 done'
    """
    return re.sub(r"(?<![\w.])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\]+[^\s/\\\"',;:]+){2,}[/\\]*", "[path]", text)


def number(value: Any, digits: int = 3) -> str:
    """A number with a real minus sign; a dash where there is none."""
    known = value is not None and np.isfinite(float(value))
    return f"{float(value):,.{digits}f}".replace("-", "−") if known else "–"


def interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}" if np.isfinite(low) else "–"


def metric_name(name: str) -> str:
    """A metric as it is written: `hd95_mm.1` is `HD95, mm (1)`, of structure 1."""
    kind, _, structure = name.partition(".")
    return METRICS.get(kind, kind.replace("_", " ")) + (f" ({structure})" if structure else "")


def signed_row(row: Any) -> str:
    """A row's difference against scratch with its interval."""
    return figures.signed(row.difference, row.difference_low, row.difference_high)


def hours(spent: dict[str, Any]) -> str:
    """Device-hours of one record's cost."""
    seconds = spent.get("seconds")
    return number(float(seconds) / 3600 * float(spent.get("devices") or 1)) if seconds else "–"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _saved(found: stats.LabelsSaved, least: float) -> tuple[str, str, str]:
    """Budget, interval and share in words; what lies at the smallest budget may lie below it."""
    below = found.budget == least
    budget = f"{found.budget:.3g}{' or fewer' if below else ''}" if np.isfinite(found.budget) else "not reached"
    share = f"{100 * found.share:.0f}%{' or more' if below else ''}" if np.isfinite(found.share) else "none"
    if np.isnan(found.low) or np.isinf(found.low):
        return budget, "–", share
    if found.low == least and np.isinf(found.high):
        return "–", "any number", "–"  # nothing is known, so nothing is claimed
    if found.low == least:
        return budget, f"up to {found.high:.3g}", share
    return (
        budget,
        f"{found.low:.3g} to {found.high:.3g}" if np.isfinite(found.high) else f"{found.low:.3g} or more",
        share,
    )


def _span(counts: Iterable[int]) -> str:
    values = sorted(counts)
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
