"""How results look on a terminal."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from medssl.core.runs import Run

console = Console(width=shutil.get_terminal_size((120, 40)).columns)


def result(command: str, value: Any, settings: dict[str, Any]) -> int:
    """Print what a command returned; the exit code is 3 where scans were rejected, else 0."""
    if command == "index":
        return _index(value, Path(settings["out"]))
    if command == "prepare":
        return _prepared(value, Path(settings["out"]))
    if command == "study":
        console.print(study_table(value))
    elif isinstance(value, Run):
        _run(value, settings)
    elif isinstance(value, pd.DataFrame):
        console.print(value.to_string(max_rows=20, max_cols=10))
        if "status" in value and (value["status"] != "ok").any():
            console.print(f"{int((value['status'] != 'ok').sum())} scans were rejected")
            return 3
    elif isinstance(value, Table):
        console.print(value)
    elif isinstance(value, list):
        console.print("\n".join(value), highlight=False, soft_wrap=True)
    elif value is not None:
        console.print(str(value), highlight=False, soft_wrap=True)
    return 0


def study_table(summary: pd.DataFrame) -> Table:
    """The primary metric of each arm and budget with its interval, and the paired difference against scratch."""
    rows = summary[summary["metric"].isin(("dice", "auroc"))]
    metric = rows["metric"].iloc[0] if len(rows) else "score"
    table = Table(title=f"{metric}: mean [95% interval], paired difference against scratch, p (Holm)")
    for name in ("budget", "patients", "scans", "draws", "arm", metric, "difference", "p"):
        table.add_column(name, justify="left" if name in ("budget", "arm") else "right", no_wrap=True)
    ordered = rows.sort_values(["budget", "arm", "mode"], kind="stable")
    for _, r in ordered.iterrows():
        arm = r["arm"] if r["mode"] == "finetune" else f"{r['arm']} {r['mode']}"
        table.add_row(
            r["budget_name"], str(r["patients"]), f"{r['scans']:.0f}", str(r["draws"]), arm, _interval(r, "mean", "low", "high"),
            _interval(r, "difference", "difference_low", "difference_high", "+"), _p(r.get("p_holm")),
        )  # fmt: skip
    return table


def _interval(row: Any, mean: str, low: str, high: str, sign: str = "") -> str:
    value = row.get(mean, math.nan)
    if value is None or math.isnan(value):
        return ""
    if math.isnan(row[low]):
        return f"{value:{sign}.3f} [no interval]"
    return f"{value:{sign}.3f} [{row[low]:{sign}.3f}, {row[high]:{sign}.3f}]"


def _p(value: Any) -> str:
    return "" if value is None or math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _index(manifest: pd.DataFrame, out: Path) -> int:
    from medssl.datasets.manifest import rejects_table

    rejected = int((manifest["status"] != "ok").sum())
    console.print(f"{len(manifest) - rejected} scans of {manifest['patient'].nunique()} patients; {rejected} rejected")
    if rejected:
        console.print(rejects_table(out))
    return 3 if rejected else 0


def _prepared(cache: Any, out: Path) -> int:
    everything = pd.read_parquet(out / "manifest.parquet")
    rejected = everything[everything["status"] != "ok"]
    ready = cache.manifest
    console.print(f"{len(ready)} scans of {ready['patient'].nunique()} patients ready; {len(rejected)} rejected")
    for _, row in rejected.iterrows():
        console.print(f"  {row['scan']}: {row['reason']}")
    return 3 if len(rejected) else 0


def _run(run: Run, settings: dict[str, Any]) -> None:
    numbers = ", ".join(f"{k} {v:.3f}" for k, v in run.metrics.items() if isinstance(v, float))
    console.print(
        f"{run.kind} {run.id} {run.status} in {run.cost.get('seconds', 0):.0f} s: {settings['out']}\n{numbers}",
        highlight=False,
    )
