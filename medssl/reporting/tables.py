"""Tables of the report and the dashboard: the data of a study, formatted to be read.

    table = scores(main)
    table.rows[0]["cells"]      # [{"text": "5%", "tone": ""}, {"text": "scratch, fine-tuned", ...
    table.frame()               # the same text as a DataFrame

A table holds text as it is read; a template or a page only arranges it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.runs import Run
from medssl.evaluation.forecast import FARTHEST
from medssl.evaluation.label_curves import GapClosed, LabelsSaved
from medssl.reporting.redaction import without_paths
from medssl.reporting.style import (
    arm_name,
    difference,
    interval,
    metric_name,
    number,
    p_value,
    scoped_arm,
    span,
    status_name,
)
from medssl.studies.forecast import ArmForecast
from medssl.studies.protocol import POINTS
from medssl.studies.results import LabelCurve, pretraining_of


@dataclass
class Table:
    """Text in columns, with footnotes.

    A column whose name begins with `#` holds numbers, one that begins with `=` text that is not broken over lines.
    """

    columns: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of the columns as they are read."""
        return [column.lstrip("#=") for column in self.columns]

    @property
    def note_column(self) -> int:
        """The column that carries the numbers of the footnotes: the arm's, or else the first."""
        return self.columns.index("=arm") if "=arm" in self.columns else 0

    def add(self, *cells: Any, note: str = "", tones: dict[int, str] | None = None, first: bool = False) -> None:
        """Add one row.

        Args:
            cells: One value per column.
            note: A footnote to the row.
            tones: Number of a column -> `better` or `worse`, which colours that cell.
            first: Whether the row begins a group, and is separated from the row above it by a line.
        """
        texts = [{"text": str(cell), "tone": (tones or {}).get(i, "")} for i, cell in enumerate(cells)]
        if note and note not in self.notes:
            self.notes.append(note)
        mark = str(self.notes.index(note) + 1) if note else ""
        self.rows.append({"cells": texts, "first": first, "mark": mark})

    def frame(self) -> pd.DataFrame:
        """Return the text as a DataFrame; further columns of the same name get blanks behind it."""
        names = [name + " " * self.names[:place].count(name) for place, name in enumerate(self.names)]
        return pd.DataFrame([[cell["text"] for cell in row["cells"]] for row in self.rows], columns=names)


def scores(main: pd.DataFrame) -> Table | None:
    """Format the summary's rows of the primary metric, by budget; last third: what that part of training changed the mean by."""
    if main.empty:
        return None
    counts = ["#patients", "#scans", "#draws"]
    table = Table(
        [
            "=budget",
            "=arm",
            *counts,
            "#mean",
            "#95% interval",
            "#minus scratch",
            "#p",
            "#p, Holm",
            "#minus own start",
            "#last third",
        ]
    )
    previous = None
    for row in main.sort_values("patients", kind="stable").itertuples():
        first, previous = row.budget_name != previous, row.budget_name
        table.add(
            row.budget_name if first else "",
            scoped_arm(row.arm, row.mode, row.pretraining_runs),
            f"{row.patients:g}",
            f"{row.scans:.4g}",
            f"{row.draws:g}",
            number(row.mean),
            interval(row.low, row.high),
            difference(row.difference, row.difference_low, row.difference_high),
            p_value(row.p),
            p_value(row.p_holm),
            difference(row.start_difference, row.start_low, row.start_high),
            f"{row.last_third:+.3f}" if pd.notna(row.last_third) else "–",
            note="" if pd.isna(row.note) else row.note,
            tones={7: "better" if row.difference_low > 0 else "worse" if row.difference_high < 0 else ""},
            first=first,
        )
    return table


def selection(compared: pd.DataFrame) -> Table | None:
    """Format how selectors compare with the random draws; compared: as from `studies.results.selection_of`."""
    if compared.empty:
        return None
    counts = ["#patients", "#seeds", "#draws"]
    names = ["=budget", "=arm", "=selector", *counts, "#mean", "#mean of random draws", "#minus random draws"]
    table = Table([*names, "#p", "#p, Holm", "#above random draws"])
    previous = None
    for row in compared.sort_values("patients", kind="stable").itertuples():
        first, previous = row.budget_name != previous, row.budget_name
        table.add(
            row.budget_name if first else "",
            scoped_arm(row.arm, row.mode, row.pretraining_runs),
            row.selector,
            f"{row.patients:g}",
            f"{row.seeds:g}",
            f"{row.draws:g}",
            number(row.mean),
            number(row.random_mean),
            difference(row.difference, row.low, row.high),
            p_value(row.p),
            p_value(row.p_holm),
            f"{row.beaten:g} of {row.draws:g}",
            note="" if pd.isna(row.note) else row.note,
            tones={8: "better" if row.low > 0 else "worse" if row.high < 0 else ""},
            first=first,
        )
    return table


def trials(cells: pd.DataFrame) -> Table | None:
    """Format what the trials of each budget and arm chose, and what they cost; cells: the study's rows of `runs.table`."""
    names = [
        "budget_name",
        "arm",
        "patients",
        "tried",
        "no_trials",
        "chosen.lr",
        "chosen.encoder_share",
        "chosen.steps",
    ]
    done = cells[(cells["status"] == "finished")].reindex(
        columns=["cost.trial_samples", *(f"config.{name}" for name in names)]
    )
    asked = done[done["config.tried"].notna() | (done["config.no_trials"].astype(object).fillna("") != "")]
    if asked.empty:
        return None
    table = Table(["=budget", "=arm", "#cells", "#trials", "#labelled samples in trials", "chosen (cells)"])
    by, previous = ["config.patients", "config.budget_name", "config.arm"], None
    for (_, budget, arm), group in asked.groupby(by, sort=True):
        first, previous = budget != previous, budget
        counts = [len(tried) if isinstance(tried, list) else 0 for tried in group["config.tried"]]
        samples = number(pd.to_numeric(group["cost.trial_samples"], errors="coerce").mean(), 0)
        reasons = [reason for reason in dict.fromkeys(group["config.no_trials"]) if isinstance(reason, str) and reason]
        cell = (budget if first else "", arm, len(group), span(counts), samples, _chosen_settings(group))
        table.add(*cell, note="; ".join(reasons), first=first)
    return table


def _chosen_settings(group: pd.DataFrame) -> str:
    """The settings that the trials chose, the most frequent first, with the number of cells."""
    columns = [f"config.chosen.{name}" for name in ("lr", "encoder_share", "steps")]
    texts = [
        f"lr {lr:.2g}, encoder share {share:.2g}, {steps:g} steps" if pd.notna(lr) else "the recipe"
        for lr, share, steps in group[columns].astype(float).itertuples(index=False)
    ]
    return "; ".join(f"{text} ({count})" for text, count in Counter(texts).most_common())


def other_metrics(rows: pd.DataFrame) -> list[Table]:
    """Format the means of the metrics that were not compared: one table a metric with structures, one for the rest."""
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(rows["metric"]):
        kind, _, structure = name.partition(".")
        kinds.setdefault(kind if structure else "", []).append(name)
    return [_means(rows[rows["metric"].isin(names)], names) for names in kinds.values()]


def _means(rows: pd.DataFrame, names: list[str]) -> Table:
    table = Table(["=budget", "=arm", *(f"#{metric_name(name)}" for name in names)])
    previous = None
    by = ["patients", "budget_name", "arm", "mode"]
    for (_, budget, arm, mode), group in rows.sort_values("patients", kind="stable").groupby(by, sort=False):
        means = dict(zip(group["metric"], group["mean"]))
        first, previous = budget != previous, budget
        values = (number(means.get(name), 1 if name.startswith("hd95") else 3) for name in names)
        table.add(budget if first else "", arm_name(arm, mode), *values, first=first)
    return table


def labels_saved(curves: list[LabelCurve] | None, main: pd.DataFrame) -> tuple[Table | None, str, str]:
    """Format the labels saved and the area under the label curve of every arm with two budgets or more.

    Args:
        curves: As from `studies.results.label_curves`.
        main: The summary's rows of the primary metric.

    Returns:
        The table, the reason where there is none, and the score to reach in words.
    """
    if curves is None:
        return None, "This needs two budgets or more, and scratch at the largest of them.", ""
    names = ["=arm", "#patients needed", "#95% interval", "#labels saved"]
    table = Table([*names, "#area", "#95% interval", "#area minus scratch"])
    for curve in curves:
        if curve.area is None:
            continue
        texts = _labels_saved_texts(curve.saved, curve.patients[0]) if curve.saved else ("", "", "")
        gain = curve.difference and difference(curve.difference.mean, curve.difference.low, curve.difference.high)
        cells = (*texts, number(curve.area.mean), interval(curve.area.low, curve.area.high), gain or "")
        name = scoped_arm(curve.arm, curve.mode, curve.pretraining_runs)
        table.add(name, *cells, note=(curve.saved or curve.area).note)
    patients = main["patients"].max()
    full = main.loc[(main["arm"] == "scratch") & (main["patients"] == patients), "mean"]
    reached = f"{patients:g} patients, {number(full.iloc[0])}" if len(full) else ""
    return (table if table.rows else None), "No arm was run at two budgets.", reached


def gap_closed(curves: list[LabelCurve] | None) -> Table | None:
    """Format, by budget, the share of the gap to all labels that each arm closes and the patients that scratch needs.

    Args:
        curves: As from `studies.results.label_curves`.
    """
    gains = [(curve, gain) for curve in curves or [] for gain in curve.gains]
    budgets = dict.fromkeys(gain.budget for _, gain in gains)
    table = Table(["=budget", "=arm", "#gap closed", "#95% interval", "#scratch needs", "#95% interval"])
    for budget in budgets:
        for place, (curve, gain) in enumerate((c, g) for c, g in gains if g.budget == budget):
            needs = _labels_saved_texts(gain.scratch_needs, _smallest_budget(curves))[:2]
            texts = (*_gap_closed_texts(gain.gap), *needs)
            first = place == 0
            name = scoped_arm(curve.arm, curve.mode, curve.pretraining_runs)
            table.add(budget if first else "", name, *texts, note=gain.gap.note, first=first)
    return table if table.rows else None


def _smallest_budget(curves: list[LabelCurve] | None) -> float:
    """In patients, of scratch."""
    return min((curve.patients[0] for curve in curves or [] if curve.arm == "scratch"), default=0.0)


def forecasts(arms: list[ArmForecast]) -> Table | None:
    """Format what twice and four times the labels would buy each arm, and the test of its forecast."""
    table = Table(["=arm", "#twice the labels", "#four times the labels", "#largest budget, predicted", "#measured"])
    for arm in arms:
        if (curve := arm.forecast) is None:
            continue
        ahead = [curve.at(factor * curve.sizes[-1]) for factor in (2.0, FARTHEST)]
        texts = [f"{number(each.mean)} [{interval(each.low, each.high)}]" for each in ahead]
        test = curve.backtest
        tested = f"{number(test.predicted.mean)} [{interval(test.predicted.low, test.predicted.high)}]" if test else "–"
        note = "" if test else "three budgets: none can be hidden to test the forecast"
        if test and not test.covered:
            note = "the hidden budget lies outside of its predicted band: do not rely on this forecast"
        name = scoped_arm(arm.arm, arm.mode, arm.pretraining_runs)
        table.add(name, *texts, tested, number(test.true) if test else "–", note=note)
    return table if table.rows else None


def cost(cells: pd.DataFrame, config: dict) -> Table | None:
    """Format time, memory and speed of each arm: its pretraining runs once, then its cells."""
    crops = ["#labelled samples a run", "#unlabelled samples a run"]
    table = Table(["arm", "#runs", "#seconds a run", "#device-hours in all", "#peak memory, MiB", "#samples/s", *crops])
    counted: set[str] = set()  # a run that several arms start from is counted once
    for arm, each in pretraining_of(config).items():
        fresh = [run for run in each if run.get("id", arm) not in counted]
        counted |= {run.get("id", arm) for run in fresh}
        if fresh:
            spent = [run.get("cost") or {} for run in fresh]
            passed = _pretraining_samples(config["pretraining"][arm], spent[0])
            table.add(f"{arm}, pretraining", len(fresh), *_pretraining_cost(spent), 0, passed)
    names = [f"cost.{name}" for name in ("seconds", "peak_memory_mib", "samples_per_s")]
    names += [f"cost.{name}" for name in ("labelled_samples", "unlabelled_samples")]
    done = cells[cells["status"] == "finished"].reindex(columns=["config.arm", "config.mode", *names])
    for (arm, mode), group in done.groupby(["config.arm", "config.mode"], sort=False):
        seconds, memories, speeds, *samples = (pd.to_numeric(group[name], errors="coerce") for name in names)
        times = number(seconds.mean(), 1), number(seconds.sum() / 3600)
        counts = (number(each.mean(), 0) for each in samples)
        table.add(arm_name(arm, mode), len(group), *times, number(memories.max(), 0), number(speeds.mean(), 1), *counts)
    return table if table.rows else None


def _pretraining_cost(spent: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Format the mean seconds, the device-hours in all, the peak memory and the mean speed of an arm's pretraining runs."""
    memory = [each.get("device_memory_mib") or each.get("peak_memory_mib") for each in spent]
    columns = pd.DataFrame(
        [{name: each.get(name) for name in ("seconds", "samples_per_s", "devices")} for each in spent]
    )
    columns = columns.apply(pd.to_numeric, errors="coerce").assign(memory=pd.to_numeric(pd.Series(memory)))
    hours = (columns["seconds"] * columns["devices"].fillna(1)).sum(min_count=1) / 3600
    return (
        number(columns["seconds"].mean(), 1),
        number(hours),
        number(columns["memory"].max(), 0),
        number(columns["samples_per_s"].mean(), 1),
    )


def _pretraining_samples(about: dict[str, Any], cost: dict[str, Any]) -> str:
    """Format the samples that a pretraining run passed, counted by scan and not by view."""
    names = ("steps", "batch_size", "accumulate")
    counts = [about.get(name) for name in names]
    if not all(isinstance(count, int) for count in counts):
        return "–"
    devices = cost.get("devices")
    return number(math.prod(counts) * (devices if isinstance(devices, int) else 1), 0)  # type: ignore[arg-type]


def device_hours(cost: dict[str, Any]) -> str:
    """Format the device-hours of one record's cost."""
    seconds = cost.get("seconds")
    return number(float(seconds) / 3600 * float(cost.get("devices") or 1)) if seconds else "–"


def cell_counts(cells: pd.DataFrame, config: dict) -> Table:
    """Count the cells in each state, and those planned that have not begun."""
    table = Table(["status", "#cells"])
    for status, count in cells["status"].value_counts().items():
        table.add(status_name(status), count)
    if (rest := config.get("cells", 0) - len(cells)) > 0:
        table.add("not started", rest)
    return table


def incomplete_cells(cells: pd.DataFrame, damaged: list[str]) -> Table | None:
    """List every cell that is not finished and whole, with the reason.

    Args:
        cells: The study's rows of `runs.table`.
        damaged: The ids of finished cells whose predictions cannot be read.
    """
    table = Table(["=cell", "=arm", "=budget", "#draw", "status", "reason"])
    columns = ["id", *(f"config.{name}" for name in ("arm", "mode", "budget_name", "selector", "draw"))]
    columns += ["status", "reason"]
    for run_id, arm, mode, budget, selector, draw, status, reason in cells.reindex(columns=columns).itertuples(
        index=False
    ):
        if status == "finished" and run_id not in damaged:
            continue
        why = "predictions cannot be read" if run_id in damaged else "" if pd.isna(reason) else str(reason)
        place = budget if pd.isna(selector) else f"{budget}, {selector}"
        identity = ("–", "–") if pd.isna(arm) else (arm_name(arm, mode), place)
        table.add(run_id, *identity, number(draw, 0), status_name(status), without_paths(why))
    return table if table.rows else None


def unreadable_runs(reasons: dict[str, str]) -> Table | None:
    """List the runs that cannot be shown; reasons: folder -> reason."""
    table = Table(["run", "reason"])
    for name, reason in reasons.items():
        table.add(name, without_paths(reason))
    return table if table.rows else None


def protocol(points: dict[str, dict[str, Any]]) -> Table | None:
    """List the points of an honest study: met, not met or not applicable, with the evidence."""
    table = Table(["#", "=point", "=", "evidence"])
    verdicts = {True: ("met", "better"), False: ("not met", "worse"), None: ("not applicable", "")}
    known = [name for name in POINTS if name in points]
    for place, name in enumerate([*known, *(name for name in points if name not in known)], 1):
        verdict, tone = verdicts[points[name].get("met")]
        evidence = without_paths(str(points[name].get("evidence", "")))
        table.add(place, name, verdict, evidence, tones={2: tone})
    return table if points else None


def provenance(run: Run, cells: pd.DataFrame) -> Table:
    """List the code, data, seeds and versions that produced the numbers."""
    table, config = Table(["=", ""]), run.config
    commits = {str(commit) for commit in cells.reindex(columns=["commit"])["commit"].dropna() if commit} - {run.commit}
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
        table.add(name, without_paths(str(value)) or "–")
    return table


def budgets(subsets: pd.DataFrame | None) -> Table | None:
    """Count the training and validation patients in each budget, over its draws; subsets: one row per patient and draw."""
    if subsets is None:
        return None
    table = Table(["budget", "#draws", "#training patients", "#validation patients"])
    for name, group in subsets.groupby("budget_name", sort=False):
        counts = pd.crosstab(group["draw"], group["role"]).reindex(columns=["train", "validation"], fill_value=0)
        table.add(name, len(counts), span(counts["train"]), span(counts["validation"]))
    return table


def _gap_closed_texts(gap: GapClosed) -> tuple[str, str]:
    """The share and its interval, in percent."""
    share = "–" if np.isnan(gap.share) else f"{100 * gap.share:.0f}%"
    return share, "–" if np.isnan(gap.low) else f"{100 * gap.low:.0f} to {100 * gap.high:.0f}%"


def _labels_saved_texts(saved: LabelsSaved, smallest_budget: float) -> tuple[str, str, str]:
    """Budget, interval and share as text; what lies at the smallest budget may lie below it."""
    below = saved.budget == smallest_budget
    budget = f"{saved.budget:.3g}{' or fewer' if below else ''}" if np.isfinite(saved.budget) else "not reached"
    share = f"{100 * saved.share:.0f}%{' or more' if below else ''}" if np.isfinite(saved.share) else "none"
    if np.isnan(saved.low) or np.isinf(saved.low):
        return budget, "–", share
    if saved.low == smallest_budget and np.isinf(saved.high):
        return "–", "any number", "–"  # nothing is known, so nothing is claimed
    if saved.low == smallest_budget:
        return budget, f"up to {saved.high:.3g}", share
    interval_text = f"{saved.low:.3g} to {saved.high:.3g}" if np.isfinite(saved.high) else f"{saved.low:.3g} or more"
    return budget, interval_text, share
