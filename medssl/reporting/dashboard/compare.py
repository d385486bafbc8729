"""What the page that compares arms shows: paired differences of arms, of single cases, and of the groups of a cohort.

    comparisons(study, ("scratch", "finetune"), "1%")            # one row an arm, with the study's own test
    paired_cases(study, reference, other)                        # one row a case, the largest difference first
    differences_by_group(study, reference, other, groups)        # groups: scan -> a value of the manifest

Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluation.intervals import Interval, holm
from medssl.reporting.dashboard.cases import case_scores
from medssl.reporting.dashboard.runs import differences
from medssl.reporting.dashboard.selection import Arm
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.studies.arms import start_of
from medssl.studies.results import Draws, pretraining_of

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


def costs(study: ReviewedStudy, budget: str) -> pd.DataFrame:
    """Return what each arm of a budget cost and how it scored: seconds of one training, and with its share of the pretraining.

    Returns:
        arm, mode, pretraining_runs, mean, low, high, training_s, in_all_s; the pretraining of an arm, which all its cells share, is
        counted once, as the mean of its runs, and is NaN where it is not known.
    """
    rows = study.main[study.main["budget_name"] == budget].copy()
    rows["training_s"] = [
        _seconds(study, arm, mode, budget) for arm, mode in zip(rows["arm"], rows["mode"], strict=True)
    ]
    spent = {arm: _mean([_cost(run) for run in each]) for arm, each in pretraining_of(study.run.config).items()}
    before = [spent.get(start_of(arm) or arm, spent.get(arm, 0.0)) for arm in rows["arm"]]
    rows["in_all_s"] = rows["training_s"] + before
    names = ["arm", "mode", "pretraining_runs", "mean", "low", "high", "training_s", "in_all_s"]
    return rows.sort_values("in_all_s", kind="stable")[names].reset_index(drop=True)


def settings_apart(root: Path, study: ReviewedStudy, reference: Key, other: Key) -> tuple[pd.DataFrame, int | None]:
    """Return the settings in which the cells of two arms differ, in the first draw that both have, and that draw.

    Args:
        root: The folder under review.
        study: The study.
        reference: Arm, mode and budget A.
        other: Arm, mode and budget B.
    """
    shared = sorted(set(study.cases[reference]) & set(study.cases[other]))
    if not shared:
        return pd.DataFrame(), None
    names = [study.cell_folder(key, shared[0]).relative_to(root).as_posix() for key in (reference, other)]
    table = differences(root, names)
    return table.rename(columns=dict(zip(names, ("A", "B"), strict=True))), shared[0]


def _seconds(study: ReviewedStudy, arm: str, mode: str, budget: str) -> float:
    cells = study.cells.reindex(columns=["status", "config.arm", "config.mode", "config.budget_name", "cost.seconds"])
    own = (cells["config.arm"] == arm) & (cells["config.mode"] == mode) & (cells["config.budget_name"] == budget)
    seconds = pd.to_numeric(cells.loc[own & (cells["status"] == "finished"), "cost.seconds"], errors="coerce")
    return float(seconds.mean())


def _cost(run: dict[str, Any]) -> float:
    """The device-seconds of a pretraining run; NaN where its record has none."""
    cost = run.get("cost") or {}
    seconds, devices = (
        pd.to_numeric(pd.Series([cost.get(name)]), errors="coerce").iloc[0] for name in ("seconds", "devices")
    )
    return float(seconds * (1 if pd.isna(devices) else devices))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


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
