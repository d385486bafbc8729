"""What the page Pretraining shows: the pretraining runs of the folder, what each measured by step, and what it restored.

    listed = pretraining_runs(runs_in_folder)          # one row a run, the newest first
    curves = log(root, "simclr")                       # step, loss, lr, effective_rank, ...
    measures({"simclr": curves})                       # the names of what was measured, the most telling first
    restored(root, "simmim", data_spec)                # pictures of the scans that a restoring method was given

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.dashboard.cases import Frame
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.dashboard.viewer import Plane, picture, slice_of
from medssl.reporting.redaction import without_paths
from medssl.studies.results import arrays

KINDS = ("pretrain", "import")
NUMBERS = {
    "config.steps": "planned",
    "cost.steps": "steps",
    "cost.seconds": "seconds",
    "cost.samples_per_s": "samples_per_s",
    "cost.peak_memory_mib": "peak_memory_mib",
    "cost.device_memory_mib": "device_memory_mib",
    "metrics.collapsed_at_step": "collapsed_at",
    "metrics.plateau_at_step": "plateau_at",
}
TEXTS = {"folder": "run", "kind": "kind", "status": "status", "reason": "reason", "id": "id", "cost.device": "device"}
MEASURES = (  # those that say most about a run come first
    *("loss", "knn", "dense_auroc", "view_retrieval", "effective_rank", "feature_std", "dense_rank", "alignment"),
    *("uniformity", "gradient_norm", "lr"),
)
LARGEST_BYTES = 64 << 20  # of a log
KINDS_OF_PICTURES = ("source", "corrupted", "restored")


def pretraining_runs(runs_in_folder: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each pretraining run and each import, the newest first; a study's copies of records count once.

    A value of another kind than its column's, which only a malformed record has, is left out.
    """
    wanted = ["started", "config.method.class_path", "config.source.layout", *TEXTS, *NUMBERS]
    rows = runs_in_folder.reindex(columns=list(dict.fromkeys([*runs_in_folder, *wanted])))
    rows = rows[rows["kind"].isin(KINDS)]
    rows = rows.assign(depth=rows["folder"].str.count("/")).sort_values("depth", kind="stable")
    rows = rows.drop_duplicates(["kind", "id"]).sort_values("started", ascending=False, kind="stable", key=_numbers)
    table = pd.DataFrame({name: rows[source].map(str, na_action="ignore") for source, name in TEXTS.items()})
    table["reason"] = table["reason"].map(without_paths, na_action="ignore")
    method = rows["config.method.class_path"].fillna(rows["config.source.layout"])
    table["method"] = method.astype(object).map(str, na_action="ignore").fillna("no method")
    return table.assign(**{name: _numbers(rows[source]) for source, name in NUMBERS.items()}).reset_index(drop=True)


def log(root: Path, name: str) -> pd.DataFrame | None:
    """Return what a run logged: one row a step, in numbers; None where it has no log yet.

    Raises:
        MedsslError: The log lies outside of the folder under review, or is none that `pretrain` wrote.
    """
    path = inside(root, f"{name}/metrics.csv")
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST_BYTES:
        raise MedsslError(f"the log has more than {LARGEST_BYTES >> 20} MiB: expected one that medssl pretrain wrote")
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' errors are ValueErrors
        raise MedsslError(
            f"the log cannot be read ({type(error).__name__}): expected the metrics.csv of a run"
        ) from None
    if "step" not in table:
        raise MedsslError("the log has no column step: expected the metrics.csv that medssl pretrain wrote")
    table = table.apply(_numbers).replace([np.inf, -np.inf], np.nan).dropna(subset=["step"])
    return table.sort_values("step", kind="stable").reset_index(drop=True)


def measures(logs: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the names of what any of the runs measured, in the order of `MEASURES`, then the method's own."""
    found = {str(column) for table in logs.values() for column in table.columns[table.notna().any()]} - {"step"}
    return sorted(found, key=lambda name: (MEASURES.index(name) if name in MEASURES else len(MEASURES), name))


def summary(run: pd.Series, curves: pd.DataFrame | None) -> str:
    """Return one sentence on how a run went; run: a row of `pretraining_runs`."""
    name = f"{run['run']} ({run['method']})"
    if run["kind"] == "import":
        return f"{name} was imported and not trained here."
    if curves is None or not curves["step"].size:
        return f"{name} has logged nothing yet."
    last = int(curves["step"].iloc[-1])
    planned = f" of {run['planned']:.0f}" if np.isfinite(run["planned"]) else ""
    told = f"{name}: step {last:,}{planned}"
    told += "".join(f", {text} {_from_to(curves[key])}" for key, text in _TOLD.items() if _known(curves, key))
    if np.isfinite(run["collapsed_at"]):
        return f"{told}. Its features collapsed at step {run['collapsed_at']:.0f}."
    if np.isfinite(run["plateau_at"]):
        return f"{told}. It stopped improving at step {run['plateau_at']:.0f}."
    return f"{told}."


def restored(root: Path, name: str, run: Run) -> list[tuple[str, Frame]]:
    """Return the pictures that a run kept of its last step: source, corrupted, restored of each crop; empty where it kept none.

    Args:
        root: The folder under review.
        name: The run's folder.
        run: Its record, which knows the spacing.

    Raises:
        MedsslError: They lie outside of the folder under review.
    """
    path = inside(root, f"{name}/examples.npz")
    if not path.is_file():
        return []
    slices, data_spec = arrays(path, "source"), DataSpec.from_record(run.config)
    affine = np.diag([*(*(data_spec.spacing_mm or (1.0, 1.0)), 1.0)[:3], 1.0])
    frames = []
    for number in sorted(int(key.rpartition(".")[2]) for key in slices if key.startswith("source.")):
        window = _window(slices[f"source.{number}"])
        for kind in KINDS_OF_PICTURES:
            if f"{kind}.{number}" in slices:
                frames.append(
                    (f"{kind} {number + 1}", _frame(slices[f"{kind}.{number}"], affine, data_spec.dims == 3, window))
                )
    return frames


_TOLD = {"loss": "loss", "knn": "kNN accuracy", "effective_rank": "effective rank"}


def _known(curves: pd.DataFrame, key: str) -> bool:
    return key in curves and bool(curves[key].notna().any())


def _from_to(values: pd.Series) -> str:
    """The first and the last value, or the one there is."""
    known = values.dropna()
    first, last = (f"{float(value):.3g}".replace("-", "−") for value in (known.iloc[0], known.iloc[-1]))
    return last if len(known) == 1 else f"{first} to {last}"


def _window(image: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(image, [1, 99])
    return float(low), float(max(high, low + 1e-6))


def _frame(image: np.ndarray, affine: np.ndarray, volume: bool, window: tuple[float, float]) -> Frame:
    """Without letters at its edges: the views that a method is given may be mirrored and turned."""
    cut = slice_of(image[:, :, None] if volume else image, affine, "axial", 0)
    plane = Plane(cut.pixels, cut.row_mm, cut.column_mm)
    return Frame(picture(plane, window), plane, False)


def _numbers(values: Any) -> Any:
    return pd.to_numeric(values, errors="coerce")
