"""What a study says in plain sentences: its result, the facts about it, and what limits it.

lead, detail = findings(main, "Dice")     # main: the summary's rows of the primary metric
"""

from __future__ import annotations

import pandas as pd

from medssl.core.runs import FORMAT, Run
from medssl.datasets.overlap import why_unknown
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.style import counted, difference, scoped_arm, status_name
from medssl.studies.arms import BASELINES, start_of
from medssl.studies.results import pretraining_of

SEMI = "semi-supervised training"


def findings(main: pd.DataFrame, metric: str) -> tuple[str, str]:
    """Say in one sentence what a study found, and in a second one what it found with the fewest labels.

    Baselines other than scratch involve no pretraining, so they are not counted; semi-supervised arms are counted apart.

    Args:
        main: The summary's rows of the primary metric.
        metric: The name of that metric as it is written.

    Returns:
        The sentence, and the detail (empty where no pretrained arm is compared with scratch).
    """
    if main.empty:
        return "No cell of this study is finished yet, so there is no result to report.", ""
    compared = main[main["difference"].notna() & ~main["arm"].isin(BASELINES)]
    starts = compared["arm"].map(start_of)
    rows = compared[starts.isna()]
    parts = {
        "pretraining": rows,
        SEMI: compared[starts.isin(BASELINES)],
        f"pretraining with {SEMI}": compared[starts.notna() & ~starts.isin(BASELINES)],
    }
    leads = [_lead(part, metric, name) for name, part in parts.items() if len(part)]
    if rows.empty:
        nothing = "This study compares no pretrained arm with training from scratch"
        leads.append(f"{nothing}, so it cannot say what pretraining is worth.")
    return " ".join(leads), _detail(compared) if len(compared) else ""


def _lead(rows: pd.DataFrame, metric: str, name: str) -> str:
    """What the comparisons with scratch showed; name: what is compared, such as pretraining."""
    better, worse = int((rows["difference_low"] > 0).sum()), int((rows["difference_high"] < 0).sum())
    unclear, total = len(rows) - better - worse, len(rows)
    single = rows["pretraining_runs"] == 1
    metric += " (this run)" if single.all() else " (this run, where an arm has one)" if single.any() else ""
    not_excluded = f"the 95% interval of the paired difference in {metric} does not exclude zero"
    if rows["difference_low"].isna().all():
        return (
            f"None of the comparisons with training from scratch ({total}) has a 95% interval, so this study cannot say "
            f"what {name} is worth. The notes below the scores give the reasons."
        )
    if total == 1:
        verdict = "was better than" if better else "was worse than" if worse else "could not be distinguished from"
        paired = f"paired difference in {metric}, 95% interval"
        return f"In the only comparison made, {name} {verdict} training from scratch ({paired})."
    if better == worse == 0:
        return (
            f"Neither a gain nor a loss from {name} could be shown: in all {total} comparisons with training from "
            f"scratch, {not_excluded}."
        )
    rest = f"; in {unclear}, {not_excluded}" if unclear else f" (95% intervals of the paired difference in {metric})"
    return (
        f"In {total} comparisons with training from scratch, {name} was better in {better} and worse in {worse}{rest}."
    )


def _detail(rows: pd.DataFrame) -> str:
    fewest = rows[rows["patients"] == rows["patients"].min()]
    differences = "; ".join(
        f"{scoped_arm(row.arm, row.mode, row.pretraining_runs)} {difference(row.difference, row.difference_low, row.difference_high)}"
        for row in fewest.itertuples()
    )
    patients, significant = counted(fewest["patients"].iloc[0], "patient"), int((rows["p_holm"] < 0.05).sum())
    verb = "stays" if significant == 1 else "stay"
    return (
        f"Difference with the fewest labels ({patients}): {differences}. After Holm's correction, {significant} of "
        f"{counted(len(rows), 'comparison')} {verb} below p = 0.05."
    )


def study_facts(run: Run) -> str:
    """Name the data, the size and the state of a study in one line."""
    config, data_spec = run.config, DataSpec.from_record(run.config)
    scored = f"{config.get('scored_patients', '–')} {config.get('score_on', '')} patients"
    parts = [
        f"{data_spec.dims}D {data_spec.modality}",
        f"{counted(len(config.get('arms', [])), 'arm')}, {counted(len(config.get('budgets', [])), 'budget')}",
        f"scored on {scored}, {config.get('scored_scans', '–')} scans",
        f"run {run.id}, {status_name('stale' if run.stale else run.status)}",
    ]
    return " · ".join(part for part in parts if part)


def study_warnings(run: Run, cells: pd.DataFrame) -> list[str]:
    """List what a reader must keep in mind: an older version, unfinished cells, one pretraining run, exploration, test scans seen."""
    config, finished = run.config, int((cells["status"] == "finished").sum())
    planned = config.get("cells", len(cells))
    lines = []
    current = run.format >= FORMAT
    if not current:
        lines.append(
            f"Older version: this study was written by {run.writer} and is shown as it was recorded. This version cannot "
            "add cells to it; to continue, run the study again with another --out."
        )
    if finished < planned:
        remedy = " Run the same study command to finish it." if current else ""
        lines.append(f"Incomplete: {finished} of {planned} cells are finished.{remedy}")
    if config.get("score_on", "test") != "test":
        lines.append(
            "Exploratory: the scores are those of validation patients. They help to choose a setting, but they are no "
            "evidence that it is better."
        )
    if single := [arm for arm, each in pretraining_of(config).items() if len(each) == 1]:
        lines.append(
            f"This run: one pretraining run stands behind {', '.join(single)}. Its p-values and intervals are about this run, not "
            "about its method: another seed may give another result."
        )
    if others := config.get("other_encoders"):
        lines.append(
            f"Another network: {', '.join(others)} has another encoder than the arms that start at random. A difference to "
            "these is one of network and weights together, not of the weights alone."
        )
    for arm, count in config.get("seen_test_scans", {}).items():
        if count is None:
            listed = "receipt" not in config.get("pretraining", {}).get(arm, {})
            reason = why_unknown(listed)
            lines.append(f"Perhaps not independent: whether {arm} was pretrained on test patients {reason}.")
        elif count:
            lines.append(
                f"Not independent: {arm} was pretrained, without labels, on {count} scans that are test scans or come "
                "from test patients."
            )
    for arm, scans in config.get("near_duplicates", {}).items():
        lines.append(
            f"Perhaps not independent: {len(scans)} scored scans look nearly the same as scans of other patients that {arm} was "
            f"pretrained on: {', '.join(scans)}."
        )
    return lines
