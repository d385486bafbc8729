"""What the pages share in a reader's session: the runs, the reader's choices, and results kept until a file changes.

    study = session.study()                      # None, with a message on the page, where there is none
    session.select(case="4f1c")                  # the address states it, so that Back and a link show it

Imports Streamlit and no torch.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.evaluation.projections import Principal, embedded, principal
from medssl.evaluation.read_off import ReadOff, read_off
from medssl.evaluation.similar_features import closest_pairs
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard import cases, cohort, embedding, folder, label_next, viewer
from medssl.reporting.dashboard import study as study_files
from medssl.reporting.dashboard.cases import Frame
from medssl.reporting.dashboard.cohort import Cohort
from medssl.reporting.dashboard.embedding import Features
from medssl.reporting.dashboard.selection import Selection
from medssl.reporting.dashboard.server import settings
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.dashboard.watch import FolderWatch
from medssl.studies.forecast import ArmForecast
from medssl.studies.forecast import forecasts as arm_forecasts
from medssl.studies.kept import KeptCells
from medssl.studies.results import LabelCurve

REFRESH_S = 5.0  # between two checks whether the folder changed


def root() -> Path:
    """Return the folder under review."""
    return settings().root


def read_folder() -> None:
    """Take the runs as they are now."""
    st.session_state["version"], st.session_state["runs"] = _watch(root()).now()


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


def forecasts(shown: ReviewedStudy) -> list[ArmForecast]:
    """Return the forecast of every arm of the chosen study; see `studies.forecast.forecasts`."""
    return _forecasts(shown.folder, study_stamp(), shown)


def lists_to_label() -> list[str]:
    """Return the lists of scans to label in the folder, the newest first; it is walked again when it changed."""
    return _lists_to_label(root(), st.session_state["version"])


def cohorts() -> dict[str, Path]:
    """Return name -> folder of the manifests and caches given with --data, and of those below the folder under review."""
    return _cohorts(root(), settings().data, st.session_state["version"])


def read_cohort(name: str) -> Cohort:
    """Return one of `cohorts`; it is read again when its manifest changed."""
    where = cohorts()[name]
    return _cohort(name, where, cohort.stamp(where))


def thumbnail(cache: Cache, scan: str, plane: str, window: tuple[float, float]) -> Frame:
    """Return a small picture of the middle slice of a scan, drawn once."""
    return _thumbnail(cache.path, cache.digest, scan, plane, window, cache)


def feature_files() -> list[str]:
    """Return the files of features in the folder, the newest first; it is walked again when it changed."""
    return _feature_files(root(), st.session_state["version"])


def features(name: str) -> Features:
    """Return the features of a file, read again when it is written anew; see `embedding.read`."""
    return _features(root(), name, embedding.stamp(root(), name))


def projection(shown: Features, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows that are drawn, their places, and the shares of the variance along the principal components."""
    flat = _principal(shown.id, shown)
    return *_projection(shown.id, kind, flat), flat.shares


def readable(shown: Features, column: str, values: pd.Series) -> ReadOff | None:
    """Return how well a column of the manifest can be read off the features; see `read_off.read_off`."""
    return _readable(shown.id, column, pd.util.hash_pandas_object(values.astype(str)).sum(), shown, values)


def alike(shown: Features, most: int) -> tuple[list[tuple[int, int, float]], int]:
    """Return the closest near-duplicates among the features, and how many there are."""
    return _alike(shown.id, most, shown)


def caches() -> list[Cache]:
    """Return the caches given with --data that can be read."""
    return _caches(settings().data)


def cache_of(shown: ReviewedStudy) -> tuple[Cache | None, str]:
    """Return the cache of the study, or the reason why there is none; see `cases.cache_of`."""
    return _cache(shown.run.data, settings().data, shown.run)


def fullest_slices(cache: Cache, scan: str, segmented: bool) -> dict[str, int]:
    """Return plane -> the slice with most of the reference; the mask is read once a scan, not with every slice."""
    return _fullest_slices(cache.digest, scan, segmented, cache)


@st.fragment(run_every=REFRESH_S)
def follow_folder() -> None:
    """Check every few seconds whether the folder changed, and draw the page again if it did."""
    if _watch(root()).now()[0] != st.session_state["version"]:
        st.rerun()
    running = int((runs_in_folder()["status"] == "running").sum())
    st.caption(f"{len(runs_in_folder())} runs, {running} running. Last checked at {time.strftime('%H:%M:%S')}.")


def _query() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


@st.cache_resource(show_spinner=False, max_entries=4)
def _watch(root: Path) -> FolderWatch:
    return FolderWatch(root)


@st.cache_resource(show_spinner=False, max_entries=8)
def _kept_cells(study: Path) -> KeptCells:
    return KeptCells()


@st.cache_resource(show_spinner="Reading the study", max_entries=8)
def _study(root: Path, name: str, stamp: str, _runs: pd.DataFrame) -> ReviewedStudy:
    return study_files.read_study(root, name, _runs, _kept_cells(root / name))


@st.cache_resource(show_spinner="Computing the labels saved", max_entries=8)
def _label_curves(folder: Path, stamp: str, _study: ReviewedStudy) -> list[LabelCurve] | None:
    return _study.label_curves()


@st.cache_resource(show_spinner="Computing the forecast", max_entries=8)
def _forecasts(folder: Path, stamp: str, _study: ReviewedStudy) -> list[ArmForecast]:
    return arm_forecasts(_study.cases, _study.main, _study.task.metric)


@st.cache_data(show_spinner=False, max_entries=4)
def _lists_to_label(root: Path, version: int) -> list[str]:
    return label_next.lists(root)


@st.cache_data(show_spinner=False, max_entries=4)
def _cohorts(root: Path, data: tuple[Path, ...], version: int) -> dict[str, Path]:
    return cohort.cohorts(root, data)


@st.cache_resource(show_spinner="Reading the manifest", max_entries=4)
def _cohort(name: str, where: Path, stamp: int) -> Cohort:
    return cohort.read_cohort(name, where)


@st.cache_resource(show_spinner=False, max_entries=2_000)
def _thumbnail(path: Path, data: str, scan: str, plane: str, window: tuple[float, float], _cache: Cache) -> Frame:
    return cases.thumbnail(_cache, scan, plane, window)


def _feature_files(root: Path, version: int) -> list[str]:
    return embedding.files(root)


@st.cache_resource(show_spinner="Reading the features", max_entries=2)
def _features(root: Path, name: str, stamp: tuple[int, int]) -> Features:
    return embedding.read(root, name)


@st.cache_resource(show_spinner="Computing the principal components", max_entries=4)
def _principal(digest: str, _features: Features) -> Principal:
    return principal(_features.vectors)


@st.cache_resource(show_spinner="Placing the scans", max_entries=8)
def _projection(digest: str, kind: str, _flat: Principal) -> tuple[np.ndarray, np.ndarray]:
    return embedded(kind, _flat)


@st.cache_data(show_spinner="Reading the column off the features", max_entries=32)
def _readable(digest: str, column: str, content: int, _features: Features, _values: pd.Series) -> ReadOff | None:
    return read_off(_features.vectors, _values.where(_values.notna(), None), _features.table["patient"])


@st.cache_data(show_spinner="Comparing the scans with each other", max_entries=4)
def _alike(digest: str, most: int, _features: Features) -> tuple[list[tuple[int, int, float]], int]:
    return closest_pairs(_features.vectors, _features.table["patient"], embedding.ALIKE, most)


@st.cache_resource(show_spinner=False, max_entries=4)
def _caches(paths: tuple[Path, ...]) -> list[Cache]:
    readable = []
    for path in paths:
        with suppress(MedsslError):  # the page on cases says why a cache cannot be read
            readable.append(Cache(path))
    return readable


@st.cache_resource(show_spinner=False, max_entries=4)
def _cache(data: str, caches: tuple[Path, ...], _run: Run) -> tuple[Cache | None, str]:
    return cases.cache_of(_run, caches)


@st.cache_data(show_spinner=False, max_entries=10_000)
def _fullest_slices(data: str, scan: str, segmented: bool, _cache: Cache) -> dict[str, int]:
    return viewer.fullest_slices(_cache.read_mask(scan) if segmented else None, _cache.shape(scan))
