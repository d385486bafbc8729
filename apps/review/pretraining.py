"""Page: pretraining runs over each other by step: loss, watched probes, rank; collapse marked; what was restored; receipts."""

import pandas as pd
import streamlit as st

from medssl.core import runs
from medssl.reporting import controls, downloads, run_curves, widgets
from medssl.reporting.dashboard import pretraining, session
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.dashboard.runs import configs
from medssl.reporting.public_weights import public_weights
from medssl.reporting.run_curves import End
from medssl.reporting.style import status_name

TITLE = "Pretraining"
ORDER = 8

AT_FIRST, MOST = 3, 12  # runs shown where none is chosen, and at once
FRONT = (
    "knn",
    "dense_auroc",
    "view_retrieval",
    "effective_rank",
    "samples_per_s",
    "lr",
)  # beside the loss; the rest is folded away
SMALL_PX = 150  # of a picture
ROW_PX = 35  # of the table
ENDED_WELL = ("finished", "running")
COLUMNS = {
    "run": st.column_config.TextColumn(width="medium"),
    "planned": st.column_config.NumberColumn("steps planned"),
    "seconds": st.column_config.NumberColumn(format="%.0f"),
    "samples_per_s": st.column_config.NumberColumn("samples/s", format="%.1f"),
    "peak_memory_mib": st.column_config.NumberColumn("peak memory, MiB"),
    "device_memory_mib": st.column_config.NumberColumn("device memory, MiB"),
    "collapsed_at": st.column_config.NumberColumn("collapsed at step"),
    "plateau_at": st.column_config.NumberColumn("no longer improving at step"),
}


def show(rows: pd.DataFrame) -> None:
    """The runs, the curves of the chosen ones, their pictures and receipts."""
    if rows.empty:
        if session.runs_in_folder().empty:
            st.info("This folder is empty. `medssl pretrain --data CACHE --out RUNS/simclr` writes a run.")
        else:
            st.info(
                "There is no pretraining run in this folder yet. `medssl pretrain --data CACHE --out RUNS/simclr` writes one."
            )
        return
    names = rows["run"].tolist()
    chosen = [name for name in session.selection().runs if name in names][:MOST] or names[:AT_FIRST]
    shown = rows.set_index("run", drop=False).loc[chosen]
    logs = read_logs(chosen)
    sentences = [pretraining.summary(run, logs.get(str(run["run"]))) for _, run in shown.iterrows()]
    widgets.heading(sentences[0])
    for sentence in sentences[1:]:
        widgets.caption(sentence)
    show_ends(shown)
    with widgets.guarded("The curves"):
        show_curves(shown, logs)
    with widgets.guarded("The pictures"):
        show_restored(chosen)
    with widgets.guarded("The receipt"):
        show_receipt(chosen)
    st.markdown("##### Runs of this folder")
    st.caption("Tick the runs to lay over each other.")
    listed = rows.assign(status=rows["status"].map(status_name)).drop(columns=["id", "reason"])
    controls.table(
        "runs",
        listed,
        names,
        chosen,
        several=True,
        column_config=COLUMNS,
        height=min(300, ROW_PX * (len(rows) + 1) + 3),
    )


def read_logs(names: list[str]) -> dict[str, pd.DataFrame]:
    """The logs of the runs; what cannot be read is said on the page."""
    logs = {}
    for name in names:
        with widgets.guarded(f"The log of {name}"):
            table = pretraining.log(session.root(), name)
            if table is not None and len(table):
                logs[name] = table
    return logs


def show_ends(shown: pd.DataFrame) -> None:
    """A warning for each run that collapsed or did not finish, with its reason."""
    for row in shown.itertuples():
        if pd.notna(row.collapsed_at) or row.status not in ENDED_WELL:
            reason = row.reason if pd.notna(row.reason) else "no reason was recorded"
            st.warning(widgets.plain(f"{row.run}: {status_name(row.status)}. {reason}"))


def show_curves(shown: pd.DataFrame, logs: dict[str, pd.DataFrame]) -> None:
    """The loss, what else tells most, and the rest in a fold; all of it as a table."""
    measures = pretraining.measures(logs)
    if not measures:
        st.info("None of these runs has logged a step yet.")
        return
    looks = run_curves.styles(shown["run"])
    ends = {row.run: End(row.collapsed_at, row.plateau_at, row.status not in ENDED_WELL) for row in shown.itertuples()}
    front = [name for name in measures if name in FRONT]
    rest = [name for name in measures if name not in ("loss", *front)]
    if "loss" in measures:
        show_chart(run_curves.chart(logs, "loss", looks, ends, legend=True), "loss")
    show_charts(front, logs, looks, ends)
    if rest:
        with st.expander("Other measures"):
            show_charts(rest, logs, looks, ends)
    st.caption(
        "The losses of two methods cannot be compared; the probes can, where the scans and the label are the same. Probes and ranks are "
        "taken on a fixed sample of the training scans, at every watch."
    )
    table = pd.concat([table.assign(run=name) for name, table in logs.items()], ignore_index=True)
    downloads.table(table[["run", *table.columns.drop("run")]], "Curves, CSV", "pretraining.csv", texts=["run"])


def show_charts(measures: list[str], logs: dict, looks: dict, ends: dict) -> None:
    """Charts, two in a row."""
    for first in range(0, len(measures), 2):
        columns = st.columns(2)
        for column, measure in zip(columns, measures[first : first + 2]):
            with column:
                show_chart(run_curves.chart(logs, measure, looks, ends), measure)


def show_chart(drawn, measure: str) -> None:
    st.plotly_chart(drawn, key=f"curve {measure}", config={"displaylogo": False})


def show_restored(names: list[str]) -> None:
    """What restoring methods made of a few crops, as they were left at the end."""
    st.markdown("##### Restored scans")
    some = False
    for name in names:
        frames = pretraining.restored(session.root(), name, runs.read(inside(session.root(), name)))
        if frames:
            some = True
            widgets.caption(
                f"{name}, after its last step: a view of a crop, what the method was given of it, what it made of that."
            )
            widgets.case_pictures([(frame, kind) for kind, frame in frames], narrowest_px=SMALL_PX)
    if not some:
        st.caption("None of these runs restores scans, or it has not finished: pictures are kept at the end of a run.")


def show_receipt(names: list[str]) -> None:
    """The receipt of each chosen import."""
    if (receipt := public_weights(configs(session.root(), names))) is not None:
        st.markdown("##### Receipt of imported weights")
        widgets.table(receipt, "arm")


show(pretraining.pretraining_runs(session.runs_in_folder()))
