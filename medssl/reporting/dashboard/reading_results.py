"""What readings add up to: which arm is preferred, the grades of each, how far readers agree, corrected classes.

    table = as_table(readings(engine, study.run.id))
    preferences(table), grades(table), agreement(table)
    changes, undecided = corrected_classes(table)

Only answers that count enter: neither undone nor replaced. A patient has one vote, whatever the number of scans and readers,
since Wilson's interval takes votes to be independent. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pandas as pd

from medssl.evaluation.agreement import (
    Estimate,
    fleiss_kappa,
    intraclass_correlation,
    over_patients,
    share_with_interval,
    weighted_kappa,
)

PREFERENCES = [
    *("arm", "mode", "other_arm", "other_mode", "budget", "draw"),
    *("patients", "better", "worse", "equal", "share", "low", "high"),
]
GRADES = ["arm", "mode", "budget", "structure", "readers", "grades", "mean", "at_least_4", "fit", "fit_asked"]
ITEMS = {  # what one answer is about, beside the patient
    "grade": ["scan", "run", "structure"],
    "prefer": ["scan", "runs"],
    "fit": ["scan", "run"],
    "class": ["scan"],
}
AGREEMENT = ["question", "statistic", "readers", "items", "value", "low", "high"]


def preferences(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a pair of arms: of how many patients the arm was better, worse or equal, and its share of the decided.

    Args:
        table: As from `readings.as_table`.
    """
    said = table[table["counts"] & (table["question"] == "prefer")]
    pairs = pd.Series([_pair_of(row) for row in said.itertuples()], index=said.index, dtype=object)
    rows = [_preference_row(pair, said[pairs.map(pair.__eq__)]) for pair in sorted(set(pairs))]
    return pd.DataFrame(rows, columns=PREFERENCES)


def grades(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row an arm, budget and structure: how it was graded, and how many masks are fit for use."""
    counted = table[table["counts"]]
    graded = counted[counted["question"] == "grade"]
    fit = counted[counted["question"] == "fit"].groupby(["arm", "mode", "budget"])["value"]
    yes, asked = fit.apply(lambda values: int((values == "yes").sum())), fit.size()
    rows: list[dict[str, Any]] = []
    for key, group in graded.groupby(["arm", "mode", "budget", "structure"], sort=True):
        arm, mode, budget, structure = key
        values = group["value"].astype(int)
        about = {"arm": arm, "mode": mode, "budget": budget, "structure": structure}
        shares = {"mean": values.mean(), "at_least_4": (values >= 4).mean()}
        fits = {"fit": yes.get(key[:3], 0), "fit_asked": asked.get(key[:3], 0)}
        rows.append(about | shares | fits | {"readers": group["reader"].nunique(), "grades": len(values)})
    return pd.DataFrame(rows, columns=GRADES)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return how far readers agree, for each question that two or more of them answered about the same items.

    Grades: Cohen's kappa with quadratic weights of each two readers; Fleiss' kappa and ICC(2, 1) of the items that all readers
    graded. Other questions: Fleiss' kappa. Intervals are over patients; that of ICC is McGraw and Wong's.
    """
    counted = table[table["counts"]]
    rows: list[dict[str, Any]] = []
    for question, items in ITEMS.items():
        answers = counted[counted["question"] == question]
        rows += _agreement_rows(question, _by_reader(answers, items)) if len(answers) else []
    return pd.DataFrame(rows, columns=AGREEMENT)


def corrected_classes(table: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Return scan -> the class that most readers gave, and the scans on which they are divided."""
    said = table[table["counts"] & (table["question"] == "class")]
    said = said.drop_duplicates(["reader", "scan"], keep="last")
    changes, undecided = {}, []
    for scan, values in said.groupby("scan")["value"]:
        counts = values.value_counts()
        if len(counts) > 1 and counts.iloc[0] == counts.iloc[1]:
            undecided.append(str(scan))
        else:
            changes[str(scan)] = str(counts.index[0])
    return changes, undecided


def _pair_of(row: Any) -> tuple[Any, ...]:
    """The two arms, whichever side each stood on, with their budget and draw."""
    first, second = sorted([(row.arm_a, row.mode_a), (row.arm_b, row.mode_b)])
    return (*first, *second, row.budget, row.draw)


def _preference_row(pair: tuple[Any, ...], votes: pd.DataFrame) -> dict[str, Any]:
    """The votes of patients: for the second arm of the pair, against it, or neither."""
    preferred = zip(votes["arm"], votes["mode"], strict=True)
    worth = {("", ""): 0, pair[:2]: -1, pair[2:4]: 1}
    votes_for = [worth[arm] for arm in preferred]
    net = pd.Series(votes_for, index=votes.index).groupby(votes["patient"]).sum()
    better, worse = int((net > 0).sum()), int((net < 0).sum())
    share = share_with_interval(better, better + worse)
    names = dict(zip(("other_arm", "other_mode", "arm", "mode", "budget", "draw"), pair, strict=True))
    counts = {"patients": len(net), "better": better, "worse": worse, "equal": len(net) - better - worse}
    return names | counts | {"share": share.value, "low": share.low, "high": share.high}


def _by_reader(answers: pd.DataFrame, items: list[str]) -> pd.DataFrame:
    """One row an item with its patient, one column a reader."""
    said = answers["value"].where(answers["question"] != "prefer", answers["run"])
    runs = [" ".join(sorted(pair)) for pair in zip(answers["run_a"], answers["run_b"], strict=True)]
    table = answers.assign(said=said.astype(str), runs=runs)
    return table.pivot_table(index=["patient", *items], columns="reader", values="said", aggfunc="last")


def _agreement_rows(question: str, wide: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    readers = list(wide.columns)
    if question == "grade":
        for first, second in combinations(readers, 2):
            rows += _row(question, "Cohen's kappa, quadratic weights", wide[[first, second]], _cohen, number=True)
    rows += _row(question, "Fleiss' kappa", wide, fleiss_kappa) if len(readers) > 1 else []
    if question == "grade" and len(readers) > 1:
        rows += _row(question, "ICC(2, 1)", wide, None, number=True)
    return rows


def _row(
    question: str,
    statistic: str,
    wide: pd.DataFrame,
    compute: Callable[[Any], float] | None,
    number: bool = False,
) -> list[dict[str, Any]]:
    """One row, or none where the readers share fewer than two items."""
    shared = wide.dropna()
    if len(shared) < 2:
        return []
    values = shared.to_numpy().astype(int) if number else shared.to_numpy().astype(str)
    patients = shared.index.get_level_values("patient").tolist()
    found: Estimate = over_patients(compute, values, patients) if compute else intraclass_correlation(values)
    about = {"question": question, "statistic": statistic, "readers": ", ".join(shared.columns), "items": len(shared)}
    return [about | {"value": found.value, "low": found.low, "high": found.high}]


def _cohen(values: Any) -> float:
    return weighted_kappa(values[:, 0], values[:, 1])
