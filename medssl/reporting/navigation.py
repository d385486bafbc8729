"""The side bar: the pages and the studies, as links and a list that keep what the reader has chosen.

navigation.show([st.Page("apps/review/runs.py", title="Runs")])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from medssl.reporting import controls, widgets
from medssl.reporting.dashboard import session


def show(pages: Sequence[Any]) -> None:
    """Show the links to the pages, and the studies where there are any; pages: of `st.navigation`."""
    query = session.selection().to_query()
    for page in pages:
        st.page_link(page, query_params=query)
    names, chosen = session.studies(), session.selection().study
    if names and (chosen is None or chosen in names):
        controls.selectbox(st, "study", "Study", names, text=study_name)


def show_studies(reason: str, page: Any) -> None:
    """Say why the study of the address cannot be shown, with a link to every study that can; page: the one to open."""
    st.error(widgets.plain(f"{reason[:1].upper()}{reason[1:]}."))
    names = session.studies()
    widgets.caption("These studies can be shown:" if names else "It holds no study that can be read.")
    for name in names:
        choices = session.selection().changed(study=name)
        st.page_link(page, label=widgets.plain(study_name(name)), query_params=choices.to_query())


def note_misread() -> None:
    """Say which parts of the address cannot be read; they are left out."""
    if names := session.misread():
        widgets.caption(f"The address states {', '.join(names)} in a way that cannot be read: the default is shown.")


def study_name(folder: str) -> str:
    """Return how a study is called: its folder below the one under review."""
    return "(this folder)" if folder == "." else folder
