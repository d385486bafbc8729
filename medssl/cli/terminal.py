"""Results of commands as text on a terminal."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.table import Table

from medssl.core.progress import PlainConsole
from medssl.core.runs import Run

ONE_RUN = "one pretraining run is behind the arm, so interval and p are about this run, not about its method"
console = PlainConsole(width=shutil.get_terminal_size((120, 40)).columns)


def show_result(command: str, value: Any, settings: dict[str, Any]) -> int:
    """Print what a command returned.

    Args:
        command: Name of the command.
        value: The value that the command's function returned.
        settings: The arguments of that function.

    Returns:
        The exit code: 3 if scans were rejected, else 0.
    """
    if command == "index":
        return _show_manifest(value, Path(settings["out"]))
    if command == "prepare":
        return _show_cache(value, Path(settings["out"]))
    if command == "study":
        console.print(study_table(value))
        if settings.get("design") and settings["design"].selection:
            console.print(selection_table(pd.read_parquet(Path(settings["out"]) / "selection.parquet")))
    elif isinstance(value, Run):
        _show_run(value, settings)
    elif isinstance(value, pd.DataFrame):
        console.print(value.to_string(max_rows=20, max_cols=10))
        if "pretraining_runs" in value and (value["pretraining_runs"] == 1).any():
            console.print(f"pretraining_runs 1: {ONE_RUN}", soft_wrap=True)
        if "status" in value and (value["status"] != "ok").any():
            console.print(f"{int((value['status'] != 'ok').sum())} scans were rejected")
            return 3
    elif isinstance(value, Table) or hasattr(value, "__rich__"):
        console.print(value)
    elif isinstance(value, list):
        console.print("\n".join(value), highlight=False, soft_wrap=True)
    elif value is not None:
        console.print(str(value), highlight=False, soft_wrap=True)
    return 0


def study_table(summary: pd.DataFrame) -> Table:
    """A study's table for the terminal.

    Args:
        summary: The table that `study` returned.

    Returns:
        The primary metric of each arm and budget with its interval, and the paired difference from scratch; "this run" beside an arm
        with one pretraining run.
    """
    primary = summary[summary["metric"].isin(("dice", "auroc"))]
    metric = primary["metric"].iloc[0] if len(primary) else "score"
    table = Table(title=f"{metric}: mean [95% interval], paired difference against scratch, p (Holm)")
    with_trials = "trials" in primary and primary["trials"].notna().any()
    captions = [f"this run: {ONE_RUN}"] if (primary["pretraining_runs"] == 1).any() else []
    if with_trials:
        captions.append(
            "trials: settings tried in each cell; 0 where the budget has too few patients: the fixed recipe"
        )
    table.caption = "\n".join(captions) or None
    names = ["budget", "patients", "scans", "draws", "arm", metric, "difference", "p"]
    for name in [*names, "trials"] if with_trials else names:
        table.add_column(name, justify="left" if name in ("budget", "arm") else "right", no_wrap=True)
    for _, row in primary.sort_values(["budget", "arm", "mode"], kind="stable").iterrows():
        table.add_row(
            row["budget_name"],
            str(row["patients"]),
            f"{row['scans']:.0f}",
            str(row["draws"]),
            _arm(row),
            _interval(row, "mean", "low", "high"),
            _interval(row, "difference", "difference_low", "difference_high", "+"),
            _p_value(row.get("p_holm")),
            *([f"{row['trials']:g}" if pd.notna(row["trials"]) else ""] if with_trials else []),
        )
    return table


def selection_table(compared: pd.DataFrame) -> Table:
    """A study's comparison of selectors for the terminal.

    Args:
        compared: The table in the study's `selection.parquet`.

    Returns:
        Of each selector its mean, that of the random draws, and the difference with its interval.
    """
    table = Table(title="patients chosen by a selector: mean, random draws, difference [95% interval], p (Holm)")
    names = ("budget", "patients", "selector", "arm", "mean", "random", "difference", "p", "above")
    for name in names:
        justify: Literal["left", "right"] = "left" if name in ("budget", "selector", "arm") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in compared.to_dict("records"):
        table.add_row(
            row["budget_name"],
            str(row["patients"]),
            row["selector"],
            _arm(row),
            f"{row['mean']:.3f}",
            f"{row['random_mean']:.3f}",
            _interval(row, "difference", "low", "high", "+"),
            _p_value(row["p_holm"]),
            f"{row['beaten']} of {row['draws']}",
        )
    return table


def _arm(row: Any) -> str:
    name = row["arm"] if row["mode"] == "finetune" else f"{row['arm']} {row['mode']}"
    return f"{name} (this run)" if row["pretraining_runs"] == 1 else name


def _interval(row: Any, mean: str, low: str, high: str, sign: str = "") -> str:
    value = row.get(mean, math.nan)
    if value is None or math.isnan(value):
        return ""
    if math.isnan(row[low]):
        return f"{value:{sign}.3f} [no interval]"
    return f"{value:{sign}.3f} [{row[low]:{sign}.3f}, {row[high]:{sign}.3f}]"


def _p_value(value: Any) -> str:
    return "" if value is None or math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _show_manifest(manifest: pd.DataFrame, out: Path) -> int:
    from medssl.datasets.manifest import rejects_table

    rejected = int((manifest["status"] != "ok").sum())
    console.print(f"{len(manifest) - rejected} scans of {manifest['patient'].nunique()} patients; {rejected} rejected")
    if rejected:
        console.print(rejects_table(out))
    return 3 if rejected else 0


def _show_cache(cache: Any, out: Path) -> int:
    from medssl.datasets.manifest import read_table

    manifest = read_table(out / "manifest.parquet")
    rejected = manifest[manifest["status"] != "ok"]
    patients = cache.manifest["patient"].nunique()
    console.print(f"{len(cache.manifest)} scans of {patients} patients ready; {len(rejected)} rejected")
    for _, row in rejected.iterrows():
        console.print(f"  {row['scan']}: {row['reason']}")
    return 3 if len(rejected) else 0


def _show_run(run: Run, settings: dict[str, Any]) -> None:
    if run.status == "running":  # this process trained on a further device: the first one records the run and shows it
        return
    numbers = ", ".join(f"{k} {v:.3f}" for k, v in run.metrics.items() if isinstance(v, float))
    place = settings["out"] if settings.get("seeds") is None else f"{settings['out']}-{run.seed}"
    console.print(
        f"{run.kind} {run.id} {run.status} in {run.cost.get('seconds', 0):.0f} s: {place}\n{numbers}",
        highlight=False,
    )
