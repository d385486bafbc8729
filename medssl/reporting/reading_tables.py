"""What readings add up to, as tables and one sentence; the numbers are those of `dashboard/reading_results.py`."""

from __future__ import annotations

import pandas as pd

from medssl.reporting.style import METRICS, arm_name, counted, interval, number, scoped_arm
from medssl.reporting.tables import Table

PREFERENCES = "A patient has one vote: what most of its readings say. The share is of the patients who are decided, with Wilson's 95% interval."
AGREEMENT = (
    "1 is full agreement, 0 that of chance. Kappa's 95% intervals are over patients (1,000 samples), that of ICC(2, 1) is McGraw and "
    "Wong's; a dash stands where there are too few patients, or all answers are the same."
)
QUESTIONS = {"grade": "grades", "prefer": "preference", "fit": "fit for use", "class": "right class"}


def sentence(answers: pd.DataFrame, preferred: pd.DataFrame) -> str:
    """Return what the readings say, in one sentence; answers: those that count."""
    about = f"{counted(answers['reader'].nunique(), 'reader')}, {counted(answers['scan'].nunique(), 'case')}"
    if len(preferred) != 1:
        return f"{about}."
    row = preferred.iloc[0]
    decided = row["better"] + row["worse"]
    arm, other = arm_name(row["arm"], row["mode"]), arm_name(row["other_arm"], row["other_mode"])
    if not decided:
        return f"{about}: no difference between {arm} and {other} in any patient."
    certain = row["low"] > 0.5 or row["high"] < 0.5
    doubt = "" if certain else "; the interval includes a half"
    return f"{about}: {arm} was preferred to {other} in {row['better']} of {decided} decided patients{doubt}."


def preferences(rows: pd.DataFrame) -> Table:
    """Format preferences of pairs of arms."""
    table = Table(
        ["=arm", "=over", "=budget", "#draw", "#patients", "#better", "#worse", "#equal", "#share", "#95% interval"]
    )
    for row in rows.itertuples():
        table.add(
            arm_name(row.arm, row.mode),
            arm_name(row.other_arm, row.other_mode),
            row.budget,
            row.draw,
            row.patients,
            row.better,
            row.worse,
            row.equal,
            number(row.share),
            interval(row.low, row.high),
        )
    return table


def grades(rows: pd.DataFrame) -> Table:
    """Format the grades of each arm and structure."""
    table = Table(
        ["=arm", "=budget", "=structure", "#readers", "#grades", "#mean, 1 to 5", "#4 or 5", "#masks fit for use"]
    )
    for row in rows.itertuples():
        table.add(
            arm_name(row.arm, row.mode),
            row.budget,
            f"structure {row.structure}" if row.structure else "all",
            row.readers,
            row.grades,
            number(row.mean, 2),
            number(row.at_least_4, 2),
            f"{row.fit} of {row.fit_asked}" if row.fit_asked else "–",
        )
    return table


def agreement(rows: pd.DataFrame) -> Table:
    """Format how far readers agree."""
    table = Table(["=question", "=statistic", "readers", "#items", "#value", "#95% interval"])
    for row in rows.itertuples():
        limits = interval(row.low, row.high)
        table.add(QUESTIONS[row.question], row.statistic, row.readers, row.items, number(row.value, 2), limits)
    return table


def forecast(rows: pd.DataFrame, metric: str) -> Table:
    """Format what more labels would buy."""
    name = METRICS[metric]
    table = Table(["=arm", f"#{name} now", "#patients then", f"#{name} then", "#95% band"])
    for row in rows.itertuples():
        arm = scoped_arm(row.arm, row.mode, row.pretraining_runs)
        table.add(arm, number(row.now), f"{row.patients:g}", number(row.mean), interval(row.low, row.high))
    return table
