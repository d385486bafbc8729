"""What a study's folder holds, as data: its cells, cases, summary, example pictures and label curves.

    cells = cells_of(runs.table("studies/hippo/cells"), runs.read("studies/hippo"))
    cases, damaged = cases_of(Path("studies/hippo"), cells)     # (arm, mode, budget) -> draw -> one row per case

The report and the dashboard read a study through this file alone. Damaged files are reported by their cell, and nothing
from them is returned. Imports no torch.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.atomic import read_npz
from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.evaluation.case_metrics import Array, CaseMetric, from_run, runs_behind
from medssl.evaluation.intervals import Interval, join_notes
from medssl.evaluation.label_curves import GapClosed, LabelsSaved, area_under_label_curve, gap_closed, labels_saved
from medssl.evaluation.variance import run_means
from medssl.studies.kept import KeptCells
from medssl.studies.selection_table import COLUMNS as SELECTION_COLUMNS
from medssl.studies.selection_table import compare_selectors
from medssl.studies.summary import KEY, summarise
from medssl.training.tasks import task_named

UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)  # what a cut-off or damaged file raises
NUMBERS = [
    *(
        "budget",
        "patients",
        "scans",
        "draws",
        "pretraining_runs",
        "mean",
        "low",
        "high",
        "difference",
        "difference_low",
    ),
    *("difference_high", "p", "p_holm", "last_third", "labelled_samples", "unlabelled_samples"),
    *("start_difference", "start_low", "start_high", "trials", "trial_samples"),
]
KINDS = {  # of the settings in a study's record that its readers count on
    **dict.fromkeys(("arms", "budgets", "cell_ids", "spacing_mm"), list),
    **dict.fromkeys(("data_spec", "patients", "pretraining", "seen_test_scans", "given_options", "asked"), dict),
    "selection": dict,
    **{"task": str, "cells": int, "dims": int},
}
Draws = dict[int, pd.DataFrame]  # draw -> case table
Cases = dict[tuple, Draws]  # (arm, mode, budget name) -> draws


@dataclass(frozen=True)
class BudgetGain:
    """What an arm is worth at one budget, in terms of scratch.

    Attributes:
        budget: Name of the budget.
        gap: Of what the largest budget adds to scratch at this one, the share that the arm makes up.
        scratch_needs: Patients with which scratch reaches the arm's score at this budget.
    """

    budget: str
    gap: GapClosed
    scratch_needs: LabelsSaved


@dataclass(frozen=True)
class LabelCurve:
    """One arm's scores over the label budgets: its area, and how it compares with scratch (None for scratch itself).

    Attributes:
        arm: Name of the arm.
        mode: How its encoder was used.
        patients: Patients of each budget, rising.
        area: Mean score over the logarithm of the budget; None for an arm with one budget, such as a semi-supervised arm whose other
            budget leaves no scan unlabelled.
        saved: Budget at which the curve reaches scratch with the largest budget.
        difference: Area minus that of scratch, where scratch was run with the same budgets.
        gains: What the arm is worth at each budget but the largest, where scratch was run with it.
        pretraining_runs: Pretraining runs behind the arm; with 1 all this is about that run, not about its method.
    """

    arm: str
    mode: str
    patients: list[float]
    area: Interval | None
    saved: LabelsSaved | None = None
    difference: Interval | None = None
    gains: tuple[BudgetGain, ...] = ()
    pretraining_runs: int = 0


def check_record(run: Run) -> None:
    """Raise MedsslError where a study's record has a setting of another kind than its readers count on."""
    stored = {name: (run.config[name], kind) for name, kind in KINDS.items() if name in run.config}
    stored |= {f"pretraining.{arm}": (about, dict) for arm, about in _items(run.config.get("pretraining"))}
    for arm, about in _items(run.config.get("pretraining")):
        for place, one in enumerate(_runs_listed(about)):
            stored[f"pretraining.{arm}.runs.{place}"] = (one, dict)
    stored |= {f"protocol.{point}": (about, dict) for point, about in run.protocol.items()}
    for name, (value, kind) in stored.items():
        if not isinstance(value, kind):
            raise MedsslError(
                f"the study was written by {run.writer}, and {name} in its run.json is {value!r}: expected a "
                f"{kind.__name__}; run the study again with another --out"
            )


def _runs_listed(about: Any) -> list[Any]:
    """What a record lists as the runs of an arm; what is no list is returned as one entry, so that it is reported."""
    runs = about.get("runs", []) if isinstance(about, dict) else []
    return runs if isinstance(runs, list) else [runs]


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def summary_of(
    folder: Path, run: Run, cells: pd.DataFrame, damaged: list[str], kept: KeptCells | None = None
) -> pd.DataFrame:
    """Return the study's summary with every column there is.

    For a study that is not finished, or whose summary is missing, it is computed from the finished, undamaged cells.

    Args:
        folder: Folder of the study.
        run: Its record.
        cells: Its rows of `runs.table`.
        damaged: The ids of finished cells whose predictions cannot be read.
        kept: What was read and computed before.

    Raises:
        MedsslError: The summary of a finished study cannot be read.
    """
    if run.status == "finished" and (folder / "summary.parquet").exists():
        return _stored_summary(folder / "summary.parquet", run)
    done = cells[(cells["status"] == "finished") & ~cells["id"].isin(damaged)]
    try:
        metric = task_named(run.config["task"]).metric
        return _with_every_column(summarise(folder, done["folder"].tolist(), metric, kept))
    except UNREADABLE:
        return _with_every_column(pd.DataFrame())


def selection_of(folder: Path, run: Run, cells: pd.DataFrame, damaged: list[str]) -> pd.DataFrame:
    """Return the comparison of selectors with the random draws; empty for a study without selectors.

    Args:
        folder: Folder of the study.
        run: Its record.
        cells: Its rows of `runs.table`.
        damaged: The ids of finished cells whose predictions cannot be read.
    """
    if not run.config.get("selection"):
        return pd.DataFrame(columns=SELECTION_COLUMNS)
    done = cells[(cells["status"] == "finished") & ~cells["id"].isin(damaged)]
    return compare_selectors(folder, done["folder"].tolist(), task_named(run.config["task"]).metric)


def _stored_summary(path: Path, run: Run) -> pd.DataFrame:
    try:
        summary = pd.read_parquet(path)
        return _with_every_column(_with_runs(summary.astype({name: str for name in (*KEY, "metric")}), run))
    except (*UNREADABLE, TypeError, NotImplementedError) as error:
        raise MedsslError(
            f"summary.parquet of study {run.id} cannot be read ({type(error).__name__}): expected the table that "
            "medssl study wrote; run the same medssl study command again, which writes it anew from the finished cells"
        ) from None


def _with_runs(summary: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The summary with the pretraining runs behind each row; an older one lacks them, and had one a pretrained arm."""
    if "pretraining_runs" in summary:
        return summary
    return summary.assign(pretraining_runs=summary["arm"].isin([*run.config.get("pretraining", {})]).astype(int))


def pretraining_of(config: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the pretraining runs of each arm, from the config of a study's record: `id`, `seed` and `cost` of each.

    Args:
        config: Of the study's record; an older one holds one run an arm, without its seed.
    """
    return {
        arm: _runs_listed(about) or [{name: about.get(name) for name in ("id", "cost")}]
        for arm, about in config.get("pretraining", {}).items()
    }


def _with_every_column(summary: pd.DataFrame) -> pd.DataFrame:
    return summary.reindex(columns=[*KEY, "metric", *NUMBERS, "note"]).astype(dict.fromkeys(NUMBERS, float))


def cells_of(cells: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return the rows of `runs.table(folder / "cells")` that belong to this study.

    A cell whose record cannot be read is included, since it may belong to this study.
    """
    keys = [f"config.{name}" for name in (*KEY, "draw", "selector")]
    cells = cells.reindex(columns=list(dict.fromkeys([*cells, "data", "started", "id", "status", *keys])))
    own = cells["folder"].isin(run.config.get("cell_ids", [])) | cells["config.arm"].isna()
    return cells[own].sort_values("started", kind="stable")


def cases_of(folder: Path, cells: pd.DataFrame, kept: KeptCells | None = None) -> tuple[Cases, list[str]]:
    """Return the case tables of the finished cells of random draws, and the ids of cells with a damaged one.

    A file that can be read, but holds no scores, or other scans than most of the study's cells, is damaged too.

    Args:
        folder: Folder of the study.
        cells: Its rows of `runs.table`.
        kept: What was read before.
    """
    kept = kept or KeptCells()
    done = cells[cells["status"] == "finished"]
    tables: dict[str, pd.DataFrame] = {}
    for name in done["folder"]:
        try:
            tables[name] = _case_table(folder / "cells" / str(name), kept)
        except UNREADABLE:
            continue
    common = Counter(tuple(table["scan"]) for table in tables.values()).most_common(1)
    tables = {name: table for name, table in tables.items() if tuple(table["scan"]) == common[0][0]}
    cases, columns = Cases(), ["parent", *(f"config.{part}" for part in ("draw", "selector", *KEY))]
    for name, parent, draw, selector, *key in done.reindex(columns=["folder", *columns]).to_numpy():
        if name in tables and pd.isna(selector):
            run = None if pd.isna(parent) else str(parent)
            cases.setdefault(tuple(key), {})[int(draw)] = from_run(tables[name], run)
    return cases, [str(run_id) for run_id in done.loc[~done["folder"].isin(tables), "id"]]


def _case_table(cell: Path, kept: KeptCells) -> pd.DataFrame:
    """Raises KeyError where a file holds no cases, else what pandas raises for a damaged one."""
    table = kept.cases(cell)
    kinds = {str(column).partition(".")[0] for column in table}
    if {"scan", "patient", "dice"} <= kinds or {"scan", "patient", "label", "p"} <= kinds:
        return table
    raise KeyError("scores")


def arrays(path: Path, required: str) -> dict[str, np.ndarray]:
    """Return the arrays of an examples.npz; none where it is missing, damaged, or has no array `required.0`."""
    try:
        stored = read_npz(path)
    except (*UNREADABLE, EOFError):
        return {}
    return stored if f"{required}.0" in stored else {}


def label_curves(cases: Cases, main: pd.DataFrame, metric: CaseMetric) -> list[LabelCurve] | None:
    """Return the label curve of every arm; one that was run with one budget alone has no area.

    A semi-supervised arm has none where no scan is left unlabelled, which may be the largest budget: its area then is over
    fewer budgets than that of the others, and a note says so.

    Args:
        cases: As from `cases_of`.
        main: The summary's rows of the primary metric.
        metric: The primary metric.

    Returns:
        The curves; None where the study has fewer than two budgets, or no scratch at the largest of them.
    """
    sizes = dict(sorted(zip(main["budget_name"], main["patients"]), key=lambda pair: pair[1]))
    scratch = _by_budget(cases, "scratch", "finetune", sizes)
    if len(set(sizes.values())) < max(2, len(sizes)) or [*sizes][-1] not in scratch:
        return None
    arms = dict.fromkeys(zip(main["arm"], main["mode"]))
    curves = {(arm, mode): _by_budget(cases, arm, mode, sizes) for arm, mode in arms}
    return [_label_curve(arm, mode, own, scratch, sizes, metric) for (arm, mode), own in curves.items() if own]


def _label_curve(
    arm: str, mode: str, own: dict[str, Draws], scratch: dict[str, Draws], sizes: dict[str, float], metric: CaseMetric
) -> LabelCurve:
    patients, places = [sizes[budget] for budget in own], run_places(own.values())
    gains, count = _gains(own, scratch, sizes, metric), len(set(places.values()))
    if len(own) == 1:
        return LabelCurve(arm, mode, patients, None, gains=gains, pretraining_runs=count)
    scores, freedom = _by_patient(own, metric, places)
    area = area_under_label_curve(patients, scores, patient_df=freedom, bounds=(0, 1))
    if arm == "scratch":
        return LabelCurve(arm, mode, patients, area)
    last = [*scratch][-1]
    paired = {last: _shared_draws(scratch[last], own[[*own][-1]])}
    (full,), full_freedom = _by_patient(paired, metric, places)
    saved = labels_saved(patients, scores, full, patient_df=_smallest(freedom, full_freedom))
    difference = _area_difference(own, scratch, patients, metric) if set(own) <= set(scratch) else None
    if last not in own:
        note = f"area over {' and '.join(own)} alone: the arm has no cell at {last}"
        area = replace(area, note=join_notes(area.note, note))
        saved = replace(saved, note=join_notes(saved.note, note))
    return LabelCurve(arm, mode, patients, area, saved, difference, gains, count)


def _gains(
    own: dict[str, Draws], scratch: dict[str, Draws], sizes: dict[str, float], metric: CaseMetric
) -> tuple[BudgetGain, ...]:
    compared = [budget for budget in own if budget in scratch and budget != [*scratch][-1]]
    return tuple(_gain(budget, own[budget], scratch, sizes, metric) for budget in compared)


def _gain(
    budget: str, arm: Draws, scratch: dict[str, Draws], sizes: dict[str, float], metric: CaseMetric
) -> BudgetGain:
    places = run_places([arm])
    (score,), freedom = _by_patient({budget: arm}, metric, places)
    paired = {name: _shared_draws(draws, arm) for name, draws in scratch.items()} if places else scratch
    curve, scratch_freedom = _by_patient(paired, metric, places)
    freedom = _smallest(freedom, scratch_freedom)
    few = curve[[*scratch].index(budget)]
    gap = gap_closed(score, few, curve[-1], patient_df=freedom)
    return BudgetGain(budget, gap, labels_saved([sizes[name] for name in scratch], curve, score, patient_df=freedom))


def _area_difference(
    own: dict[str, Draws], scratch: dict[str, Draws], patients: list[float], metric: CaseMetric
) -> Interval:
    """The paired difference of the two areas, over the draws that both arms have."""
    places = run_places(own.values())
    first, freedom = _by_patient({b: _shared_draws(own[b], scratch[b]) for b in own}, metric, places)
    second, other_freedom = _by_patient({b: _shared_draws(scratch[b], own[b]) for b in own}, metric, places)
    differences = [a - b for a, b in zip(first, second)]
    freedom = _smallest(freedom, other_freedom)
    return area_under_label_curve(patients, differences, patient_df=freedom, bounds=(-1, 1))


def _by_budget(cases: Cases, arm: str, mode: str, sizes: dict[str, float]) -> dict[str, Draws]:
    """The draws of an arm with each budget it was run with, by rising size."""
    return {budget: cases[arm, mode, budget] for budget in sizes if (arm, mode, budget) in cases}


def run_places(budgets: Iterable[Draws]) -> dict[int, int]:
    """Return the place of the pretraining run behind each draw, counted in the order of the draws; none for other arms.

    Args:
        budgets: The draws of an arm at each budget; draws of one number have the same run.
    """
    tables = {number: table for draws in budgets for number, table in draws.items()}
    found = [runs_behind([tables[number]]) for number in sorted(tables)]
    known = {number: run[0] for number, run in zip(sorted(tables), found) if run}
    order = [*dict.fromkeys(known.values())]
    return {number: order.index(run) for number, run in known.items()}


def scores_by_patient(draws: Draws, metric: CaseMetric, places: dict[int, int]) -> tuple[Array, float | None]:
    """Return scores (draws, patients), averaged over the draws of each of several pretraining runs; see `CaseMetric`.

    Args:
        draws: Draws of one arm and budget.
        metric: The primary metric.
        places: From `run_places` of the arm, or of the one that it is paired with.
    """
    numbers = sorted(draws)
    table, freedom = metric.by_patient([draws[number] for number in numbers])
    runs = [places[number] for number in numbers] if set(numbers) <= set(places) else None
    return (run_means(table, runs) if table.ndim == 2 else table), freedom


def _by_patient(
    curve: dict[str, Draws], metric: CaseMetric, places: dict[int, int]
) -> tuple[list[Array], float | None]:
    """`scores_by_patient` of each budget, and the smallest of their patients' degrees of freedom."""
    scores = [scores_by_patient(draws, metric, places) for draws in curve.values()]
    return [table for table, _ in scores], _smallest(*(freedom for _, freedom in scores))


def _shared_draws(draws: Draws, others: Draws) -> Draws:
    """Those of the draws that the others have too; all where there are none."""
    return {number: table for number, table in draws.items() if number in others} or draws


def _smallest(*freedoms: float | None) -> float | None:
    return min((freedom for freedom in freedoms if freedom), default=None)
