"""What the page that compares arms shows: paired differences of arms, of single cases, and of the groups of a cohort.

    comparisons(study, ("scratch", "finetune"), "1%")            # one row an arm, with the study's own test
    paired_cases(study, reference, other)                        # one row a case, the largest difference first
    differences_by_group(study, reference, other, groups)        # groups: scan -> a value of the manifest

Imports no torch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medssl.evaluation.intervals import Interval, holm
from medssl.reporting.dashboard.cases import case_scores
from medssl.reporting.dashboard.selection import Arm
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.studies.results import Draws

SCRATCH: Arm = ("scratch", "finetune")  # the arm that the study's own table compares with
FROM_TABLE = {
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "p": "p",
    "p_holm": "p_holm",
}
COLUMNS = ["arm", "mode", "pretraining_runs", "difference", "low", "high", "p", "p_holm", "note"]
MOST_GROUPS = 12  # a column with more values is no column of groups
BANDS = 4  # of a column of numbers with more values
NOT_GROUPS = ("scan", "patient", "digest", "mask_digest", "pseudonym_key", "status", "reason", "shape", "spacing_mm")


def arms_at(study: ReviewedStudy, budget: str) -> list[Arm]:
    """Return the arms with cases at a budget: scratch first, then in the order of the study's table."""
    order = list(dict.fromkeys(zip(study.main["arm"], study.main["mode"], strict=True)))
    known = [(arm, mode) for arm, mode in order if (arm, mode, budget) in study.cases]
    return sorted(known, key=lambda arm: arm != SCRATCH)


def comparisons(study: ReviewedStudy, reference: Arm, budget: str) -> pd.DataFrame:
    """Compare every other arm of a budget with one of them.

    With scratch the numbers are those of the study's table, whose Holm correction is over all comparisons of the study.
    With another reference the same test is made here, and the correction is over the comparisons of this table.

    Returns:
        Columns `COLUMNS`: the arm minus the reference, its 95% interval, p and p corrected.
    """
    if reference == SCRATCH:
        rows = study.main[(study.main["budget_name"] == budget) & study.main["difference"].notna()]
        kept = rows[["arm", "mode", "pretraining_runs", *FROM_TABLE, "note"]]
        return kept.rename(columns=FROM_TABLE).reset_index(drop=True)
    base = study.cases[(*reference, budget)]
    rows = [
        _row(study, arm, budget, _difference(study, study.cases[(*arm, budget)], base))
        for arm in arms_at(study, budget)
        if arm != reference and set(study.cases[(*arm, budget)]) & set(base)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float)))


def paired_cases(study: ReviewedStudy, reference: Key, other: Key) -> pd.DataFrame:
    """Return scan, patient, the scores of the reference (`a`) and of the other arm (`b`), each averaged over the draws that
    both have, and their difference; the cases in which they differ most come first, those without a score last."""
    first, second = _shared(study.cases[reference], study.cases[other])
    cases = next(iter(first.values()))
    table = cases[["scan", "patient"]].assign(a=_mean_scores(first, cases), b=_mean_scores(second, cases))
    table["difference"] = table["b"] - table["a"]
    order = table["difference"].abs().sort_values(ascending=False, kind="stable", na_position="last").index
    return table.loc[order].reset_index(drop=True)


def groups_of(manifest: pd.DataFrame, scans: list[str]) -> dict[str, pd.Series]:
    """Return name -> value of each scan, of the columns of a manifest that divide these scans into a few groups.

    Numbers with many values are divided into bands of about equally many scans.
    """
    own = manifest.set_index("scan").reindex(scans)
    groups = {}
    for name in own.columns.difference(NOT_GROUPS, sort=False):
        values = bands(own[name])
        if 2 <= values.nunique() <= MOST_GROUPS:
            groups[str(name).removeprefix("label.")] = values
    return groups


def differences_by_group(study: ReviewedStudy, reference: Key, other: Key, groups: pd.Series) -> pd.DataFrame:
    """Return the difference of two arms in each group of scans, by the study's test on the cases of the group alone.

    Args:
        study: The study.
        reference: Arm, mode and budget that is subtracted.
        other: Arm, mode and budget that it is subtracted from.
        groups: Scan -> group; scans without one are left out.

    Returns:
        group, scans, patients, difference, low, high; without numbers for a group that is too small to be scored.
    """
    first, second = _shared(study.cases[reference], study.cases[other])
    rows = []
    for group in sorted(groups.dropna().unique()):
        scans = set(groups.index[groups == group])
        own, base = (
            {draw: cases[cases["scan"].isin(scans)] for draw, cases in draws.items()} for draws in (second, first)
        )
        cases = next(iter(own.values()))
        row = {"group": group, "scans": len(cases), "patients": cases["patient"].nunique()}
        estimate = _difference(study, own, base) if _can_be_scored(cases) else None
        rows.append(row | _numbers(estimate))
    return pd.DataFrame(rows, columns=["group", "scans", "patients", "difference", "low", "high"])


def _row(study: ReviewedStudy, arm: Arm, budget: str, estimate: Interval) -> dict[str, object]:
    own = (study.main["arm"] == arm[0]) & (study.main["mode"] == arm[1]) & (study.main["budget_name"] == budget)
    runs_behind = study.main.loc[own, "pretraining_runs"].max()
    about = {"arm": arm[0], "mode": arm[1], "pretraining_runs": runs_behind, "p": estimate.p, "note": estimate.note}
    return about | _numbers(estimate)


def _numbers(estimate: Interval | None) -> dict[str, float]:
    if estimate is None:
        return dict.fromkeys(("difference", "low", "high"), float("nan"))
    return {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}


def _difference(study: ReviewedStudy, own: Draws, base: Draws) -> Interval:
    """The paired difference over the draws that both have, as the study's table computes it."""
    shared = sorted(set(own) & set(base))
    return study.task.metric.difference([own[draw] for draw in shared], [base[draw] for draw in shared])


def _shared(first: Draws, second: Draws) -> tuple[Draws, Draws]:
    shared = sorted(set(first) & set(second))
    return {draw: first[draw] for draw in shared}, {draw: second[draw] for draw in shared}


def _mean_scores(draws: Draws, cases: pd.DataFrame) -> np.ndarray:
    """The score of each case, averaged over the draws in which it has one."""
    scores = pd.concat([case_scores(table) for table in draws.values()], axis=1)
    return scores.mean(axis=1).reindex(cases["scan"]).to_numpy()


def _can_be_scored(cases: pd.DataFrame) -> bool:
    """Whether there are two patients, and in a classification two of each class."""
    if "label" in cases:
        return bool(cases["label"].nunique() > 1 and cases.groupby("label")["patient"].nunique().min() >= 2)
    return bool(cases["patient"].nunique() >= 2)


def bands(values: pd.Series) -> pd.Series:
    """The values as text; numbers with many values as bands, such as `40 to 60`."""
    if not values.map(lambda value: isinstance(value, str | int | float | bool | np.generic) or pd.isna(value)).all():
        return pd.Series(index=values.index, dtype=object)
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MOST_GROUPS:
        cut = pd.qcut(values.astype(float), BANDS, duplicates="drop")
        return cut.map(lambda band: f"{band.left:g} to {band.right:g}", na_action="ignore").astype(object)
    return values.astype(object).map(str, na_action="ignore")
