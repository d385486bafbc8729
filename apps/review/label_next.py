"""Page: a list of `medssl select`, scan by scan with pictures: accept with a class, skip or defer; and what the labels would buy."""

from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.datasets.label_file import known_classes, label_file, label_names
from medssl.datasets.manifest import read_table
from medssl.preprocessing.cache import Cache
from medssl.reporting import controls, downloads, reading_tables, sign_in, widgets
from medssl.reporting.dashboard import cases, label_next, readers, session
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.dashboard.label_next import ScanList
from medssl.reporting.dashboard.readers import Reader
from medssl.reporting.display import choose_display
from medssl.reporting.verdicts import choices
from medssl.reporting.verdicts.choices import Choice

TITLE = "Label next"
ORDER = 6

WHY = "Your decisions are kept with your name and the time."
NEW_LABEL = "finding"  # where the cohort has no label yet
BUTTONS = {"accept": ("Accept", "A"), "skip": ("Skip", "K"), "defer": ("Defer", "D")}


def show() -> None:
    """The list, then one scan of it, then what can be taken along."""
    names = session.lists_to_label()
    if not names:
        if session.study() is not None:
            st.info(
                "There is no list of scans to label in this folder yet. `medssl select --out` writes one: give it a CSV file below "
                "the folder under review."
            )
        return
    with widgets.guarded("This list"):
        name = controls.selectbox(st, "to_label", "List of scans to label", names)
        work_on(label_next.read_list(session.root(), name))


def work_on(scans: ScanList) -> None:
    """Sign in, choose the label, and decide."""
    cache, note = label_next.cache_with(scans.table["scan"].tolist(), session.caches())
    if note:
        st.info(widgets.plain(note))
    if cache is None:
        widgets.text_frame(scans.table.head(20).set_index("rank"))
        return
    who = sign_in.reader(WHY)
    if who is None:
        return
    sign_in.show_message()
    label = controls.selectbox(
        st,
        "label",
        "Label to complete: pick one, or type the name of a new one",
        label_names(cache.manifest) or [NEW_LABEL],
        typed=True,
    )
    engine = readers.verdicts(folder_of(scans))
    table = label_next.with_decisions(scans, choices.latest(choices.choices(engine, scans.id, label)))
    widgets.heading(label_next.sentence(table))
    held = table[table["scan"].isin(cache.manifest["scan"])].reset_index(drop=True)
    left, right = st.columns([1.25, 2.75], gap="medium")
    with left, st.container(key="case-list"):
        scan = choose_scan(held)
    with right, widgets.guarded("This scan"):
        decide(scans, label, who, scan, held, cache)
    with widgets.guarded("The forecast"):
        show_forecast(table, cache)
    with widgets.guarded("The labels"):
        take_along(table, label, cache)


def choose_scan(table: pd.DataFrame) -> str:
    """The scan of the address, else the first that nobody has decided on."""
    names, wanted = table["scan"].tolist(), session.selection().case
    open_ones = table.loc[table["decision"] == "", "scan"].tolist()
    chosen = str(wanted) if wanted in names else (open_ones or names)[0]
    controls.table(
        "case",
        table[["rank", "scan", "decision", "class"]],
        names,
        [chosen],
        several=False,
        height=420,
        column_config={
            "rank": st.column_config.NumberColumn("rank", width=45),
            "scan": st.column_config.TextColumn("scan", width=105),
            "decision": st.column_config.TextColumn("decision", width=70),
            "class": st.column_config.TextColumn("class", width=75),
        },
    )
    return chosen


def decide(scans: ScanList, label: str, who: Reader, scan: str, table: pd.DataFrame, cache: Cache) -> None:
    """The pictures of a scan, its class, and the buttons."""
    row = table[table["scan"] == scan].iloc[0]
    st.markdown(f"**Scan {widgets.plain(scan)}** · patient {widgets.plain(row['patient'])} · rank {row['rank']}")
    display = choose_display(cache, scan, masked=False)
    widgets.case_pictures([(cases.scan_frames(cache, scan, display, False)[0], "")])
    known = sorted({*known_classes(cache.manifest, label), *label_next.new_labels(table).values()})
    before = row["class"] or None
    box = f"class {scans.id} {label} {scan}"
    st.selectbox(
        "Class: pick one, or type another",
        known,
        index=known.index(before) if before in known else None,
        key=box,
        accept_new_options=True,
        placeholder="none: the scan is accepted to be labelled elsewhere",
    )
    columns = st.container(key="pairs-of-actions").columns([1, 1, 1, 1, 1, 1])
    names = table["scan"].tolist()
    for column, (decision, (text, key)) in zip(columns, BUTTONS.items()):
        column.button(
            text,
            on_click=partial(
                save, scans, Choice(who.name, scans.id, label, scan, row["patient"], decision), box, table
            ),
            type="primary" if (row["decision"] or "accept") == decision else "secondary",
            shortcut=key,
            width="stretch",
        )
    controls.steps(columns[3:5], "case", names, scan)
    columns[5].button(
        "Undo",
        on_click=partial(undo, scans, label, who),
        shortcut="U",
        width="stretch",
        help="Take back your last decision",
    )
    if row["decision"]:
        widgets.caption(f"Decided by {row['reader']}: {row['decision']}{', ' + row['class'] if row['class'] else ''}.")


def save(scans: ScanList, choice: Choice, box: str, table: pd.DataFrame) -> None:
    """Keep a decision with the class that stands in the box now, and go on to the next scan without one."""
    try:
        decided = label_next.with_class(choice, st.session_state.get(box))
        choices.save(readers.verdicts(folder_of(scans)), decided)
    except MedsslError as error:
        sign_in.tell(str(error), failed=True)
        return
    names = table["scan"].tolist()
    place = names.index(choice.scan)
    open_ones = set(table.loc[table["decision"] == "", "scan"]) - {choice.scan}
    session.select(
        case=next((name for name in [*names[place + 1 :], *names[:place]] if name in open_ones), choice.scan)
    )


def undo(scans: ScanList, label: str, who: Reader) -> None:
    """Take back the reader's last decision on this list and label."""
    try:
        undone = choices.undo(readers.verdicts(folder_of(scans)), who.name, scans.id, label)
    except MedsslError as error:
        sign_in.tell(str(error), failed=True)
        return
    if undone is None:
        sign_in.tell("There is no decision of yours to take back.")
        return
    sign_in.tell(f"The decision on scan {undone.scan} is taken back.")
    session.select(case=undone.scan)


def show_forecast(table: pd.DataFrame, cache: Cache) -> None:
    """The scores with the largest budget and with the accepted patients more, for a study of the same data."""
    st.markdown("##### What the labels would buy")
    study = session.study() if session.selection().study in session.studies() else None
    if study is None or study.run.data != cache.digest:
        st.caption("No study of these data is chosen, so there is nothing to forecast from.")
        return
    accepted = label_next.accepted_patients(table)
    more = accepted or table["patient"].nunique()
    bought = label_next.what_it_buys(session.forecasts(study), more)
    if bought.empty:
        st.caption("The chosen study has too few budgets for a forecast: it takes three or more.")
        return
    widgets.table(reading_tables.forecast(bought, study.task.metric.name), index="arm")
    whose = "the accepted" if accepted else "all listed"
    widgets.caption(
        f"With {more} more labelled patients, {whose}. The label curve of the chosen study, carried on with its 95% band, which takes new "
        "patients to be random ones; those of a selector may be worth more or less."
    )


def take_along(table: pd.DataFrame, label: str, cache: Cache) -> None:
    """The labels as `index` takes them, and the decisions."""
    st.markdown("##### Take along")
    if not (table["decision"] != "").any():
        st.caption("Nothing is decided yet.")
        return
    downloads.table(table, "All decisions, CSV", "decisions.csv", texts=["class", "reader"])
    given = label_next.new_labels(table)
    if not given:
        st.caption("No accepted scan has a class, so there are no labels to write.")
        return
    downloads.labels(label_file(read_table(cache.path / "manifest.parquet"), label, given), "labels.csv")


def folder_of(scans: ScanList) -> Path:
    """The folder in which the list lies, where the decisions are kept."""
    return inside(session.root(), scans.name).parent


show()
