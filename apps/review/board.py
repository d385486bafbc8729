"""What the pages share: results kept until a file changes, the study chosen, and words instead of tracebacks."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import cases as review_cases
from medssl.reporting.dashboard import runs as review_runs
from medssl.reporting.dashboard.runs import StudyShown
from medssl.reporting.dashboard.server import settings
from medssl.reporting.redaction import without_paths

FOLLOW_S = 5.0  # between two looks at the folder
MEMORY_S = 60.0  # a run whose process died is told by time alone, so the table is not kept longer


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Say on the page what is broken, in words that hold no path; the rest of the page goes on."""
    try:
        yield
    except MedsslError as error:
        st.error(without_paths(str(error)))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {os.path.basename(frame.filename)}:{frame.lineno}"
        st.error(f"{what} cannot be shown: its files are malformed, or of another version of medssl ({place}).")


def root() -> Path:
    return settings().root


def look() -> None:
    """Read the folder again if it changed."""
    stamp = review_runs.stamp(root())
    st.session_state["stamp"], st.session_state["found"] = stamp, _runs_below(root(), stamp)


def found() -> pd.DataFrame:
    """The runs below the folder, as `review_runs.runs_below` has them."""
    return st.session_state["found"]


def choose_page(pages: list[str]) -> str:
    """One of the pages; the address says which one is first."""
    asked = st.query_params.get("page")
    st.session_state.setdefault("page", asked if asked in pages else pages[0])
    st.query_params["page"] = st.radio("Page", pages, key="page", label_visibility="collapsed")
    return st.session_state["page"]


def choose_study() -> None:
    """A study of the list; one that the address asks for is taken only if it is in the list."""
    names, asked = review_runs.studies(found()), st.query_params.get("study")
    if asked is not None and asked not in names:
        review_runs.inside(root(), asked)
        raise MedsslError(
            "there is no readable study of the name asked for in this folder: open the page without study="
        )
    if not names:
        st.session_state["study"] = None
        return
    if st.session_state.get("study") not in names:
        st.session_state["study"] = asked or names[0]
    st.selectbox("Study", names, key="study", format_func=lambda name: "(this folder)" if name == "." else name)
    st.query_params["study"] = st.session_state["study"]


def study() -> StudyShown | None:
    """The chosen study; None, and said so on the page, where there is none."""
    name = st.session_state["study"]
    if name is None:
        state = "is empty" if found().empty else "holds no study that can be read"
        st.info(f"This folder {state}. A study is what `medssl study --out` writes; the page Runs lists what is here.")
        return None
    return _study(root(), name, _stamp(name), found())


def labels_saved(shown: StudyShown) -> tuple[pd.DataFrame | None, str, str]:
    """See `review_runs.labels_saved`."""
    name = st.session_state["study"]
    return _labels_saved(root(), name, _stamp(name), shown)


def cache_of(shown: StudyShown) -> tuple[Cache | None, str]:
    """See `review_cases.cache_of`."""
    return _cache(shown.run.data, settings().data, shown.run)


def mask_of(shown: StudyShown, key: tuple, draw: int, scan: str) -> np.ndarray | None:
    """What a cell predicted for a scan; None where it kept no mask."""
    file = cell_of(shown, key, draw) / "masks.npz"
    return _masks(file.parent, file.stat().st_mtime).get(scan) if file.exists() else None


def cell_of(shown: StudyShown, key: tuple, draw: int) -> Path:
    """The folder of a finished cell of the chosen study."""
    return root() / st.session_state["study"] / "cells" / review_runs.cell_of(shown, key, draw)


def headline(shown: StudyShown) -> None:
    """How far the study is, and what to keep in mind about it."""
    finished, planned = review_runs.progress(shown)
    if shown.run.status != "finished" or finished < planned:
        state = "stopped without a word" if shown.run.stale else shown.run.status
        st.progress(finished / max(planned, 1), f"{finished} of {planned} cells finished; the study is {state}")
    if shown.warnings:
        st.warning("  \n".join(shown.warnings), icon=":material/info:")


@st.fragment(run_every=FOLLOW_S)
def follow() -> None:
    """Look at the folder again every few seconds, and draw the page anew if it changed."""
    if review_runs.stamp(root()) != st.session_state["stamp"]:
        st.rerun()
    running = int((found()["status"] == "running").sum())
    st.caption(f"{len(found())} runs, {running} running. Looked at {time.strftime('%H:%M:%S')}.")


def _stamp(name: str) -> str:
    return review_runs.study_stamp(root(), found(), name)


@st.cache_resource(show_spinner=False, ttl=MEMORY_S, max_entries=4)
def _runs_below(root: Path, stamp: str) -> pd.DataFrame:
    return review_runs.runs_below(root)


@st.cache_resource(show_spinner="reading the study", max_entries=8)
def _study(root: Path, name: str, stamp: str, _found: pd.DataFrame) -> StudyShown:
    return review_runs.study_shown(root, name, _found)


@st.cache_resource(show_spinner="working out labels saved", max_entries=8)
def _labels_saved(root: Path, name: str, stamp: str, _shown: StudyShown) -> tuple:
    return review_runs.labels_saved(_shown)


@st.cache_resource(show_spinner=False, max_entries=4)
def _cache(data: str, caches: tuple[Path, ...], _run: Run) -> tuple:
    return review_cases.cache_of(_run, caches)


@st.cache_resource(show_spinner=False, max_entries=8)
def _masks(cell: Path, stamp: float) -> dict[str, np.ndarray]:
    return review_cases.kept_masks(cell)
