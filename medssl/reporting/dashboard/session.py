"""What the pages share in a reader's session: the runs, the reader's choices, and results kept until a file changes.

    study = session.study()                      # None, with a message on the page, where there is none
    session.select(case="4f1c")                  # the address states it, so that Back and a link show it

Imports Streamlit and no torch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import cases, folder
from medssl.reporting.dashboard import study as study_files
from medssl.reporting.dashboard.selection import Selection
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


def selection() -> Selection:
    """Return the choices that the address of the page states; what it states wrongly is left out."""
    return Selection.from_query(_query())[0]


def misread() -> list[str]:
    """Return the names of parameters of the address whose values cannot be read."""
    return Selection.from_query(_query())[1]


def select(**choices: Any) -> None:
    """Take choices of the reader: the address states them, and those that they end are dropped from it."""
    st.query_params.from_dict(selection().changed(**choices).to_query())


def studies() -> list[str]:
    """Return the studies of the folder, the newest first."""
    return folder.studies(runs_in_folder())


def take_study() -> str:
    """Take the newest study where the address names none; return what is wrong with the one it names, or nothing."""
    requested, names = selection().study, studies()
    if requested is None and names:
        select(study=names[0])
    elif requested is not None and requested not in names:
        try:
            folder.inside(root(), requested)
        except MedsslError as error:
            return str(error)
        return "there is no readable study of the requested name in this folder"
    return ""


def study() -> ReviewedStudy | None:
    """Return the chosen study; None, with a message on the page, where there is none."""
    name = selection().study
    if name is None:
        state = "is empty" if runs_in_folder().empty else "holds no study that can be read"
        st.info(f"This folder {state}. `medssl study --out` writes a study; the page Runs lists what is here.")
        return None
    return _study(root(), name, study_stamp(), runs_in_folder())


def study_stamp() -> str:
    """Return a text that changes when the chosen study does."""
    return study_files.study_stamp(root(), runs_in_folder(), str(selection().study))


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


def _query() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


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
