"""Elements of the dashboard's pages that show data as plain text, never as Markdown or HTML.

    widgets.table(tables.scores(study.main), index="budget")
    with widgets.guarded("The table of cells"): ...

Streamlit reads almost every text as Markdown, in which the name of an arm or of a scan could be a link, or a picture
that a browser fetches from elsewhere. Texts go through `plain`, HTML through templates that escape every value.
"""

from __future__ import annotations

import base64
import html
import io
import re
import string
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from PIL import Image

from medssl.core.errors import MedsslError
from medssl.reporting.dashboard.cases import Frame
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.findings import study_warnings
from medssl.reporting.html.template import render
from medssl.reporting.redaction import without_paths
from medssl.reporting.style import OTHER_CLASS, TRUE_CLASS, status_name
from medssl.reporting.tables import Table

ESCAPES = {ord(character): f"\\{character}" for character in string.punctuation} | {ord("\n"): " ", ord("\r"): " "}
# Addresses become links, and :material/home: and -> become icons and arrows, even where their punctuation is escaped; an
# invisible word joiner in them prevents it.
REPLACED = re.compile(r"(https?:|www(?=\.)|@|:(?=[\w+/-]+:)|-(?=[->])|<(?=[-=])|[>~](?==))", re.IGNORECASE)
WORD_JOINER = "\u2060"
SYMBOLS = {  # plotly's names for matplotlib's markers and lines
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}
BLACK, LIGHT = "#000000", "#FFFFFF"  # the last colour of arms, and what stands for it on a dark page
NEUTRAL, POINTS = "#808080", "#2E8BC0"  # lines and marks that are of no arm; both can be seen on light and dark pages
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(text: str) -> str:
    r"""Return Markdown that shows this very text.

    >>> plain("**a** [b](c)")
    '\\*\\*a\\*\\* \\[b\\]\\(c\\)'
    """
    return REPLACED.sub(rf"\1{WORD_JOINER}", text).translate(ESCAPES)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Say on the page what cannot be shown, in a message without paths; the rest of the page is not affected."""
    try:
        yield
    except MedsslError as error:
        st.error(plain(without_paths(str(error))))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        message = f"{what} cannot be shown: its files are malformed, or were written by another version of medssl"
        st.error(plain(f"{message} ({place}). Run the same command again with this version to make them anew."))


def visible(colour: str) -> str:
    """Return the colour of an arm as it can be seen on the page: black is white where the page is dark."""
    return LIGHT if colour == BLACK and st.context.theme.type == "dark" else colour


def heading(text: str) -> None:
    """Show a sentence that comes from data as the page's heading."""
    st.html(f"<h4>{html.escape(text)}</h4>")


def caption(text: str) -> None:
    """Show a text that comes from data in small print."""
    st.caption(plain(text))


def table(content: Table, index: str) -> None:
    """Show a table with its footnotes; index: the column whose values stand in front of each row."""
    frame = content.frame()
    marks = [row["mark"].translate(SUPERSCRIPTS) for row in content.rows]
    column = content.names[content.note_column]
    frame[column] = [f"{text} {mark}".strip() for text, mark in zip(frame[column], marks, strict=True)]
    text_frame(frame.set_index(index))
    for place, note in enumerate(content.notes, 1):
        caption(f"{str(place).translate(SUPERSCRIPTS)} {note[:1].upper()}{note[1:]}.")


def text_frame(frame: pd.DataFrame) -> None:
    """Show the index, the columns and the values of a DataFrame as text."""
    st.table(frame.map(_plain_value).rename(index=_plain_value, columns=_plain_value))


def progress(study: ReviewedStudy) -> None:
    """Show how far a study is, and what a reader must keep in mind about it."""
    finished, planned = study.progress()
    if study.run.status != "finished" or finished < planned:
        status = status_name("stale" if study.run.stale else study.run.status)
        st.progress(
            finished / max(planned, 1), f"{finished} of {planned} cells are finished; study status: {plain(status)}"
        )
    if warnings := study_warnings(study.run, study.cells):
        st.warning("  \n".join(plain(warning) for warning in warnings), icon=":material/info:")


def case_pictures(
    captioned: Sequence[tuple[Frame, str]],
    charts: Sequence[Mapping[str, Any]] = (),
    legend: Mapping[str, str] | None = None,
    narrowest_px: int = 320,
) -> None:
    """Show pictures of a case beside each other.

    Args:
        captioned: The frames with their captions.
        charts: Bar charts beside them, from `probability_chart`.
        legend: Name -> colour, below them.
        narrowest_px: Width below which fewer stand in a row.
    """
    pictures = [
        {
            "uri": _png_uri(frame),
            "caption": text,
            "letters": {edge: getattr(frame.plane, edge) for edge in ("top", "bottom", "left", "right")},
        }
        for frame, text in captioned
    ]
    st.html(render("cases.html.j2", pictures=pictures, charts=charts, legend=legend or {}, narrowest_px=narrowest_px))


def probability_chart(title: str, probabilities: Mapping[str, float], true_class: str) -> dict[str, Any]:
    """Return a bar chart of class probabilities, with the true class in green."""
    bars = [
        {
            "name": name,
            "value": p,
            "true": name == true_class,
            "colour": TRUE_CLASS if name == true_class else OTHER_CLASS,
        }
        for name, p in probabilities.items()
    ]
    return {"caption": title, "bars": bars}


def _plain_value(value: Any) -> str:
    return plain(str(value))


def _png_uri(frame: Frame) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame.pixels).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
