"""The picture of the page Embedding: one point a scan, many of them as a picture beneath a few that can be pointed at.

    drawn = figure(places, groups, texts, ("axis 1", "axis 2"))

A browser cannot move tens of thousands of marks, and plotly's WebGL marks compile code, which the page's content security
policy forbids. Above `MOST_MARKS` all points are therefore drawn here, as one picture that moves with the axes, and a random part
of them as marks; a lasso takes all points in it, marks or not.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image, ImageColor

from medssl.reporting import widgets
from medssl.reporting.dashboard.embedding import OTHERS, UNKNOWN
from medssl.reporting.style import COLOURS, GREY, MARKERS

MOST_MARKS = 3_000
PICTURE_PX = (1400, 900)
DOT_PX = 4
ALL = "all scans"  # the one group, without a colour by which they are told apart
UNSELECTED = {"marker": {"opacity": 0.3}}  # beside picked points
SCALE = "Cividis"  # of numbers; seen alike with and without colour vision
CIVIDIS = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")


def figure(places: np.ndarray, values: pd.Series | None, texts: Sequence[str], axes: tuple[str, str]) -> go.Figure:
    """Draw the points.

    Args:
        places: (n, 2).
        values: The group of each as text, or a number; None for one colour.
        texts: What is written beside a point under the pointer, as data.
        axes: Titles of the two axes.
    """
    marks = shown_rows(len(places))
    drawn = go.Figure()
    values = pd.Series(ALL, index=range(len(places)), dtype=object) if values is None else values
    if pd.api.types.is_numeric_dtype(values):
        _add_numbers(drawn, places, values.to_numpy(float), texts, marks)
    else:
        _add_groups(drawn, places, values, texts, marks)
    low, high = places.min(0), places.max(0)
    margin = 0.04 * np.maximum(high - low, 1e-9)
    (x0, y0), (x1, y1) = low - margin, high + margin
    if len(marks) < len(places):
        colours = _colours(values)
        drawn.add_layout_image(
            source=_picture(places, colours, (x0, y0, x1, y1)),
            **{"xref": "x", "yref": "y", "x": x0, "y": y1, "sizex": x1 - x0, "sizey": y1 - y0},
            sizing="stretch",
            layer="below",
        )
    drawn.update_xaxes(range=[x0, x1], title=axes[0], showticklabels=False, zeroline=False, showgrid=False)
    drawn.update_yaxes(range=[y0, y1], title=axes[1], showticklabels=False, zeroline=False, showgrid=False)
    legend = {"orientation": "h", "y": -0.1, "x": 0, "itemsizing": "constant"}
    return drawn.update_layout(
        height=560, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend=legend, dragmode="lasso", hovermode="closest"
    )


def shown_rows(count: int) -> np.ndarray:
    """Return the rows that are drawn as marks."""
    if count <= MOST_MARKS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:MOST_MARKS])


def group_names(values: pd.Series) -> list[str]:
    """Return the groups in the order of their colours: the unknown and the others last."""
    known = sorted(set(values.dropna().astype(str)) - {OTHERS})
    return [*known, *([OTHERS] if (values == OTHERS).any() else []), *([UNKNOWN] if values.isna().any() else [])]


def _add_groups(
    drawn: go.Figure, places: np.ndarray, values: pd.Series, texts: Sequence[str], marks: np.ndarray
) -> None:
    named = values.astype(object).where(values.notna(), UNKNOWN).astype(str).to_numpy()
    names = group_names(values)
    for number, name in enumerate(names):
        rows = marks[named[marks] == name]
        colour, symbol = _style(number, name)
        drawn.add_scatter(
            x=places[rows, 0],
            y=places[rows, 1],
            mode="markers",
            name=html.escape(name),
            customdata=rows,
            hovertext=[html.escape(texts[row]) for row in rows],
            hoverinfo="text",
            showlegend=len(names) > 1,
            unselected=UNSELECTED,
            marker={"color": widgets.visible(colour), "symbol": widgets.SYMBOLS[symbol], "size": 7, "opacity": 0.75},
        )


def _add_numbers(
    drawn: go.Figure, places: np.ndarray, values: np.ndarray, texts: Sequence[str], marks: np.ndarray
) -> None:
    known, unknown = marks[np.isfinite(values[marks])], marks[~np.isfinite(values[marks])]
    for rows, marker in (
        (unknown, {"color": GREY, "symbol": "x", "size": 5, "opacity": 0.5}),
        (known, {"color": values[known], "colorscale": SCALE, "showscale": True, "size": 7, "opacity": 0.85}),
    ):
        drawn.add_scatter(
            x=places[rows, 0],
            y=places[rows, 1],
            mode="markers",
            customdata=rows,
            hovertext=[html.escape(texts[row]) for row in rows],
            hoverinfo="text",
            showlegend=False,
            unselected=UNSELECTED,
            marker=marker,
        )


def _style(number: int, name: str) -> tuple[str, str]:
    """Colour and marker: both differ between any two of twelve groups."""
    if name == ALL:
        return widgets.POINTS, "o"
    if name in (OTHERS, UNKNOWN):
        return GREY, "o" if name == OTHERS else "X"
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _colours(values: pd.Series) -> np.ndarray:
    """(n, 3) uint8: the colour of each point."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float)
        low, high = (np.nanmin(numbers), np.nanmax(numbers)) if np.isfinite(numbers).any() else (0.0, 1.0)
        share = np.nan_to_num((numbers - low) / max(high - low, 1e-12)) * (len(CIVIDIS) - 1)
        steps = np.array([ImageColor.getrgb(colour) for colour in CIVIDIS], float)
        mixed = np.stack([np.interp(share, range(len(CIVIDIS)), steps[:, channel]) for channel in range(3)], 1)
        mixed[~np.isfinite(numbers)] = ImageColor.getrgb(GREY)
        return mixed.astype(np.uint8)
    names = group_names(values)
    palette = [ImageColor.getrgb(widgets.visible(_style(n, name)[0])) for n, name in enumerate(names)]
    codes = (
        values.astype(object).where(values.notna(), UNKNOWN).astype(str).map({name: n for n, name in enumerate(names)})
    )
    return np.array(palette, np.uint8)[codes.to_numpy()]


def _picture(places: np.ndarray, colours: np.ndarray, limits: tuple[float, float, float, float]) -> str:
    """All points as a PNG with a clear ground, as a data URI; later points over earlier ones, in random order."""
    x0, y0, x1, y1 = limits
    width, height = PICTURE_PX
    order = np.random.default_rng(1).permutation(len(places))
    across = ((places[order, 0] - x0) / (x1 - x0) * (width - DOT_PX)).astype(int)
    down = ((y1 - places[order, 1]) / (y1 - y0) * (height - DOT_PX)).astype(int)
    pixels = np.zeros((height, width, 4), np.uint8)
    for row in range(DOT_PX):
        for column in range(DOT_PX):
            pixels[down + row, across + column, :3] = colours[order]
            pixels[down + row, across + column, 3] = 170
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
