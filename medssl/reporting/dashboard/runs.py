"""What the page on runs shows: the table of all runs, how two of them differ, what all of them cost. Imports no torch.

run_table(runs_below(Path("runs")))                       # one row per run, the newest first
differences(Path("runs"), ["hippo/cells/a", "hippo/cells/b"])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import runs
from medssl.core.spec import plain
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.redaction import without_paths
from medssl.reporting.values import value_text

NUMBERS = {"config.draw": "draw", "cost.seconds": "seconds", "cost.samples_per_s": "samples_per_s"}
NUMBERS |= {"cost.peak_memory_mib": "peak_memory_mib", "score": "score"}
TEXTS = {"folder": "run", "status": "status", "kind": "kind", "config.arm": "arm", "config.mode": "mode"}
TEXTS |= {"config.budget_name": "budget", "id": "id", "reason": "reason"}
COLUMNS = [
    *("run", "status", "kind", "arm", "mode", "budget", "draw", "score", "seconds", "peak_memory_mib"),
    *("samples_per_s", "started", "id", "reason"),
]
SCORES = ["metrics.dice", "metrics.auroc", "metrics.knn"]  # the first that a run has is its score


def run_table(runs_in_folder: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the runs that the page shows, the newest run first.

    A value of another kind than its column's, which only a malformed record has, is left out.
    """
    rows = runs_in_folder.reindex(columns=list(dict.fromkeys([*runs_in_folder, *TEXTS, *NUMBERS, *SCORES, "started"])))
    rows = rows.sort_values("started", ascending=False, kind="stable").reset_index(drop=True)
    rows["score"] = rows[SCORES].apply(pd.to_numeric, errors="coerce").bfill(axis=1).iloc[:, 0]
    table = pd.DataFrame(index=rows.index)
    for source, name in TEXTS.items():
        table[name] = rows[source].map(str, na_action="ignore")
    table["reason"] = table["reason"].map(without_paths, na_action="ignore")
    for source, name in NUMBERS.items():
        table[name] = pd.to_numeric(rows[source], errors="coerce")
    started = pd.to_numeric(rows["started"], errors="coerce")
    table["started"] = pd.to_datetime(started.where(started > 0), unit="s", errors="coerce").dt.floor("s")
    return table[COLUMNS]


def configs(root: Path, names: list[str]) -> dict[str, Any]:
    """Return the config of each of the runs in these folders below `root`."""
    return {name: runs.read(inside(root, name)).config for name in names}


def differences(root: Path, names: list[str]) -> pd.DataFrame:
    """Return what is not the same in the records of these runs: one row a setting, one column a run."""
    settings = {}
    for name in names:
        run = runs.read(inside(root, name))
        fixed = {"kind": run.kind, "seed": run.seed, "data": run.data, "commit": run.commit, "parent": run.parent}
        nested = runs.flatten(plain({"config": run.config, "versions": run.versions}))
        settings[name] = {key: value_text(value) for key, value in (fixed | nested).items()}
    table = pd.DataFrame(settings).fillna("–").rename_axis("setting")
    return table[table.nunique(axis=1) > 1]


def device_hours(runs_in_folder: pd.DataFrame) -> float:
    """Return the device-hours of all runs.

    The time of a study is that of its cells, and the copies that it keeps of pretraining records count once.
    """
    own = runs_in_folder.reindex(columns=["kind", "id", "cost.seconds", "cost.devices"])
    own = own[(own["kind"] != "study") & ~((own["kind"] == "pretrain") & own.duplicated(["kind", "id"]))]
    seconds, devices = (pd.to_numeric(own[c], errors="coerce") for c in ("cost.seconds", "cost.devices"))
    return float(np.nansum(seconds * devices.fillna(1))) / 3600
