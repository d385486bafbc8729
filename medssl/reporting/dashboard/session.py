"""What the pages share in a reader's session: the runs, the chosen study, and results kept until a file changes.

    study = session.study()          # None, with a message on the page, where there is none

Imports Streamlit and no torch.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import cases, folder
from medssl.reporting.dashboard import study as study_files
from medssl.reporting.dashboard.server import settings
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.studies.results import LabelCurve

REFRESH_S = 5.0  # between two checks whether the folder changed
KEPT_S = 60.0  # no file changes when a process dies: only time shows it, so the table of runs is read again after this


def root() -> Path:
    """Return the folder under review."""
    return settings().root


def read_folder() -> None:
    """Read the folder again if it changed."""
    stamp = folder.stamp(root())
    st.session_state["stamp"], st.session_state["runs"] = stamp, _runs_below(root(), stamp)


def runs_in_folder() -> pd.DataFrame:
    """Return the runs below the folder, as `folder.runs_below` has them."""
    return st.session_state["runs"]


def choose_study() -> None:
    """Let the reader choose one of the studies; one that the address names is taken only if it is in the list.

    Raises:
        MedsslError: The address names a folder outside of the one under review, or no readable study.
    """
    names, requested = folder.studies(runs_in_folder()), st.query_params.get("study")
    if requested is not None and requested not in names:
        folder.inside(root(), requested)
        raise MedsslError(
            "there is no readable study of the requested name in this folder: open the page without study= in its address"
        )
    if not names:
        st.session_state["study"] = None
        return
    if st.session_state.get("study") not in names:
        st.session_state["study"] = requested or names[0]
    st.selectbox("Study", names, key="study", format_func=lambda name: "(this folder)" if name == "." else name)
    st.query_params["study"] = st.session_state["study"]


def study() -> ReviewedStudy | None:
    """Return the chosen study; None, with a message on the page, where there is none."""
    name = st.session_state["study"]
    if name is None:
        state = "is empty" if runs_in_folder().empty else "holds no study that can be read"
        st.info(f"This folder {state}. `medssl study --out` writes a study; the page Runs lists what is here.")
        return None
    return _study(root(), name, study_stamp(), runs_in_folder())


def study_stamp() -> str:
    """Return a text that changes when the chosen study does."""
    return study_files.study_stamp(root(), runs_in_folder(), st.session_state["study"])


def label_curves(shown: ReviewedStudy) -> list[LabelCurve] | None:
    """Return the label curves of the chosen study; see `ReviewedStudy.label_curves`."""
    return _label_curves(shown.folder, study_stamp(), shown)


def cache_of(shown: ReviewedStudy) -> tuple[Cache | None, str]:
    """Return the cache of the study, or the reason why there is none; see `cases.cache_of`."""
    return _cache(shown.run.data, settings().data, shown.run)


def mask_of(shown: ReviewedStudy, key: Key, draw: int, scan: str) -> np.ndarray | None:
    """Return what a cell predicted for a scan; None where it saved no mask."""
    file = shown.cell_folder(key, draw) / "masks.npz"
    return _masks(file.parent, file.stat().st_mtime).get(scan) if file.exists() else None


@st.fragment(run_every=REFRESH_S)
def follow_folder() -> None:
    """Check every few seconds whether the folder changed, and draw the page again if it did."""
    if folder.stamp(root()) != st.session_state["stamp"]:
        st.rerun()
    running = int((runs_in_folder()["status"] == "running").sum())
    st.caption(f"{len(runs_in_folder())} runs, {running} running. Last checked at {time.strftime('%H:%M:%S')}.")


@st.cache_resource(show_spinner=False, ttl=KEPT_S, max_entries=4)
def _runs_below(root: Path, stamp: str) -> pd.DataFrame:
    return folder.runs_below(root)


@st.cache_resource(show_spinner="Reading the study", max_entries=8)
def _study(root: Path, name: str, stamp: str, _runs: pd.DataFrame) -> ReviewedStudy:
    return study_files.read_study(root, name, _runs)


@st.cache_resource(show_spinner="Computing the labels saved", max_entries=8)
def _label_curves(folder: Path, stamp: str, _study: ReviewedStudy) -> list[LabelCurve] | None:
    return _study.label_curves()


@st.cache_resource(show_spinner=False, max_entries=4)
def _cache(data: str, caches: tuple[Path, ...], _run: Run) -> tuple[Cache | None, str]:
    return cases.cache_of(_run, caches)


@st.cache_resource(show_spinner=False, max_entries=8)
def _masks(cell: Path, stamp: float) -> dict[str, np.ndarray]:
    return study_files.saved_masks(cell)
