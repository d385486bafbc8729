"""Controls of the pages: each shows one field of the selection in the page's address, and changes it there.

    budget = controls.selectbox(st, "budget", "Budget", ["1p", "100%"])
    controls.table("runs", frame, names=frame["run"], several=True)     # rows are chosen by name

A choice that the page does not offer is not replaced in silence: a line says what is shown in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import pandas as pd
import streamlit as st

from medssl.reporting import widgets
from medssl.reporting.dashboard import session


def selectbox(
    place: Any,
    field: str,
    label: str,
    options: Sequence[Any],
    default: Any = None,
    text: Callable[[Any], str] = str,
    typed: bool = False,
) -> Any:
    """Show the options and return the chosen one.

    Args:
        place: Where to draw it: `st`, or a column.
        field: The field of `Selection`.
        label: What stands above it.
        options: What can be chosen; not empty.
        default: What is shown where nothing was chosen; the first option where it is None.
        text: Writes an option.
        typed: Whether a reader may type another one.
    """
    start = options[0] if default is None else default
    if typed:
        value = getattr(session.selection(), field)
        options = list(dict.fromkeys([*options, start if value is None else value]))
    key = _set(field, _offered(field, label, options, start, text))
    return place.selectbox(
        label, options, key=key, format_func=text, accept_new_options=typed, on_change=_take, args=(field,)
    )


def radio(place: Any, field: str, label: str, options: Sequence[Any], text: Callable[[Any], str] = str) -> Any:
    """Show the options beside each other and return the chosen one; arguments as of `selectbox`."""
    key = _set(field, _offered(field, label, options, options[0], text))
    return place.radio(label, options, key=key, format_func=text, horizontal=True, on_change=_take, args=(field,))


def multiselect(
    place: Any,
    field: str,
    label: str,
    options: Sequence[str],
    placeholder: str,
    text: Callable[[Any], str] = str,
) -> list[str]:
    """Show the options and return those chosen; arguments as of `selectbox`."""
    key = _set(field, [value for value in getattr(session.selection(), field) if value in options])
    return place.multiselect(
        label, options, key=key, placeholder=placeholder, format_func=text, on_change=_take, args=(field,)
    )


def slider(place: Any, field: str, label: str, last: Any, default: Any, step: Any) -> Any:
    """Show a slider from zero and return its value.

    Args:
        place: Where to draw it.
        field: The field of `Selection`.
        label: What stands above it.
        last: The largest value.
        default: The value where none was chosen.
        step: Between two values.
    """
    value = getattr(session.selection(), field)
    if value is not None and not 0 <= value <= last:
        widgets.caption(f"{label} {value} of the address is not among 0 to {last}: {default} is shown.")
        value = None
    key = _set(field, default if value is None else value)
    return place.slider(label, 0 * step, last, step=step, key=key, on_change=_take, args=(field,))


def toggle(place: Any, field: str, label: str, explanation: str, default: bool = True) -> bool:
    """Show a switch and return its state; default: the state in which it starts."""
    value = getattr(session.selection(), field)
    key = _set(field, default if value is None else value)
    return place.toggle(label, key=key, help=explanation, on_change=_take, args=(field,))


def steps(places: Sequence[Any], field: str, names: Sequence[str], chosen: str) -> None:
    """Show buttons to the name before and after the chosen one, with the keys P and N.

    Args:
        places: Where to draw the two.
        field: The field of `Selection`.
        names: The names in their order.
        chosen: The one that is shown.
    """
    place = names.index(chosen)
    for label, key, column, other in zip(("Previous", "Next"), "PN", places, (place - 1, place + 1), strict=True):
        inside = 0 <= other < len(names)
        take = partial(session.select, **{field: names[other] if inside else chosen})
        column.button(label, on_click=take, disabled=not inside, shortcut=key, width="stretch")


def table(field: str, frame: pd.DataFrame, names: Sequence[str], chosen: Sequence[str], several: bool, **style: Any):
    """Show a table in which rows are chosen by name; the chosen ones are ticked.

    Args:
        field: The field of `Selection` that holds the names, or the one name.
        frame: The rows.
        names: The name of each row.
        chosen: The names whose rows are ticked.
        several: Whether several rows can be chosen.
        style: Further arguments of `st.dataframe`.
    """
    places = {name: row for row, name in enumerate(names)}
    key = _set(field, {"selection": {"rows": [places[name] for name in chosen if name in places]}})
    st.session_state[_shown(field)] = list(names), list(chosen)
    mode: Literal["multi-row", "single-row-required"] = "multi-row" if several else "single-row-required"
    st.dataframe(
        frame, key=key, hide_index=True, selection_mode=mode, on_select=partial(_take_rows, field, several), **style
    )


def _set(field: str, value: Any) -> str:
    """Give the widget of a field its value, and return its key; its own state never outlives a run."""
    key = f"selection {field}"
    st.session_state[key] = value
    return key


def _shown(field: str) -> str:
    return f"shown {field}"


def _offered(field: str, label: str, options: Sequence[Any], default: Any, text: Callable[[Any], str]) -> Any:
    value = getattr(session.selection(), field)
    if value is None or value in options:
        return default if value is None else value
    widgets.caption(f"{label} {text(value)} of the address is not here: {text(default)} is shown.")
    return default


def _take(field: str) -> None:
    value = st.session_state[f"selection {field}"]
    session.select(**{field: tuple(value) if isinstance(value, list) else value})


def _take_rows(field: str, several: bool) -> None:
    """Take the rows of the table that the reader saw; chosen names that it does not list stay chosen."""
    names, before = st.session_state[_shown(field)]
    rows = st.session_state[f"selection {field}"]["selection"]["rows"]
    ticked = [names[row] for row in rows if row < len(names)]
    if several:
        kept = [name for name in getattr(session.selection(), field) if name in ticked or name not in names]
        session.select(**{field: (*kept, *(name for name in ticked if name not in kept))})
    elif ticked and ticked != before:  # a table of which one row is always chosen reports that one when it appears
        session.select(**{field: ticked[0]})
