"""Page: the scans of a manifest or a cache, counted by any column; what was rejected; labels by part of the study; contact sheets."""

import html

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.reporting import cohort_tables, controls, downloads, widgets
from medssl.reporting.cohort_tables import column_name
from medssl.reporting.dashboard import cohort, cohort_parts, session, viewer
from medssl.reporting.dashboard.cohort import Cohort
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.style import counted

TITLE = "Cohort"
ORDER = 9

ON_A_SHEET = 24  # pictures
THUMBNAIL_PX = 150
LISTED = 1_000  # rejected scans on the page; the download has all
ROW_PX = 26  # of one value in the chart
EVERY = "all values"


def show() -> None:
    """The cohort in one sentence, then its counts, rejects, labels, header text and pictures."""
    names = list(session.cohorts())
    if not names:
        if session.study() is not None:
            st.info(
                "No manifest and no cache lies in this folder. Start the dashboard with --data and the folder of either."
            )
        return
    name = controls.selectbox(st, "cohort", "Manifest or cache", names)
    with widgets.guarded("This manifest"):
        shown = session.read_cohort(name)
        widgets.heading(cohort_tables.sentence(shown))
        st.caption(
            "Sizes and spacings are those after `medssl prepare`."
            if shown.prepared
            else "Sizes and spacings are those of the files."
        )
        if len(shown.usable):
            glance = cohort_tables.at_a_glance(shown.usable)
            widgets.table(glance, index="column")
            downloads.table(
                glance.frame(), "At a glance, CSV", "cohort.csv", texts=["column", "commonest values (scans)"]
            )
            column = show_counts(shown)
            with widgets.guarded("The contact sheet"):
                show_sheet(shown, column)
        with widgets.guarded("The rejected scans"):
            show_rejected(shown)
        with widgets.guarded("The labels"):
            show_labels(shown)
        with widgets.guarded("The audit"):
            show_audit(shown)


def show_counts(shown: Cohort) -> str:
    """Scans and patients by one column; return the column."""
    st.markdown("##### Counts")
    column = controls.selectbox(st, "column", "Column", cohort.columns(shown.usable), text=column_name)
    rows = cohort.counts(shown.usable, column)
    left, right = st.columns([3, 2])
    left.plotly_chart(bars(rows), config={"displayModeBar": False})
    with right:
        widgets.text_frame(rows.set_index("value"))
        downloads.table(rows, "Counts, CSV", "counts.csv", texts=["value"])
    commonest = rows.loc[rows["scans"].idxmax()]
    widgets.caption(
        f"Usable scans by {column_name(column)}: {counted(len(rows), 'value')}, most often {commonest['value']} "
        f"({commonest['scans']} of {len(shown.usable)} scans)."
    )
    return column


def bars(rows: pd.DataFrame) -> go.Figure:
    """One bar a value: its scans."""
    names = [html.escape(value) for value in rows["value"]]
    texts = [
        f"<b>{name}</b><br>{row.scans} scans, {row.patients} patients"
        for name, row in zip(names, rows.itertuples(), strict=True)
    ]
    drawn = go.Figure()
    drawn.add_bar(
        x=rows["scans"], y=names, orientation="h", marker={"color": widgets.POINTS}, hovertext=texts, hoverinfo="text"
    )
    drawn.update_yaxes(autorange="reversed", type="category", title=None)
    drawn.update_xaxes(title="scans", rangemode="tozero")
    return drawn.update_layout(
        height=110 + ROW_PX * len(rows), margin={"l": 10, "r": 10, "t": 10, "b": 10}, bargap=0.25
    )


def show_sheet(shown: Cohort, column: str) -> None:
    """The middle slices of the scans that have one value of the column, a page at a time."""
    st.markdown("##### Contact sheet")
    cache = next((each for each in session.caches() if each.path == shown.folder), None)
    if cache is None:
        st.caption("Pictures are made of a cache that is given with --data; this folder is none.")
        return
    places = st.container(key="pairs-of-sheet").columns([2, 1.4, 2, 1])
    groups = cohort.values(shown.usable, column)
    known = [str(value) for value in groups.cat.categories if (groups == value).any()]
    value = controls.selectbox(places[0], "value", column_name(column), [EVERY, *known])
    rows = groups.index if value == EVERY else groups.index[groups == value]
    scans = shown.usable.loc[rows.unique()]
    plane = "axial"
    if cache.dims == 3:
        plane = controls.selectbox(places[1], "plane", "Plane", list(viewer.PLANES))
    presets = viewer.windows(cache.modality)
    window = presets[controls.selectbox(places[2], "window", "Window", list(presets))]
    sheets = -(-len(scans) // ON_A_SHEET)
    number = controls.selectbox(places[3], "sheet", "Sheet", list(range(1, sheets + 1)))
    start = (number - 1) * ON_A_SHEET
    page = scans.iloc[start : start + ON_A_SHEET]
    show_pictures(cache, page, plane, window)
    what = f"the middle {plane} slice of each" if cache.dims == 3 else "each as a whole"
    widgets.caption(f"Scans {start + 1} to {start + len(page)} of {len(scans)}, {what}.")


def show_pictures(cache: Cache, page: pd.DataFrame, plane: str, window: tuple[float, float]) -> None:
    """The pictures of one sheet; scans that cannot be read are named below them."""
    pictures, missing = [], []
    with st.spinner("Reading the slices"):
        for row in page.itertuples():
            try:
                pictures.append((session.thumbnail(cache, row.scan, plane, window), row.scan))
            except MedsslError:
                missing.append(row.scan)
    if pictures:
        widgets.case_pictures(pictures, narrowest_px=THUMBNAIL_PX)
    if missing:
        st.warning(widgets.plain(f"The voxels of these scans are missing or damaged: {', '.join(missing)}."))


def show_rejected(shown: Cohort) -> None:
    """Why scans cannot be used, and which."""
    st.markdown("##### Scans that cannot be used")
    if shown.rejected.empty:
        st.caption("None was rejected.")
        return
    reasons = cohort.reject_reasons(shown.rejected)
    widgets.text_frame(reasons[["scans", "reason"]].set_index("scans"))
    st.caption("Reasons that differ only in a number of the scan are counted together; the first is shown.")
    with st.expander("Scan by scan"):
        st.dataframe(shown.rejected.head(LISTED), hide_index=True, height=280)
        if len(shown.rejected) > LISTED:
            st.caption(f"The first {LISTED} of {len(shown.rejected)}; the download has all.")
        downloads.table(shown.rejected, "Rejected scans, CSV", "rejected.csv", texts=["reason"])
    st.caption("`medssl where SCAN`, on the machine that indexed the scans, names the files of one.")


def show_labels(shown: Cohort) -> None:
    """The classes of a label in each part of the chosen study."""
    st.markdown("##### Labels in the parts of the study")
    study = chosen_study()
    if study is None:
        st.caption("No study is chosen.")
        return
    cache, reason = session.cache_of(study)
    if cache is None or cache.path != shown.folder:
        widgets.caption(reason or "The chosen study was made with another cache: choose that one above.")
        return
    names = cohort.labels(shown.usable)
    label = controls.selectbox(st, "label", "Label", names, default=study_label(study, names)) if names else None
    roles, subsets = cohort_parts.roles_of(study.run, cache.manifest), cohort_parts.subsets_of(study.folder)
    table = cohort_tables.parts(cohort_parts.counts_by_part(cache.manifest, roles, subsets, label))
    widgets.table(table, index="class")
    widgets.caption(cohort_tables.PARTS_CAPTION)
    downloads.table(table.frame(), "Labels by part, CSV", "labels_by_part.csv", texts=["class"])


def chosen_study() -> ReviewedStudy | None:
    return session.study() if session.selection().study in session.studies() else None


def study_label(study: ReviewedStudy, names: list[str]) -> str:
    """The label that a classification was trained for, where the cohort has it."""
    own = study.run.config.get("label")
    return own if own in names else names[0]


def show_audit(shown: Cohort) -> None:
    """Which fields of headers held text, by count."""
    st.markdown("##### Header text that was left behind")
    table = cohort.read_audit(shown.folder)
    if table is None:
        st.caption("No audit lies in this folder: `medssl index --audit` writes one beside the manifest.")
        return
    kept = table[table["became"] != "nothing"]
    widgets.caption(
        f"{len(table)} fields of the headers held text. Of {len(table) - len(kept)} nothing was kept; {len(kept)} were replaced or "
        "used for sorting alone. The values themselves are not recorded."
    )
    st.dataframe(table, hide_index=True, height=280)
    downloads.table(table, "Audit, CSV", "audit.csv", texts=["field", "name", "became"])


show()
