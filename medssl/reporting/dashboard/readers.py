"""Who reads: a name typed on this machine, or the one that a proxy in front of the dashboard has signed in.

    reader = readers.current()            # None where nobody is signed in
    engine = readers.verdicts(study.folder)

Where the dashboard is served to this machine alone, whoever opens it may say any name, and is an admin. Elsewhere a proxy signs
readers in and names them in a header; the guard lets no request pass that does not come from it. A reader sees the pages to
work on, an admin all of them. A name is kept in the session and beside the verdicts, never in the address or a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import streamlit as st
from sqlalchemy import Engine

from medssl.reporting.dashboard.server import SignIn, settings
from medssl.reporting.verdicts import database

READER_PAGES = ("reading", "label_next")  # all that a reader who is no admin sees
MAX_CHARACTERS = 100  # of a name
TYPED = "reader"  # where the session keeps it


class Reader(NamedTuple):
    """Somebody who is signed in."""

    name: str
    admin: bool


def how() -> Literal["typed", "header", "none"]:
    """Return how a reader signs in here; none: verdicts cannot be given, since nobody says whose they are."""
    sign_in = settings().sign_in
    return "header" if sign_in.header else "typed" if sign_in.typed else "none"


def current() -> Reader | None:
    """Return who is signed in."""
    sign_in = settings().sign_in
    if sign_in.header:
        return of_header(sign_in, st.context.headers.get(sign_in.header))
    name = st.session_state.get(TYPED)
    return Reader(name, True) if name and sign_in.typed else None


def of_header(sign_in: SignIn, value: str | None) -> Reader | None:
    """Return the reader whom a proxy names."""
    name = clean(value or "")
    return Reader(name, name in sign_in.admins) if name else None


def sign_in(name: str) -> None:
    """Take a name that was typed; an empty one signs out."""
    st.session_state[TYPED] = clean(name)


def clean(name: str) -> str:
    """Return a name without what cannot be seen, so that one reader is not two."""
    visible = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(visible.split())[:MAX_CHARACTERS]


def may_see(page: str) -> bool:
    """Whether the reader may see a page of this name."""
    if how() != "header":
        return True
    reader = current()
    return reader is not None and (reader.admin or page in READER_PAGES)


def verdicts(folder: Path) -> Engine:
    """Return the database of verdicts: the one that --verdicts names, else the file in this folder.

    Raises:
        MedsslError: It cannot be reached or made, or has another version.
    """
    address, file = settings().verdicts, folder / database.FILE
    known = (
        file.stat().st_ino if address is None and file.is_file() else None
    )  # a file that was replaced is opened anew
    return _engine(address, None if address else folder, known)


@st.cache_resource(show_spinner=False, max_entries=16)
def _engine(address: str | None, folder: Path | None, known: int | None) -> Engine:
    return database.open_url(address) if address else database.open_file(folder or Path())
