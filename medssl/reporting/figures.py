"""The report's figures, as data URIs that stand in the page: charts as SVG, scans as PNG.

    uri = label_curves(rows)          # "data:image/svg+xml;base64,..."

Colours are Okabe and Ito's, which colour-blind readers tell apart ("Color universal design", 2008); every arm
has a marker of its own besides. No chart holds more than the numbers of the table beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
BASELINES = {
    "scratch": (GREY, "o", "-"),
    "scratch-long": (GREY, "s", "--"),
    "random-frozen": (GREY, "^", ":"),
}
MODES = {"finetune": "fine-tuned", "linear": "linear probe", "knn": "kNN"}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999",
    "axes.linewidth": 0.7,
    "axes.labelcolor": "#333",
    "xtick.color": "#555",
    "ytick.color": "#555",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "medssl",
}


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each arm: baselines grey, the others in order of appearance."""
    others = [arm for arm in dict.fromkeys(arms) if arm not in BASELINES]
    own = {arm: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "-") for i, arm in enumerate(others)}
    return {arm: BASELINES.get(arm) or own[arm] for arm in dict.fromkeys(arms)}


def named(arm: str, mode: str) -> str:
    """How an arm is written: `simmim, linear probe`."""
    return f"{arm}, {MODES.get(mode, mode)}"


def label_curves(rows: pd.DataFrame, metric: str) -> str:
    """Score over labelled patients (log axis) with intervals, one panel a mode, scratch in each of them.

    rows: the summary's, of one metric (arm, mode, patients, mean, low, high).
    """
    style, modes = looks(rows["arm"].tolist()), [m for m in MODES if (rows["mode"] == m).any()]
    with rc_context(STYLE):
        figure = Figure(figsize=(max(6.2, 3.4 * len(modes)), 3.5), layout="constrained")
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        for axes, mode in zip(panels, modes):
            shown = rows[(rows["mode"] == mode) | (rows["arm"] == "scratch")]
            for shift, ((arm, _), curve) in zip(dodge(shown), shown.groupby(["arm", "mode"], sort=False)):
                _curve(axes, curve.sort_values("patients"), style[str(arm)], str(arm), shift)
            axes.set_xscale("log")
            sizes = sorted(rows["patients"].unique())
            axes.set_xticks(sizes, [f"{n:g}" for n in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set(xlabel="labelled patients, validation included", title=MODES[mode])
            axes.grid(axis="y")
        panels[0].set_ylabel(metric)
        handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)))
        return _svg(figure)


def forest(rows: pd.DataFrame, metric: str) -> str:
    """Paired differences against scratch with intervals, grouped by budget; rows as in the summary."""
    style = looks(rows["arm"].tolist())
    rows = rows.sort_values(["patients", "arm", "mode"], kind="stable").reset_index(drop=True)
    places, ticks, place = [], [], 0.0
    for _, group in rows.groupby("budget_name", sort=False):
        ticks.append((place - 0.8, _budget_name(group.iloc[0])))
        places += [place + i for i in range(len(group))]
        place += len(group) + 1.1
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.6 + 0.24 * place), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#333", linewidth=0.8)
        for at, (_, row) in zip(places, rows.iterrows()):
            colour, marker, _ = style[row["arm"]]
            low, high = row["difference_low"], row["difference_high"]
            axes.plot([low, high], [at, at], color=colour, linewidth=1.6, solid_capstyle="round")
            clear = low > 0 or high < 0
            axes.plot(row["difference"], at, marker, color=colour, markerfacecolor=colour if clear else "white")
            axes.annotate(
                signed(row["difference"], low, high),
                (1.01, at),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        names = [named(arm, mode) for arm, mode in zip(rows["arm"], rows["mode"])]
        axes.set_yticks([*places, *(at for at, _ in ticks)], [*names, *(text for _, text in ticks)])
        for label in axes.get_yticklabels()[len(places) :]:
            label.set(weight="bold", color="black")
        axes.set(ylim=(place - 0.9, -1.5), xlabel=f"{metric} minus that of scratch")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return _svg(figure)


def segmentations(pictures: Mapping[str, Mapping[str, np.ndarray]], volumes: bool) -> str:
    """Worst, median and best case a row: {arm: {image.0, reference.0, prediction.0, dice.0, image.1, ...}}.

    volumes: slices (X, Y) of RAS+ volumes, shown in the radiological way, the patient's right on the left.
    """
    with rc_context(STYLE):
        count = max(len(_numbers(shown, "image")) for shown in pictures.values())
        figure = Figure(figsize=(2.1 * count + 0.6, 2.25 * len(pictures)), layout="constrained")
        grid = figure.subplots(len(pictures), count, squeeze=False)
        for row, (arm, shown) in zip(grid, pictures.items()):
            for axes in row:
                axes.set_axis_off()
            for axes, n in zip(row, _numbers(shown, "image")):
                _picture(axes, shown[f"image.{n}"], volumes)
                for kind, colour, line in (
                    ("reference", "#F0E442", "solid"),
                    ("prediction", "#56B4E9", "dashed"),
                ):
                    mask = _upright(shown[f"{kind}.{n}"], volumes)
                    for structure in np.unique(mask[mask > 0]):
                        axes.contour(mask == structure, [0.5], colors=colour, linewidths=1.1, linestyles=line)
                score = float(shown[f"dice.{n}"]) if f"dice.{n}" in shown else np.nan
                case = ("worst", "median", "best")[n] if count == 3 else f"case {n + 1}"
                axes.set_title(case if np.isnan(score) else f"{case}, Dice {score:.2f}", fontsize=8, weight="normal")
            row[0].text(
                -0.06,
                0.5,
                arm,
                transform=row[0].transAxes,
                rotation=90,
                va="center",
                ha="right",
                weight="bold",
            )
        return _png(figure)


def reconstructions(shown: Mapping[str, np.ndarray], volumes: bool) -> str:
    """Slices a pretext restored, one column a crop: {source.0, corrupted.0, restored.0, source.1, ...}."""
    kinds = [k for k in ("source", "corrupted", "restored") if f"{k}.0" in shown]
    numbers = _numbers(shown, kinds[0])[:4]
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 * len(numbers) + 0.5, 1.65 * len(kinds)), layout="constrained")
        grid = figure.subplots(len(kinds), len(numbers), squeeze=False)
        for row, kind in zip(grid, kinds):
            for axes, n in zip(row, numbers):
                low, high = np.percentile(shown[f"{kinds[0]}.{n}"], [1, 99])
                _picture(axes, np.clip(shown[f"{kind}.{n}"], low, high), volumes, (low, high))
                axes.set_axis_off()
            row[0].text(-0.06, 0.5, kind, transform=row[0].transAxes, rotation=90, va="center", ha="right")
        return _png(figure)


def training_curves(curves: Mapping[str, pd.DataFrame]) -> str:
    """Loss, effective rank and kNN over steps of each pretraining run: {arm: frame with a step column}."""
    titles = {"loss": "loss", "effective_rank": "effective rank", "knn": "kNN accuracy"}
    kept = [k for k in titles if any(k in frame and frame[k].notna().any() for frame in curves.values())]
    style = looks(list(curves))
    with rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(kept) + 0.3, 2.5), layout="constrained")
        for axes, column in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept):
            for arm, frame in curves.items():
                known = frame[["step", column]].dropna() if column in frame else frame.iloc[:0]
                sparse = style[arm][1] if len(known) < 30 else None
                axes.plot(
                    known.get("step", []),
                    known.get(column, []),
                    color=style[arm][0],
                    marker=sparse,
                    markersize=3,
                    label=arm,
                )
            axes.set(title=titles[column], xlabel="step")
            axes.grid(axis="y")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return _svg(figure)


def signed(value: float, low: float, high: float) -> str:
    """+0.031 [0.010, 0.052], with a real minus sign."""
    return f"{value:+.3f} [{low:.3f}, {high:.3f}]".replace("-", "−")


def _curve(axes: Axes, curve: pd.DataFrame, style: tuple[str, str, str], label: str, shift: float) -> None:
    colour, marker, line = style
    at, mean = curve["patients"] * shift, curve["mean"]
    axes.plot(at, mean, linestyle=line, marker=marker, color=colour, label=label)
    axes.vlines(at, curve["low"], curve["high"], color=colour, linewidth=1.1, alpha=0.75)


def dodge(rows: pd.DataFrame) -> list[float]:
    """Factors that set the curves of one panel side by side, so that their intervals can be told apart."""
    count = rows.groupby(["arm", "mode"]).ngroups
    return list(np.geomspace(0.95, 1 / 0.95, count)) if count > 1 else [1.0]


def _budget_name(row: pd.Series) -> str:
    plural = "" if row["patients"] == 1 else "s"
    return f"{row['budget_name']}: {row['patients']:g} patient{plural}"


def _numbers(shown: Mapping[str, Any], kind: str) -> list[int]:
    return sorted(int(key.split(".")[1]) for key in shown if key.startswith(f"{kind}."))


def _upright(array: np.ndarray, volumes: bool) -> np.ndarray:
    """A slice (X, Y) of a RAS+ volume as rows by columns, right to the left; an image as it is."""
    return array.T[::-1, ::-1] if volumes else array


def _picture(axes: Axes, image: np.ndarray, volumes: bool, window: tuple[float, float] | None = None) -> None:
    low, high = window or np.percentile(image, [1, 99])
    axes.imshow(_upright(image, volumes), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")


def _svg(figure: Figure) -> str:
    """Without the metadata, which would name outside addresses."""
    buffer = io.BytesIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=empty)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
