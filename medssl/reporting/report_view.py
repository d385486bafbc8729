"""The report of the chosen study and selection, made once for all readers of the dashboard.

view = view_of(session.study(), Shown(arms=("scratch", "simmim")))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from medssl.core.runs import WITH_ENCODER
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.html.report import pretraining_runs, study_view
from medssl.reporting.shown import Shown


def view_of(study: ReviewedStudy, shown: Shown) -> dict[str, Any]:
    """Return what the report shows of a study; see `html.report.study_view`."""
    return _view(study.folder, session.study_stamp(), shown, study, session.runs_in_folder())


@st.cache_resource(show_spinner="Making the report", max_entries=8)
def _view(
    folder: Path, stamp: str, shown: Shown, _study: ReviewedStudy, _runs_in_folder: pd.DataFrame
) -> dict[str, Any]:
    kinds = _runs_in_folder.reindex(columns=["folder", "kind", "status"])
    known = kinds[kinds["kind"].isin(WITH_ENCODER) & (kinds["status"] != "broken")]["folder"]
    pretrained = pretraining_runs([inside(session.root(), name) for name in known])
    return study_view(folder, _study.run, _study.cells, pretrained, shown)
