"""Page: all runs below the folder, what they cost, and how those that are chosen differ."""

import pandas as pd
import streamlit as st

from medssl.reporting import widgets
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.runs import device_hours, differences, run_table
from medssl.reporting.style import status_name

TITLE = "Runs"
ORDER = 2

COLUMNS = {
    "run": st.column_config.TextColumn(width="medium"),
    "status": st.column_config.TextColumn(width="small"),
    "draw": st.column_config.NumberColumn(format="%d"),
    "score": st.column_config.NumberColumn(format="%.3f", help="Dice, AUROC or kNN accuracy"),
    "seconds": st.column_config.NumberColumn(format="%.1f"),
    "peak_memory_mib": st.column_config.NumberColumn("peak memory, MiB"),
    "samples_per_s": st.column_config.NumberColumn("samples/s", format="%.1f"),
    "started": st.column_config.DatetimeColumn("started, UTC", format="YYYY-MM-DD HH:mm"),
}


def show(rows: pd.DataFrame) -> None:
    """The counts, the table, and the settings that differ between the runs chosen in it."""
    if rows.empty:
        st.info("This folder is empty: no run lies below it. `medssl pretrain` and `medssl study` write runs.")
        return
    show_counts(rows)
    rows = filtered(rows)
    event = st.dataframe(
        rows,
        key=f"runs {len(rows)}",
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        column_config=COLUMNS,
        height=430,
    )
    st.markdown("##### Settings that differ")
    chosen = rows.iloc[[i for i in event.selection.rows if i < len(rows)]]["run"].tolist()
    if len(chosen) < 2:
        st.caption("Select two or more runs in the table to see which of their settings differ.")
        return
    with widgets.guarded("The comparison"):
        show_differences(differences(session.root(), chosen))


def show_counts(rows: pd.DataFrame) -> None:
    counts = rows["status"].value_counts()
    columns = st.columns(len(counts) + 2)
    columns[0].metric("runs", len(rows))
    columns[1].metric("device-hours", f"{device_hours(session.runs_in_folder()):.2f}")
    for column, (status, count) in zip(columns[2:], counts.items(), strict=True):
        column.metric(widgets.plain(status), int(count))


def filtered(rows: pd.DataFrame) -> pd.DataFrame:
    left, right = st.columns(2)
    kinds = left.multiselect("Kind", sorted(rows["kind"].dropna().unique()), placeholder="all kinds")
    statuses = right.multiselect("Status", sorted(rows["status"].unique()), placeholder="every status")
    rows = rows[rows["kind"].isin(kinds)] if kinds else rows
    return rows[rows["status"].isin(statuses)] if statuses else rows


def show_differences(differing: pd.DataFrame) -> None:
    if differing.empty:
        st.caption("These runs have the same settings.")
    else:
        widgets.text_frame(differing)


table = run_table(session.runs_in_folder())
show(table.assign(status=table["status"].map(status_name)))
