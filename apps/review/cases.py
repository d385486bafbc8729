"""Page: single cases, the worst first: the scan with its reference, and the predictions of two arms beside it."""

import pandas as pd
import streamlit as st

from medssl.preprocessing.cache import Cache
from medssl.reporting import controls, volume_viewer, widgets
from medssl.reporting.dashboard import cases, session, viewer, volumes
from medssl.reporting.dashboard.selection import Arm
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.reporting.display import choose_display
from medssl.reporting.style import arm_name, number
from medssl.studies import masks

TITLE = "Cases"
ORDER = 3

NO_MASK = "no mask was saved. Only the cells of a study's first draw save them."

Arms = dict[str, Key]  # "A", and "B" where the study has another arm


def show(study: ReviewedStudy) -> None:
    """The list of cases on the left, the chosen one on the right."""
    widgets.progress(study)
    if not study.cases:
        st.info("No cell of this study has cases that can be read yet.")
        return
    arms, draw = choose_arms(study)
    left, right = st.columns([1.25, 2.75], gap="medium")
    with left, st.container(key="case-list"):  # page.css gives it its width
        case = choose_case(study, arms, draw)
    with right, widgets.guarded("This case"):
        st.markdown(f"**Scan {widgets.plain(case['scan'])}** · patient {widgets.plain(case['patient'])}")
        cache, reason = session.cache_of(study)
        if cache is not None:
            show_scan(study, arms, draw, case, cache)
            return
        st.info(widgets.plain(reason))
        if study.task.keeps_examples:
            show_examples(study, arms, draw)
        else:
            widgets.case_pictures([], charts(study, arms, draw, case["scan"]))


def choose_arms(study: ReviewedStudy) -> tuple[Arms, int]:
    """Two arms of one budget and draw; B is a pretrained one where there is one, since baselines come first."""
    columns = st.container(key="pairs-of-arms").columns([1, 1, 2, 2])  # page.css: two in a row on a phone
    budget = controls.selectbox(columns[0], "budget", "Budget", cases.budgets(study))
    draw = controls.selectbox(columns[1], "draw", "Draw", cases.draws(study.cases, budget))
    names = cases.arms(study.cases, budget, draw)
    a = controls.selectbox(columns[2], "a", "Arm A", names, text=arm_text)
    others = [arm for arm in reversed(names) if arm != a]
    b = controls.selectbox(columns[3], "b", "Arm B", others, text=arm_text) if others else None
    return {letter: (*arm, budget) for letter, arm in (("A", a), ("B", b)) if arm}, draw


def choose_case(study: ReviewedStudy, arms: Arms, draw: int) -> pd.Series:
    """The worst case of arm A, unless another one is chosen."""
    listed = cases.worst_first(*(study.cases[key][draw] for key in arms.values()))
    score = "Dice" if study.task.keeps_examples else "p(true)"
    names, wanted = listed["scan"].tolist(), session.selection().case
    if wanted is not None and wanted not in names:
        widgets.caption(f"Scan {wanted} of the address is no case of these arms: the worst is shown.")
    chosen = wanted if wanted in names else names[0]
    controls.table(
        "case",
        listed.drop(columns="patient"),
        names,
        [chosen],
        several=False,
        height=560,
        column_config={
            "scan": st.column_config.TextColumn("scan, worst first", width=115),
            "a": st.column_config.NumberColumn(f"A: {score}", format="%.3f", width=75),
            "b": st.column_config.NumberColumn(f"B: {score}", format="%.3f", width=75),
        },
    )
    return listed.iloc[names.index(chosen)]


def show_scan(study: ReviewedStudy, arms: Arms, draw: int, case: pd.Series, cache: Cache) -> None:
    """The scan with its reference, and the prediction or the probabilities of each arm beside it."""
    scan, segmented = case["scan"], study.task.keeps_examples
    stills = len(cache.shape(scan)) == 2
    if not stills:
        why = "One slice of each, drawn by the server; the viewer needs WebGL 2 in the browser"
        stills = controls.toggle(st, "stills", "Still pictures", why, default=False)
    if not stills and volume_viewer.show(scene(study, arms, draw, case, cache), take_voxel):
        if not segmented:
            widgets.case_pictures([], charts(study, arms, draw, scan))
    else:
        if not stills:
            st.info("This browser has no WebGL 2, which the viewer needs: slices are shown as still pictures.")
        show_stills(study, arms, draw, case, cache)
    if notes := cases.scan_notes(cache, scan):
        widgets.caption(f"Noted when the scan was read: {notes}")


def scene(study: ReviewedStudy, arms: Arms, draw: int, case: pd.Series, cache: Cache) -> volume_viewer.Scene:
    """The scan with its reference, and each arm's prediction in a view of its own."""
    scan, segmented = case["scan"], study.task.keeps_examples
    start, shape = session.fullest_slices(cache, scan, segmented), cache.shape(scan)
    chosen = session.selection().voxel
    if chosen is None or any(place >= length for place, length in zip(chosen, shape, strict=True)):
        chosen = tuple(start[plane] for plane in ("sagittal", "coronal", "axial"))
    views = [volume_viewer.View("Scan", "scan")]
    reference = None
    if segmented:
        reference = volumes.reference_volume(cache, scan)
        views = [volume_viewer.View("Reference", "reference", mask=reference)]
        for letter, key in arms.items():
            mask = volumes.predicted_volume(cache, scan, study.cell_folder(key, draw))
            note = f"Dice {number(case[letter.lower()])}" if mask else NO_MASK
            views.append(volume_viewer.View(name(letter, key), letter, note, mask, outlined=mask is not None))
    structures = {value: f"structure {value}" for value in cache.structures} if segmented else {}
    return volume_viewer.Scene(volumes.scan_volume(cache, scan), views, cache.modality, reference, structures, chosen)


def take_voxel() -> None:
    """Keep the voxel that came into view in the address."""
    session.select(voxel=volume_viewer.voxel())


def show_stills(study: ReviewedStudy, arms: Arms, draw: int, case: pd.Series, cache: Cache) -> None:
    """One slice as still pictures."""
    scan, segmented = case["scan"], study.task.keeps_examples
    display = choose_display(cache, scan, segmented, outlined=segmented)
    if segmented:
        part = viewer.part_of_slice(cache.shape(scan), display.plane, display.index)
        predictions = [masks.read(study.cell_folder(key, draw), scan, *part) for key in arms.values()]
        frames = cases.scan_frames(cache, scan, display, True, predictions)
        predicted = [caption(letter, arms[letter], case, frame) for letter, frame in zip(arms, frames[1:], strict=True)]
        legend = {f"structure {structure}": viewer.structure_colour(structure) for structure in cache.structures}
        legend |= {"outline of the reference": viewer.OUTLINE_COLOUR}
        widgets.case_pictures(list(zip(frames, ["image and reference", *predicted], strict=True)), legend=legend)
    else:
        frames = cases.scan_frames(cache, scan, display, False)
        widgets.case_pictures([(frames[0], "image")], charts(study, arms, draw, scan))


def show_examples(study: ReviewedStudy, arms: Arms, draw: int) -> None:
    """Without the scans themselves: the slices that each arm saved of its own worst, median and best case."""
    for letter, key in arms.items():
        examples = cases.saved_examples(study, key, draw)
        if not examples:
            widgets.caption(f"{name(letter, key)} saved no pictures. Only the cells of a study's first draw save them.")
            continue
        widgets.case_pictures(
            [(e.frame, f"{name(letter, key)} · its own {e.rank} case, Dice {number(e.dice)}") for e in examples]
        )
    st.caption(
        "Filled: the prediction of the arm. Yellow: the outline of the reference. One slice of each case was saved."
    )


def charts(study: ReviewedStudy, arms: Arms, draw: int, scan: str) -> list[dict]:
    """The class probabilities that each arm gave to a scan."""
    return [
        widgets.probability_chart(name(letter, key), *cases.class_probabilities(study.cases[key][draw], scan))
        for letter, key in arms.items()
    ]


def caption(letter: str, key: Key, case: pd.Series, frame: cases.Frame) -> str:
    if not frame.masked:
        return f"{name(letter, key)}: {NO_MASK}"
    return f"{name(letter, key)} · Dice {number(case[letter.lower()])}"


def arm_text(arm: Arm) -> str:
    return arm_name(*arm)


def name(letter: str, key: Key) -> str:
    arm, mode, _ = key
    return f"{letter}: {arm_name(arm, mode)}"


study = session.study()
if study is not None:
    show(study)
