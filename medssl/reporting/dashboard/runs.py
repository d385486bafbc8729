"""What the dashboard shows of a folder of runs: its table, a study's curves and sentence, how two runs differ.

    found = runs_below(Path("runs"))                       # runs.table(), and the folders that are not whole
    shown = study_shown(Path("runs"), "hippo", found)      # shown.lead: the study in one plain sentence

Imports no torch. Nothing outside of the folder is ever opened: a link that leads out of it is refused unread.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.core.spec import plain
from medssl.reporting import tables
from medssl.reporting.findings import findings, study_warnings
from medssl.reporting.redaction import without_paths
from medssl.reporting.style import METRICS, STATUSES, arm_name, arm_styles, offset_factors
from medssl.studies.results import cases_of, cells_of, label_curves, summary_of
from medssl.studies.summary import KEY
from medssl.training.task import task_named

LEFTOVERS = (  # what a run writes before, or beside, its record
    ".lock", "predictions.parquet", "examples.npz", "masks.npz", "metrics.csv", "last.ckpt", "encoder.safetensors",
    "subsets.parquet", "summary.parquet",
)  # fmt: skip
SHOWN = {  # the run table's columns, as they are written
    "name": "run", "state": "status", "kind": "kind", "config.arm": "arm", "config.mode": "mode",
    "config.budget_name": "budget", "config.draw": "draw", "score": "score", "cost.seconds": "seconds",
    "cost.peak_memory_mib": "peak memory, MiB", "cost.samples_per_s": "samples/s", "when": "started, UTC",
    "id": "id", "told": "reason",
}  # fmt: skip


@dataclass(frozen=True)
class StudyShown:
    """One study as the dashboard shows it; main: the summary's rows of the primary metric.

    lead, detail: what the picture says. provisional: worked out from the cells finished so far. cases: (arm,
    mode, budget) -> draw -> one row a case. damaged: ids of finished cells whose predictions cannot be read.
    """

    run: Run
    task: str
    metric: str
    cells: pd.DataFrame
    main: pd.DataFrame
    lead: str
    detail: str
    warnings: list[str]
    provisional: bool
    cases: dict[tuple, dict[int, pd.DataFrame]]
    damaged: list[str]


def inside(root: Path, name: str) -> Path:
    """The folder `name` below `root`. Raises MedsslError for one that lies, or leads, anywhere else."""
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not folder.resolve().is_relative_to(root.resolve()):
        raise MedsslError("that folder lies outside of the one under review: expected the name of a run below it")
    return folder


def stamp(root: Path) -> str:
    """Changes whenever something below `root` is added, replaced or removed, or one of its records is written to."""
    seen = hashlib.sha256()
    for path, _, names in _walk(root):
        looked_at = [path, *(path / name for name in ("run.json", "summary.parquet") if name in names)]
        for each in looked_at:
            with suppress(FileNotFoundError):  # replaced since the folder was listed: the next look sees it
                about = os.lstat(each)
                seen.update(f"{each} {about.st_mtime_ns} {about.st_size}".encode(errors="surrogateescape"))
    return seen.hexdigest()


def runs_below(root: Path) -> pd.DataFrame:
    """`runs.table(root)`, with rows for folders that hold no record: status "empty" or "partial" (what a run leaves
    before it has one); a run with a link that leads out of `root` is "refused", and nothing of it is read."""
    rows = []
    for folder, below, names in _walk(root):
        away = _links_out(root, folder)
        if "run.json" in names and not away:
            rows.append(runs.row(root, folder))
            continue
        refused = [folder] if "run.json" in names else [folder / name for name in away]
        rows += [_odd(root, each, "refused", "a link leads out of the folder under review") for each in refused]
        if not refused and (state := _without_record(folder, below, names)) and folder != root:
            rows.append(_odd(root, folder, state, "holds no run.json"))
    return runs.as_table(sorted(rows, key=lambda row: row["folder"]))


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders below `root` that may hold runs: links are not followed, caches of scans not entered."""
    for path, below, names in os.walk(root):
        if "cache.json" in names:
            below.clear()
        below.sort()
        yield Path(path), below, names


def _links_out(root: Path, folder: Path) -> list[str]:
    """The names in this folder that are links to a place outside of `root`."""
    with os.scandir(folder) as entries:
        links = [entry.name for entry in entries if entry.is_symlink()]
    return [name for name in links if not (folder / name).resolve().is_relative_to(root.resolve())]


def _odd(root: Path, folder: Path, status: str, reason: str) -> dict[str, Any]:
    return {"folder": str(folder.relative_to(root)), "id": folder.name, "status": status, "reason": reason}


def _without_record(folder: Path, below: list[str], names: list[str]) -> str | None:
    """A folder inside of a run is the run's own affair; one with other files is no run."""
    if (folder.parent / "run.json").exists():
        return None
    if not below and not names:
        return "empty"
    return "partial" if any(n in LEFTOVERS or n.startswith(".run.json.") for n in names) else None


def studies(found: pd.DataFrame) -> list[str]:
    """The folders of studies among the runs of `runs_below`, the newest first."""
    kinds = found.reindex(columns=["folder", "kind", "started"])
    chosen = kinds[kinds["kind"] == "study"].sort_values("started", ascending=False, kind="stable")
    return chosen["folder"].tolist()


def study_shown(root: Path, name: str, found: pd.DataFrame) -> StudyShown:
    """The study in folder `name` below `root`; found: the runs below it. Raises MedsslError where it is no study."""
    folder = inside(root, name)
    if name not in studies(found):
        raise MedsslError("there is no readable study of that name in the folder under review: choose one of the list")
    run = runs.read(folder)
    task = task_named(str(run.config.get("task", "")))
    kind = task.metric.name
    cells = cells_of(_cells_among(found, name), run)
    cases, damaged = cases_of(folder, cells)
    whole = run.status == "finished" and (folder / "summary.parquet").exists()
    summary = summary_of(folder, run, cells, damaged)
    main = summary[summary["metric"] == kind].reset_index(drop=True)
    lead, detail = findings(main, METRICS[kind])
    warnings = study_warnings(run, cells)
    return StudyShown(run, task.name, METRICS[kind], cells, main, lead, detail, warnings, not whole, cases, damaged)


def curves(main: pd.DataFrame, modes: list[str]) -> list[dict[str, Any]]:
    """One line an arm: its name, colour and marker, and the summary's rows of it by patients.

    modes: of fine-tuned, linear probe, kNN; scratch is in every picture, since all is compared with it.
    """
    looks = arm_styles(main["arm"].tolist())
    lines = []
    for (arm, mode), rows in main.groupby(["arm", "mode"], sort=False):
        if mode in modes or arm == "scratch":
            colour, marker, dash = looks[str(arm)]
            about = {"arm": arm, "mode": mode, "name": arm_name(str(arm), str(mode)), "colour": colour}
            lines.append(about | {"marker": marker, "dash": dash, "rows": rows.sort_values("patients")})
    if lines:
        for line, shift in zip(lines, offset_factors(len(lines))):
            line["x"] = line["rows"]["patients"] * shift  # side by side, so that intervals can be told apart
    return lines


def study_stamp(root: Path, found: pd.DataFrame, name: str) -> str:
    """Changes when what `study_shown` returns may: with a cell's status, a new attempt at it, or the summary."""
    own = found[
        (found["folder"] == name) | found["folder"].str.startswith("cells/" if name == "." else f"{name}/cells/")
    ]
    rows = own.reindex(columns=["folder", "id", "status", "started"]).astype(str).to_numpy().tolist()
    summary = inside(root, name) / "summary.parquet"
    return runs.identity(rows=rows, summary=summary.stat().st_mtime_ns if summary.exists() else None)


def run_rows(found: pd.DataFrame) -> pd.DataFrame:
    """The runs as the table shows them, newest first: readable status, primary score, cost."""
    columns = list(dict.fromkeys([*found, *SHOWN, "status", "started", "reason", "folder"]))
    rows = found.reindex(columns=columns).sort_values("started", ascending=False, kind="stable")
    rows["name"] = rows["folder"]
    rows["state"] = rows["status"].map(lambda status: STATUSES.get(status, status))
    scores = rows.reindex(columns=["metrics.dice", "metrics.auroc", "metrics.knn"])
    rows["score"] = scores.apply(pd.to_numeric, errors="coerce").bfill(axis=1).iloc[:, 0]
    started = pd.to_numeric(rows["started"], errors="coerce")
    rows["when"] = pd.to_datetime(started.where(started > 0), unit="s", errors="coerce").dt.floor("s")
    rows["told"] = rows["reason"].map(lambda text: without_paths(str(text)), na_action="ignore")
    for name in ("config.draw", "cost.seconds", "cost.peak_memory_mib", "cost.samples_per_s"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
    for name in ("name", "state", "kind", "config.arm", "config.mode", "config.budget_name", "id", "told"):
        rows[name] = rows[name].map(str, na_action="ignore")
    return rows[list(SHOWN)].rename(columns=SHOWN).reset_index(drop=True)


def progress(shown: StudyShown) -> tuple[int, int]:
    """How many cells are finished, and how many were planned."""
    planned = shown.run.config.get("cells")
    finished = int((shown.cells["status"] == "finished").sum())
    return finished, max(finished, planned) if isinstance(planned, int) else len(shown.cells)


def cell_of(shown: StudyShown, key: tuple, draw: int) -> str:
    """The folder, below the study's `cells`, of a finished cell; key: arm, mode, budget."""
    cells = shown.cells[shown.cells["status"] == "finished"]
    same = cells["config.draw"] == draw
    for name, value in zip(KEY, key):
        same &= cells[f"config.{name}"] == value
    return str(cells.loc[same, "folder"].iloc[-1])


def differences(root: Path, names: list[str]) -> pd.DataFrame:
    """What is not the same in the records of these runs: one row a setting, one column a run."""
    about = {}
    for name in names:
        run = runs.read(inside(root, name))
        fixed = {"kind": run.kind, "seed": run.seed, "data": run.data, "commit": run.commit, "parent": run.parent}
        flat = runs.flatten(plain({"config": run.config, "versions": run.versions}))
        about[name] = {key: _written(value) for key, value in (fixed | flat).items()}
    table = pd.DataFrame(about).fillna("–").rename_axis("setting")
    return table[table.nunique(axis=1) > 1]


def _written(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = without_paths(text)
    return text if len(text) < 200 else f"{text[:80]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _cells_among(found: pd.DataFrame, study: str) -> pd.DataFrame:
    """The rows below a study's `cells`, their folder relative to it, as `runs.table(study / "cells")` has them."""
    prefix = "cells/" if study == "." else f"{study}/cells/"
    rows = found[found["folder"].str.startswith(prefix)].copy()
    rows["folder"] = rows["folder"].str.removeprefix(prefix)
    return rows[rows["folder"] != ""]


def labels_saved(shown: StudyShown) -> tuple[pd.DataFrame | None, str, str]:
    """Labels saved and area under the curve as a table of text, or why there is none, and the score to reach."""
    curves = label_curves(shown.cases, shown.main, task_named(shown.task).metric)
    found, reason, full = tables.labels_saved(curves, shown.main)
    return (None if found is None else found.frame()), reason, full


def scores(shown: StudyShown) -> pd.DataFrame | None:
    """The numbers of the picture, written as in the report."""
    found = tables.scores(shown.main)
    return None if found is None else found.frame()


def device_hours(found: pd.DataFrame) -> float:
    """Of all runs together: a study's time is its cells', and the copies it keeps of pretraining records count once."""
    own = found.reindex(columns=["kind", "id", "cost.seconds", "cost.devices"])
    own = own[(own["kind"] != "study") & ~((own["kind"] == "pretrain") & own.duplicated(["kind", "id"]))]
    seconds, devices = (pd.to_numeric(own[c], errors="coerce") for c in ("cost.seconds", "cost.devices"))
    return float(np.nansum(seconds * devices.fillna(1))) / 3600


def troubles(shown: StudyShown) -> pd.DataFrame | None:
    """Cells that are not finished and whole, with the reason."""
    found = tables.incomplete_cells(shown.cells, shown.damaged)
    return None if found is None else found.frame()
