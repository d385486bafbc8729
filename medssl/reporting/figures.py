"""The figures of the report: charts as SVG, scans as PNG, each as a data URI for the page and as files to take along.

    drawing = label_curves(rows, "Dice")
    drawing.uri                               # "data:image/svg+xml;base64,..."
    drawing.file("png")                       # the same, with 300 dots an inch

No chart shows more than the numbers of the table beside it. Colours and names are those of `style.py`.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from medssl.reporting.style import MODES, ArmStyle, arm_styles, counted, difference, offset_factors, scoped_arm
from medssl.studies.forecast import ArmForecast

PAGE_DPI, PAPER_DPI = 130, 300
REFERENCE, PREDICTION = "#F0E442", "#56B4E9"

RC: Any = {
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
    "text.parse_math": False,  # names come from data: two dollar signs in one are no formula
}


_DRAWING = threading.Lock()  # matplotlib draws one figure at a time, also where several readers wait for it
LETTERS_AN_INCH = 14  # of a legend, at the size of the font above


class Drawing:
    """A figure, drawn once as the page shows it.

    Args:
        figure: The figure.
        shown_as: The format in which a page shows it.
    """

    def __init__(self, figure: Figure, shown_as: Literal["svg", "png"] = "svg") -> None:
        self._figure, self.shown_as = figure, shown_as
        self._shown = _saved(figure, shown_as, PAGE_DPI)

    @property
    def uri(self) -> str:
        """The address with which a page shows it."""
        kind = "svg+xml" if self.shown_as == "svg" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self._shown).decode()}"

    def file(self, kind: Literal["svg", "png"]) -> bytes:
        """Return it as a file for a paper."""
        return self._shown if kind == self.shown_as == "svg" else _saved(self._figure, kind, PAPER_DPI)


def label_curves(rows: pd.DataFrame, metric: str) -> Drawing:
    """Draw the score against the number of labelled patients (log axis) with intervals, one panel per mode, scratch in each.

    Args:
        rows: The summary's rows of one metric (arm, mode, patients, mean, low, high).
        metric: The name of that metric as it is written.
    """
    styles, modes = arm_styles(rows["arm"].tolist()), [m for m in MODES if (rows["mode"] == m).any()]
    with rc_context(RC):
        figure = Figure(figsize=(max(6.2, 3.4 * len(modes)), 3.5), layout="constrained")
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        lines: dict[str, Artist] = {}
        for axes, mode in zip(panels, modes):
            lines |= _curves(axes, rows[(rows["mode"] == mode) | (rows["arm"] == "scratch")], styles)
            sizes = sorted(rows["patients"].unique())
            axes.set_xticks(sizes, [f"{n:g}" for n in sizes])
            axes.set(xlabel="labelled patients, validation included", title=MODES[mode])
        panels[0].set_ylabel(metric)
        _legend(figure, lines, columns=5)
        return Drawing(figure)


def forecasts(arms: Sequence[ArmForecast], metric: str) -> Drawing:
    """Draw the measured scores of each arm, its fitted label curve and, beyond the largest budget, the curve's band."""
    styles = arm_styles([arm.arm for arm in arms])
    with rc_context(RC):
        figure = Figure(figsize=(6.2, 3.5), layout="constrained")
        axes, lines = figure.add_subplot(), {}
        for arm in arms:
            if (curve := arm.forecast) is None:
                continue
            style, n = styles[arm.arm], np.geomspace(curve.sizes[0], curve.farthest, 80)
            drawn, beyond = curve.at(n), n >= curve.sizes[-1]
            name = scoped_arm(arm.arm, arm.mode, arm.pretraining_runs)
            (lines[name],) = axes.plot(curve.sizes, curve.scores, style.marker, color=style.colour)
            axes.plot(n[~beyond], drawn.mean[~beyond], color=style.colour, linestyle=style.line, linewidth=1)
            axes.plot(n[beyond], drawn.mean[beyond], color=style.colour, linestyle="--", linewidth=1)
            limits = drawn.low[beyond], drawn.high[beyond]
            axes.fill_between(n[beyond], *limits, color=style.colour, alpha=0.18, linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        ticks = sorted({float(n) for arm in arms if arm.forecast for n in (*arm.forecast.sizes, arm.forecast.farthest)})
        axes.set_xticks(ticks, [f"{n:g}" for n in ticks])
        axes.set(xlabel="labelled patients, validation included", ylabel=metric)
        axes.grid(axis="y")
        _legend(figure, lines, columns=3)
        return Drawing(figure)


def forest(rows: pd.DataFrame, metric: str) -> Drawing:
    """Draw paired differences against scratch with their intervals, grouped by budget; rows as in the summary."""
    styles = arm_styles(rows["arm"].tolist())
    rows = rows.sort_values(["patients", "arm", "mode"], kind="stable").reset_index(drop=True)
    heights, groups, height = [], {}, 0.0
    for _, group in rows.groupby("budget_name", sort=False):
        first = group.iloc[0]
        groups[f"{first['budget_name']}: {counted(first['patients'], 'patient')}"] = height - 0.8
        heights += [height + i for i in range(len(group))]
        height += len(group) + 1.1
    with rc_context(RC):
        figure = Figure(figsize=(7.6, 0.6 + 0.24 * height), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#333", linewidth=0.8)
        for at, (_, row) in zip(heights, rows.iterrows()):
            _forest_line(axes, at, row, styles[row["arm"]])
        names = [scoped_arm(*key) for key in zip(rows["arm"], rows["mode"], rows["pretraining_runs"])]
        axes.set_yticks([*heights, *groups.values()], [*names, *groups])
        for label in axes.get_yticklabels()[len(heights) :]:
            label.set(weight="bold", color="black")
        axes.set(ylim=(height - 0.9, -1.5), xlabel=f"difference in {metric} from training from scratch")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return Drawing(figure)


def segmentations(examples: Mapping[str, Mapping[str, np.ndarray]], volumes: bool) -> Drawing:
    """Draw the worst, median and best case of each arm, one row per arm.

    Args:
        examples: Arm -> {image.0, reference.0, prediction.0, dice.0, image.1, ...}.
        volumes: Whether these are slices (X, Y) of RAS+ volumes, which are shown in the radiological convention, with
            the patient's right on the left.
    """
    with rc_context(RC):
        count = max(len(_numbers(arrays, "image")) for arrays in examples.values())
        figure = Figure(figsize=(2.1 * count + 0.6, 2.25 * len(examples)), layout="constrained")
        grid = figure.subplots(len(examples), count, squeeze=False)
        for row, (arm, arrays) in zip(grid, examples.items()):
            for axes in row:
                axes.set_axis_off()
            for axes, n in zip(row, _numbers(arrays, "image")):
                _segmentation(axes, arrays, n, volumes)
                score = float(arrays[f"dice.{n}"]) if f"dice.{n}" in arrays else np.nan
                case = ("worst", "median", "best")[n] if count == 3 else f"case {n + 1}"
                axes.set_title(case if np.isnan(score) else f"{case}, Dice {score:.2f}", fontsize=8, weight="normal")
            _row_title(row[0], arm, weight="bold")
        return Drawing(figure, "png")


def reconstructions(crops: Mapping[str, np.ndarray], volumes: bool) -> Drawing:
    """Draw slices that a pretext task restored, one column a crop: {source.0, corrupted.0, restored.0, source.1, ...}."""
    kinds = [k for k in ("source", "corrupted", "restored") if f"{k}.0" in crops]
    numbers = _numbers(crops, kinds[0])[:4]
    with rc_context(RC):
        figure = Figure(figsize=(1.6 * len(numbers) + 0.5, 1.65 * len(kinds)), layout="constrained")
        grid = figure.subplots(len(kinds), len(numbers), squeeze=False)
        for row, kind in zip(grid, kinds):
            for axes, n in zip(row, numbers):
                low, high = np.percentile(crops[f"{kinds[0]}.{n}"], [1, 99])
                _image(axes, np.clip(crops[f"{kind}.{n}"], low, high), volumes, (low, high))
                axes.set_axis_off()
            _row_title(row[0], kind)
        return Drawing(figure, "png")


def training_curves(logs: Mapping[str, pd.DataFrame]) -> Drawing:
    """Draw loss, effective rank and kNN accuracy over the steps of each pretraining run: {arm: log with a step column}."""
    titles = {"loss": "loss", "effective_rank": "effective rank", "knn": "kNN accuracy"}
    columns = [c for c in titles if any(c in log and log[c].notna().any() for log in logs.values())]
    styles = arm_styles(list(logs))
    with rc_context(RC):
        figure = Figure(figsize=(2.9 * len(columns) + 0.3, 2.5), layout="constrained")
        lines: dict[str, Artist] = {}
        for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns):
            for arm, log in logs.items():
                known = log.reindex(columns=["step", column]).dropna()
                marker = styles[arm].marker if len(known) < 30 else None
                (lines[arm],) = axes.plot(
                    known["step"], known[column], color=styles[arm].colour, marker=marker, markersize=3
                )
            axes.set(title=titles[column], xlabel="step")
            axes.grid(axis="y")
        _legend(figure, lines, columns=4)
        return Drawing(figure)


def _curves(axes: Axes, rows: pd.DataFrame, styles: Mapping[str, ArmStyle]) -> dict[str, Artist]:
    """Draw the curves of one panel, each shifted a little along the log axis; returns name -> line."""
    lines: dict[str, Artist] = {}
    curves = rows.groupby(["arm", "mode"], sort=False)
    for factor, ((arm, _), curve) in zip(offset_factors(curves.ngroups), curves):
        curve, style = curve.sort_values("patients"), styles[str(arm)]
        x = curve["patients"] * factor
        name = f"{arm} (this run)" if curve["pretraining_runs"].max() == 1 else str(arm)
        (lines[name],) = axes.plot(x, curve["mean"], linestyle=style.line, marker=style.marker, color=style.colour)
        axes.vlines(x, curve["low"], curve["high"], color=style.colour, linewidth=1.1, alpha=0.75)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    return lines


def _legend(figure: Figure, lines: Mapping[str, Artist], columns: int) -> None:
    """A legend below the panels, of every name: matplotlib's own would leave out those that begin with `_`."""
    numbers = [str(number) for number in range(len(lines))]
    entry_inches = 0.6 + max((len(name) for name in lines), default=0) / LETTERS_AN_INCH
    fitting = max(1, min(columns, len(lines), int(figure.get_figwidth() / entry_inches)))
    legend = figure.legend(list(lines.values()), numbers, loc="outside lower center", ncols=fitting)
    for text, name in zip(legend.get_texts(), lines):
        text.set_text(name)


def _forest_line(axes: Axes, height: float, row: pd.Series, style: ArmStyle) -> None:
    """One difference: its interval, its marker (filled where the interval excludes zero) and its numbers."""
    mean, low, high = row["difference"], row["difference_low"], row["difference_high"]
    axes.plot([low, high], [height, height], color=style.colour, linewidth=1.6, solid_capstyle="round")
    fill = style.colour if low > 0 or high < 0 else "white"
    axes.plot(mean, height, style.marker, color=style.colour, markerfacecolor=fill)
    text, beside = difference(mean, low, high), ("axes fraction", "data")
    axes.annotate(text, (1.01, height), xycoords=beside, va="center", fontsize=8)


def _segmentation(axes: Axes, arrays: Mapping[str, np.ndarray], n: int, volumes: bool) -> None:
    """One image with the outlines of its reference and its prediction."""
    _image(axes, arrays[f"image.{n}"], volumes)
    for kind, colour, line in (("reference", REFERENCE, "solid"), ("prediction", PREDICTION, "dashed")):
        mask = _upright(arrays[f"{kind}.{n}"], volumes)
        for structure in np.unique(mask[mask > 0]):
            axes.contour(mask == structure, [0.5], colors=colour, linewidths=1.1, linestyles=line)


def _row_title(axes: Axes, text: str, **font: Any) -> None:
    axes.text(-0.06, 0.5, text, transform=axes.transAxes, rotation=90, va="center", ha="right", **font)


def _numbers(arrays: Mapping[str, Any], kind: str) -> list[int]:
    """The numbers n of the arrays named `kind.n`."""
    return sorted(int(key.split(".")[1]) for key in arrays if key.startswith(f"{kind}."))


def _upright(array: np.ndarray, volumes: bool) -> np.ndarray:
    """A slice (X, Y) of a RAS+ volume as rows by columns, the patient's right on the left; an image as it is."""
    return array.T[::-1, ::-1] if volumes else array


def _image(axes: Axes, image: np.ndarray, volumes: bool, window: tuple[float, float] | None = None) -> None:
    low, high = window or np.percentile(image, [1, 99])
    axes.imshow(_upright(image, volumes), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")


def _saved(figure: Figure, kind: str, dpi: int) -> bytes:
    """As a file, without the metadata of an SVG, which would name outside addresses."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else None
    with _DRAWING, rc_context(RC):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
