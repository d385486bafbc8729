"""Curves of pretraining runs over each other, one chart a measure: a colour, a line and a mark for each run.

    drawn = chart({"simclr": log}, "effective_rank", styles({"simclr"}), ends)

A vertical line marks where a run collapsed or stopped improving; a cross, where one ended that did not finish.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from medssl.reporting import widgets
from medssl.reporting.style import COLOURS, MARKERS

TITLES = {
    "loss": "loss",
    "knn": "kNN accuracy, balanced",
    "dense_auroc": "AUROC of structures from places",
    "view_retrieval": "retrieval of a scan by another view",
    "effective_rank": "effective rank",
    "feature_std": "spread of the features",
    "dense_rank": "effective rank within scans",
    "alignment": "alignment (lower: views agree)",
    "uniformity": "uniformity (lower: more spread)",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
    "samples_per_s": "samples per second",
    "memory_mib": "memory, MiB",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FEW = 40  # values of a curve that are marked one by one


class Style(NamedTuple):
    """Colour, line and marker of a run, in plotly's words."""

    colour: str
    line: str
    marker: str


class End(NamedTuple):
    """How a run ended: the step at which it collapsed, or stopped improving, and whether it finished."""

    collapsed_at: float = float("nan")
    plateau_at: float = float("nan")
    unfinished: bool = False


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return the style of each run, in the order given."""
    return {
        name: Style(
            COLOURS[place % len(COLOURS)],
            DASHES[place % len(DASHES)],
            widgets.SYMBOLS[MARKERS[place % len(MARKERS)]],
        )
        for place, name in enumerate(names)
    }


def title(measure: str) -> str:
    """Return how a measure is written."""
    return TITLES.get(measure, measure.removeprefix("method.").replace("_", " "))


def chart(
    logs: Mapping[str, pd.DataFrame],
    measure: str,
    looks: Mapping[str, Style],
    ends: Mapping[str, End],
    legend: bool = False,
) -> go.Figure:
    """Draw one measure over the steps.

    Args:
        logs: Run -> its log.
        measure: Column of the logs.
        looks: Run -> its style.
        ends: Run -> how it ended.
        legend: Whether the runs are named below the chart.
    """
    drawn = go.Figure()
    for name, table in logs.items():
        if measure in table and table[measure].notna().any():
            _add_run(drawn, name, table[["step", measure]].dropna(), looks[name], ends[name], legend)
    drawn.update_xaxes(title="step", showgrid=False)
    drawn.update_yaxes(title=None)
    drawn.update_layout(
        height=380 if legend else 260,
        margin={"l": 10, "r": 10, "t": 36, "b": 10},
        title={"text": html.escape(title(measure)), "font": {"size": 15}},
        legend={"orientation": "h", "y": -0.25, "x": 0},
        showlegend=legend,
        hovermode="closest",
    )
    return drawn


def _add_run(drawn: go.Figure, name: str, rows: pd.DataFrame, look: Style, end: End, legend: bool) -> None:
    """The curve of a run, and the marks of how it ended."""
    measure, colour, text = rows.columns[1], widgets.visible(look.colour), html.escape(name)
    drawn.add_scatter(
        x=rows["step"],
        y=rows[measure],
        name=text,
        legendgroup=text,
        mode="lines+markers" if len(rows) < FEW else "lines",
        line={"color": colour, "dash": look.line, "width": 2},
        marker={"symbol": look.marker, "size": 7},
        hovertext=[f"{text}<br>step {step:g}: {value:.4g}" for step, value in rows.itertuples(index=False)],
        hoverinfo="text",
    )
    for step, what, dash in ((end.collapsed_at, "collapsed", "dash"), (end.plateau_at, "no longer improving", "dot")):
        if pd.notna(step):
            drawn.add_vline(
                x=step,
                line_color=colour,
                line_dash=dash,
                line_width=1.5,
                annotation_text=what,
                annotation_textangle=-90,
            )
    if end.unfinished:
        last = rows.iloc[-1]
        drawn.add_scatter(
            x=[last["step"]],
            y=[last[measure]],
            mode="markers",
            legendgroup=text,
            showlegend=False,
            marker={"symbol": "x", "size": 12, "color": colour},
            hovertext=[f"{text} ended here"],
            hoverinfo="text",
        )
