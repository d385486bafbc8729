"""Prints the tables of a page of results as Markdown: `python -m tests.docs.study_tables STUDY --name long_run=run`.

The first table has what each budget and arm scored, the second what share of the gap to all labels an arm closes and how many patients
scratch needs for the same score. Numbers are those of the study's record and of `medssl report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medssl.core.runs import read, table
from medssl.reporting import tables
from medssl.reporting.style import arm_name, p_value
from medssl.studies.results import cases_of, cells_of, label_curves, summary_of
from medssl.training.tasks import task_named


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_brackets(mean: float, low: float, high: float, signed: bool = False) -> str:
    """A number with its interval; bold where an interval of a difference excludes zero."""
    if pd.isna(mean):
        return ""
    sign = "+" if signed else ""
    text = f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"**{text}**" if signed and (low > 0 or high < 0) else text


def score_rows(main: pd.DataFrame) -> list[list[str]]:
    """One row a budget, arm and mode of the primary metric's summary."""
    return [
        [
            row.budget_name,
            f"{row.patients:g}",
            f"{row.scans:.4g}",
            f"{row.draws:g}",
            arm_name(row.arm, row.mode),
            in_brackets(row.mean, row.low, row.high),
            in_brackets(row.difference, row.difference_low, row.difference_high, signed=True),
            p_value(row.p) if pd.notna(row.p) else "",
            p_value(row.p_holm) if pd.notna(row.p_holm) else "",
            f"{row.last_third:+.3f}" if pd.notna(row.last_third) else "",
            f"{row.labelled_samples:,.0f} + {row.unlabelled_samples:,.0f}",
        ]
        for row in main.sort_values("patients", kind="stable").itertuples()
    ]


def study_tables(folder: Path) -> str:
    """Both tables of a finished study.

    Args:
        folder: Of the study.
    """
    run = read(folder)
    task = task_named(run.config["task"])
    cells = cells_of(table(folder / "cells"), run)
    cases, damaged = cases_of(folder, cells)
    summary = summary_of(folder, run, cells, damaged)
    main = summary[summary["metric"] == task.metric.name]
    header = [
        "budget",
        "patients",
        "scans",
        "draws",
        "arm",
        f"{task.metric.name} [95%]",
        "difference from scratch [95%]",
    ]
    header += ["p", "p (Holm)", "last third", "labelled + unlabelled samples"]
    parts = [markdown(header, score_rows(main))]
    gap = tables.gap_closed(label_curves(cases, main, task.metric))
    if gap is not None:
        budget, rows = "", []
        for row in gap.rows:
            texts = [cell["text"] for cell in row["cells"]]
            budget = texts[0] or budget
            rows.append([budget, *texts[1:]])
        parts.append(markdown(gap.names, rows))
    hours = pd.to_numeric(cells["cost.seconds"], errors="coerce").sum() / 3600
    parts.append(f"{len(cells)} cells, {hours:.2f} core-hours")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--name", nargs="*", default=[], metavar="OLD=NEW", help="what an arm is called on the page")
    given = parser.parse_args()
    text = study_tables(given.study)
    for each in given.name:
        text = text.replace(*each.split("=", 1))
    print(text)


if __name__ == "__main__":
    main()
