"""Page: all runs below the folder, what they cost, and how those that are chosen differ."""

import pandas as pd
import streamlit as st

from medssl.reporting import controls, widgets
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.runs import configs, device_hours, differences, run_table
from medssl.reporting.public_weights import public_weights
from medssl.reporting.style import status_name

TITLE = "Runs"
ORDER = 4

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
    everything, wanted = set(rows["run"]), session.selection().runs
    rows = filtered(rows)
    chosen = [run for run in wanted if run in everything]
    controls.table("runs", rows, rows["run"].tolist(), chosen, several=True, column_config=COLUMNS, height=430)
    with widgets.guarded("The receipt"):
        if (receipt := public_weights(configs(session.root(), chosen))) is not None:
            st.markdown("##### Receipt of imported weights")
            widgets.table(receipt, "arm")
    st.markdown("##### Settings that differ")
    if gone := [run for run in wanted if run not in everything]:
        widgets.caption(f"No longer in this folder: {', '.join(gone)}.")
    if len(chosen) < 2:
        st.caption("Select two or more runs in the table to see which of their settings differ.")
        return
    st.button("Clear the selection", on_click=session.select, kwargs={"runs": ()})
    with widgets.guarded("The comparison"):
        show_differences(differences(session.root(), chosen))


def show_counts(rows: pd.DataFrame) -> None:
    counts = rows["status"].value_counts()
    columns = st.container(key="pairs-of-counts").columns(len(counts) + 2)
    columns[0].metric("runs", len(rows))
    columns[1].metric("device-hours", f"{device_hours(session.runs_in_folder()):.2f}")
    for column, (status, count) in zip(columns[2:], counts.items(), strict=True):
        column.metric(widgets.plain(status), int(count))


def filtered(rows: pd.DataFrame) -> pd.DataFrame:
    left, right = st.columns(2)
    kinds = controls.multiselect(left, "kinds", "Kind", sorted(rows["kind"].dropna().unique()), "all kinds")
    statuses = controls.multiselect(right, "statuses", "Status", sorted(rows["status"].unique()), "every status")
    rows = rows[rows["kind"].isin(kinds)] if kinds else rows
    return rows[rows["status"].isin(statuses)] if statuses else rows


def show_differences(differing: pd.DataFrame) -> None:
    if differing.empty:
        st.caption("These runs have the same settings.")
    else:
        widgets.text_frame(differing)


table = run_table(session.runs_in_folder())
show(table.assign(status=table["status"].map(status_name)))
