"""Page: a reader grades cases without knowing the arm, in an order of the reader's own; and what all readings add up to."""

from functools import partial

import pandas as pd
import streamlit as st

from medssl.core.errors import MedsslError
from medssl.datasets.label_file import label_file
from medssl.datasets.manifest import read_table
from medssl.preprocessing.cache import Cache
from medssl.reporting import controls, downloads, reading_tables, sign_in, widgets
from medssl.reporting.dashboard import cases, readers, reading, reading_results, session, viewer
from medssl.reporting.dashboard.readers import Reader
from medssl.reporting.dashboard.reading import Pair
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.reporting.display import choose_display
from medssl.reporting.reading_form import Form
from medssl.reporting.style import arm_name
from medssl.reporting.verdicts import readings
from medssl.studies import masks

TITLE = "Reading"
ORDER = 5

VIEWS = {"read": "Read", "results": "Results"}
WHY = "Your readings are kept with your name, the time, the study, the case and the runs. You do not see which arm is which."


def show(study: ReviewedStudy) -> None:
    """The sign-in, then the cases or the results."""
    if not study.cases:
        st.info("No cell of this study has cases that can be read yet.")
        return
    who = sign_in.reader(WHY)
    if who is None:
        return
    sign_in.show_message()
    view = controls.radio(st, "view", "Show", list(VIEWS), text=VIEWS.__getitem__) if who.admin else "read"
    with widgets.guarded("The verdicts"):
        if view == "results":
            show_results(study)
        else:
            read(study, who)


def read(study: ReviewedStudy, who: Reader) -> None:
    """One case of this reader."""
    cache, reason = session.cache_of(study)
    if cache is None:
        st.info(widgets.plain(reason))
        return
    pair = choose_pair(study, who)
    scans = reading.order(who.name, study, pair, cache.manifest["scan"].tolist())
    if not scans:
        st.info("The arms have no case in common in this draw.")
        return
    engine = readers.verdicts(study.folder)
    mine = readings.latest(readings.readings(engine, study.run.id, who.name))
    done = reading.own_readings(mine, study, pair)
    case = chosen_case(scans, set(done))
    count = sum(scan in done for scan in scans)
    widgets.heading(f"You have read {count} of {len(scans)} cases." if count < len(scans) else finished(len(scans)))
    st.progress(
        count / len(scans),
        f"Case {scans.index(case) + 1} of {len(scans)} in your order"
        + (", which you have read: saving replaces your reading" if case in done else ""),
    )
    show_case(study, pair, who, case, cache)
    form = form_of(study, pair, who, case, cache)
    form.draw(done[case].answers if case in done else ())
    act(study, pair, who, case, scans, set(done), form)


def choose_pair(study: ReviewedStudy, who: Reader) -> Pair:
    """The cells to read: as the address states them, or as an admin chooses."""
    budgets = cases.budgets(study)
    if not who.admin:
        return stated_pair(study, budgets)
    with st.expander("What is compared (the link of this page keeps it for other readers)"):
        columns = st.container(key="pairs-of-arms").columns([1, 1, 2, 2])
        budget = controls.selectbox(columns[0], "budget", "Budget", budgets)
        draw = controls.selectbox(columns[1], "draw", "Draw", cases.draws(study.cases, budget))
        names = cases.arms(study.cases, budget, draw)
        first = controls.selectbox(columns[2], "a", "One arm", names, text=lambda arm: arm_name(*arm))
        others = [arm for arm in reversed(names) if arm != first]
        second = None
        if others:
            second = controls.selectbox(columns[3], "b", "Other arm", others, text=lambda arm: arm_name(*arm))
        st.caption("Which of them is A and which is B changes from case to case, and from reader to reader.")
    return Pair(budget, draw, (*first, budget), (*second, budget) if second else None)


def stated_pair(study: ReviewedStudy, budgets: list[str]) -> Pair:
    """The cells that the address states, so far as the study has them."""
    stated = session.selection()
    budget = stated.budget if stated.budget in budgets else budgets[0]
    draws = cases.draws(study.cases, budget)
    draw = stated.draw if stated.draw in draws else draws[0]
    names = cases.arms(study.cases, budget, draw)
    first = stated.a if stated.a in names else names[0]
    others = [arm for arm in reversed(names) if arm != first]
    second = stated.b if stated.b in others else others[0] if others else None
    return Pair(budget, draw, (*first, budget), (*second, budget) if second else None)


def chosen_case(scans: list[str], done: set[str]) -> str:
    """The case of the address, else the first that is not read yet, else the first."""
    wanted = session.selection().case
    if wanted in scans:
        return str(wanted)
    return next((scan for scan in scans if scan not in done), scans[0])


def finished(count: int) -> str:
    return f"You have read all {count} cases. Thank you."


def show_case(study: ReviewedStudy, pair: Pair, who: Reader, scan: str, cache: Cache) -> None:
    """The scan alone, and what the arm on each side made of it, without the reference and without names."""
    shown, segmented = reading.sides(who.name, study, pair, scan), study.task.keeps_examples
    display = choose_display(cache, scan, segmented)
    if not segmented:
        frames = cases.scan_frames(cache, scan, display, False)
        widgets.case_pictures(
            [(frames[0], "image")], [chart(study, key, pair, letter, scan) for letter, key in shown.items()]
        )
        return
    part = viewer.part_of_slice(cache.shape(scan), display.plane, display.index)
    predictions = [masks.read(study.cell_folder(key, pair.draw), scan, *part) for key in shown.values()]
    frames = cases.scan_frames(cache, scan, display, True, [None, *predictions])[1:]  # without that of the reference
    captions = [
        "image",
        *(letter if frame.masked else f"{letter}: no mask was saved" for letter, frame in zip(shown, frames[1:])),
    ]
    legend = {f"structure {structure}": viewer.structure_colour(structure) for structure in cache.structures}
    widgets.case_pictures(list(zip(frames, captions, strict=True)), legend=legend)
    if not all(frame.masked for frame in frames[1:]):
        st.info("Only the cells of a study's first draw save their masks: choose that draw to read.")


def chart(study: ReviewedStudy, key: Key, pair: Pair, letter: str, scan: str) -> dict:
    """The class probabilities of one side; the true class is not marked."""
    probabilities, _ = cases.class_probabilities(study.cases[key][pair.draw], scan)
    return widgets.probability_chart(letter, probabilities, "")


def form_of(study: ReviewedStudy, pair: Pair, who: Reader, scan: str, cache: Cache) -> Form:
    """The questions about a case."""
    about, letters = (who.name, *pair, scan), ("A", "B") if pair.second else ("A",)
    if study.task.keeps_examples:
        return Form(about, letters, cache.structures)
    classes = cases.class_probabilities(study.cases[pair.first][pair.draw], scan)[0]
    return Form(about, letters, (0,), tuple(classes))


def act(study: ReviewedStudy, pair: Pair, who: Reader, scan: str, scans: list[str], done: set[str], form: Form) -> None:
    """Save, move on without saving, undo."""
    left = [other for other in scans if other not in done and other != scan]
    later = set(scans[scans.index(scan) + 1 :])
    after = next((other for other in left if other in later), left[0] if left else None)
    columns = st.container(key="pairs-of-actions").columns([2, 1, 1, 1])
    columns[0].button(
        "Save and go on",
        on_click=partial(save, study, pair, who, scan, form, after),
        type="primary",
        shortcut="S",
        width="stretch",
    )
    controls.steps(columns[1:3], "case", scans, scan)
    columns[3].button(
        "Undo",
        on_click=partial(undo, study, who, form),
        shortcut="U",
        width="stretch",
        help="Take back the reading that you saved last",
    )
    answers = form.answers()
    if answers and (lacking := reading.missing(answers, form.letters, form.structures)):
        widgets.caption(f"Not said yet: {', '.join(lacking)}. What is there can be saved.")


def save(study: ReviewedStudy, pair: Pair, who: Reader, scan: str, form: Form, after: str | None) -> None:
    """Keep the answers as they are now, and go on to the next case that is not read."""
    answers = form.answers()
    if not answers:
        sign_in.tell("Nothing is answered yet, so nothing was saved.")
        return
    try:
        readings.save(readers.verdicts(study.folder), reading.reading_of(who.name, study, pair, scan, answers))
    except MedsslError as error:
        sign_in.tell(str(error), failed=True)
        return
    form.forget()
    session.select(case=after)


def undo(study: ReviewedStudy, who: Reader, form: Form) -> None:
    """Take back the reader's last reading of this study, and open its case."""
    try:
        undone = readings.undo(readers.verdicts(study.folder), who.name, study.run.id)
    except MedsslError as error:
        sign_in.tell(str(error), failed=True)
        return
    if undone is None:
        sign_in.tell("There is no reading of yours to take back.")
        return
    form.forget()
    sign_in.tell(f"The reading of scan {undone.scan} is taken back.")
    session.select(case=undone.scan)


def show_results(study: ReviewedStudy) -> None:
    """Preference, grades and agreement of all readers, and what can be taken along."""
    table = readings.as_table(readings.readings(readers.verdicts(study.folder), study.run.id))
    counted = table[table["counts"]]
    if counted.empty:
        st.info("Nobody has read a case of this study yet.")
        return
    preferred = reading_results.preferences(table)
    widgets.heading(reading_tables.sentence(counted, preferred))
    st.caption("The results name the arms: a reader who has not finished should not look at them.")
    if len(preferred):
        st.markdown("##### Preference")
        widgets.table(reading_tables.preferences(preferred), index="arm")
        widgets.caption(reading_tables.PREFERENCES)
    graded = reading_results.grades(table)
    if len(graded):
        st.markdown("##### Grades")
        widgets.table(reading_tables.grades(graded), index="arm")
    st.markdown("##### Agreement")
    agreed = reading_results.agreement(table)
    if agreed.empty:
        st.caption("Agreement needs two readers who answered the same question about two cases or more.")
    else:
        widgets.table(reading_tables.agreement(agreed), index="question")
        widgets.caption(reading_tables.AGREEMENT)
    st.markdown("##### Take along")
    take_along(study, table)


def take_along(study: ReviewedStudy, table: pd.DataFrame) -> None:
    """The verdicts as CSV, and the corrected labels as `index` takes them."""
    downloads.table(table, "All verdicts, CSV", "verdicts.csv", texts=["reader", "value"])
    changes, undecided = reading_results.corrected_classes(table)
    label, (cache, reason) = study.run.config.get("label"), session.cache_of(study)
    if undecided:
        widgets.caption(
            f"Readers are divided on {len(undecided)} scans, whose label stays: {', '.join(undecided[:20])}"
        )
    if not changes:
        return
    if cache is None or not label:
        widgets.caption(reason or "The record of this study does not name its label, so no labels can be written.")
        return
    downloads.labels(label_file(read_table(cache.path / "manifest.parquet"), str(label), changes), "labels.csv")


study = session.study()
if study is not None:
    show(study)
