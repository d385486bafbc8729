"""Signing in on a page: who is reading, or a box for a name, or why nobody can sign in here; and what an action came to.

reader = sign_in.reader("Verdicts are kept with your name.")
if reader is None: st.stop()
"""

from __future__ import annotations

import streamlit as st

from medssl.reporting import widgets
from medssl.reporting.dashboard import readers
from medssl.reporting.dashboard.readers import Reader
from medssl.reporting.redaction import without_paths

NOBODY = (
    "Other machines can see this dashboard, and nothing says who you are, so no verdict can be given here. Start it with "
    "--user-header behind a proxy that signs readers in, or with --typed-names where only trusted people reach it."
)
NAME = "your name"  # the key of the box
MESSAGE = "message of the last action"


def reader(why: str) -> Reader | None:
    """Return who is signed in, and show what a reader can do about it; why: what a name is needed for."""
    who = readers.current()
    if who is not None:
        _show_signed_in(who)
    elif readers.how() == "typed":
        _ask(why)
    else:
        st.info(widgets.plain(NOBODY))
    return who


def tell(message: str, failed: bool = False) -> None:
    """Keep a message, or an error, for the next run of the page, where `show_message` shows it."""
    st.session_state[MESSAGE] = without_paths(message), failed


def show_message() -> None:
    """Show what `tell` kept, once."""
    message, failed = st.session_state.pop(MESSAGE, ("", False))
    if message:
        (st.error if failed else st.info)(widgets.plain(message))


def _show_signed_in(who: Reader) -> None:
    left, right = st.container(key="pairs-of-sign-in").columns([5, 1], vertical_alignment="center")
    left.caption(widgets.plain(f"Signed in as {who.name}."))
    if readers.how() == "typed":
        right.button("Sign out", on_click=readers.sign_in, args=("",), type="tertiary", width="stretch")


def _ask(why: str) -> None:
    with st.form("sign in", border=False):
        st.caption(widgets.plain(why))
        left, right = st.columns([4, 1], vertical_alignment="bottom")
        left.text_input("Your name", key=NAME, max_chars=readers.MAX_CHARACTERS, autocomplete="off")
        right.form_submit_button("Sign in", on_click=_take, type="primary", width="stretch")


def _take() -> None:
    readers.sign_in(st.session_state[NAME])
