"""Page: every run below the folder, what it cost, and how those picked differ."""

import board
import pandas as pd
import streamlit as st

from medssl.reporting.dashboard import runs as review_runs

COLUMNS = {
    "run": st.column_config.TextColumn(width="medium"),
    "status": st.column_config.TextColumn(width="small"),
    "draw": st.column_config.NumberColumn(format="%d"),
    "score": st.column_config.NumberColumn(format="%.3f", help="Dice, AUROC or kNN accuracy"),
    "seconds": st.column_config.NumberColumn(format="%.1f"),
    "samples/s": st.column_config.NumberColumn(format="%.1f"),
    "started, UTC": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
}


def show() -> None:
    """Counts, the table, and the settings that differ between the runs ticked in it."""
    rows = review_runs.run_rows(board.found())
    if rows.empty:
        st.info("This folder is empty: no run lies below it. A run is what `medssl pretrain` or `medssl study` writes.")
        return
    _counts(rows)
    rows = _filtered(rows)
    event = st.dataframe(
        rows, key=f"runs {len(rows)}", hide_index=True, on_select="rerun", selection_mode="multi-row",
        column_config=COLUMNS, height=430,
    )  # fmt: skip
    st.markdown("##### Settings that differ")
    picked = rows.iloc[[i for i in event.selection.rows if i < len(rows)]]
    if len(picked) < 2:
        st.caption("Tick two runs or more in the table to see which of their settings differ.")
        return
    with board.guarded("The comparison"):
        differing = review_runs.differences(board.root(), picked["run"].tolist())
        if differing.empty:
            st.caption("These runs have the same settings.")
        else:
            st.table(differing)


def _counts(rows: pd.DataFrame) -> None:
    counts = rows["status"].value_counts()
    columns = st.columns(len(counts) + 2)
    columns[0].metric("runs", len(rows))
    columns[1].metric("device-hours", f"{review_runs.device_hours(board.found()):.2f}")
    for column, (status, count) in zip(columns[2:], counts.items(), strict=True):
        column.metric(str(status), int(count))


def _filtered(rows: pd.DataFrame) -> pd.DataFrame:
    left, right = st.columns(2)
    kinds = left.multiselect("Kind", sorted(rows["kind"].dropna().unique()), placeholder="all kinds")
    states = right.multiselect("Status", sorted(rows["status"].unique()), placeholder="every status")
    rows = rows[rows["kind"].isin(kinds)] if kinds else rows
    return rows[rows["status"].isin(states)] if states else rows
