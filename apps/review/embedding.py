"""Page: the features of a run's scans as points, coloured by what is known of them; a lasso leads to the scans."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from medssl.evaluation import projections
from medssl.evaluation.read_off import ReadOff
from medssl.preprocessing.cache import Cache
from medssl.reporting import controls, downloads, embedding_map, widgets
from medssl.reporting.dashboard import cases, embedding, label_next, session, viewer
from medssl.reporting.dashboard.cases import Display
from medssl.reporting.dashboard.embedding import Features
from medssl.reporting.style import arm_name, counted, number

TITLE = "Embedding"
ORDER = 7

NOTHING = "nothing"  # the one colour
LISTED, PICTURES, NEAREST, PAIRS = 500, 8, 5, 200
QUICK = 10_000  # scans up to which all are compared with each other unasked
ACQUISITION = ("scanner", "manufacturer", "site", "model")  # shortcuts, of which the first is read off
SMALL_PX = 150  # of a picture among many
PICKED = "picked scans"


def show() -> None:
    """The features, their picture, what was picked in it, and what is to be known of them."""
    names = session.feature_files()
    if not names:
        if session.runs_in_folder().empty:
            st.info("This folder is empty. `medssl pretrain` writes a run and `medssl embed` its features.")
        else:
            st.info(
                "There are no features in this folder yet. Write them below it: "
                "`medssl embed runs/simclr cache --out runs/simclr-features`."
            )
        return
    with widgets.guarded("This page"):
        columns = st.container(key="pairs-of-map").columns([2.4, 1, 1.6])
        name = controls.selectbox(columns[0], "features", "Features", names)
        shown = session.features(name)
        cache, note = label_next.cache_with(shown.table["scan"].tolist(), session.caches(), "medssl embed")
        groups = groups_of(shown, cache)
        kind = controls.selectbox(columns[1], "projection", "Drawn by", projections.kinds())
        colour = controls.selectbox(columns[2], "colour", "Coloured by", [*groups, NOTHING])
        show_map(shown, kind, colour, groups.get(colour))
        if note:
            st.info(widgets.plain(note))
        with widgets.guarded("The scans"):
            show_scans(shown, cache, groups.get(colour), colour)
        with widgets.guarded("What can be read off"):
            show_read_off(shown, groups)
        with widgets.guarded("The near-duplicates"):
            show_alike(shown, cache)


def groups_of(shown: Features, cache: Cache | None) -> dict[str, pd.Series]:
    """What the points can be coloured by."""
    if cache is None:
        return {}
    return embedding.groups_of(cache.manifest, shown, roles(cache), errors(shown))


def roles(cache: Cache) -> pd.Series:
    """Patient -> role, by the split of the chosen study where it has the same data."""
    study = chosen_study()
    config = study.run.config if study is not None and study.run.data == cache.digest else {}
    return embedding.roles_of(cache.manifest, config)


def errors(shown: Features) -> pd.Series | None:
    """Scan -> error of a cell of the chosen study; None where no cell has these scans."""
    study = chosen_study()
    if study is None or not study.cases:
        return None
    scans = set(shown.table["scan"])
    if not any(scans & set(frame["scan"]) for draws in study.cases.values() for frame in draws.values()):
        return None
    with st.expander("Whose error"):
        columns = st.container(key="pairs-of-arms").columns([1, 1, 2])
        budget = controls.selectbox(columns[0], "budget", "Budget", cases.budgets(study))
        draw = controls.selectbox(columns[1], "draw", "Draw", cases.draws(study.cases, budget))
        arms = cases.arms(study.cases, budget, draw)
        arm = controls.selectbox(columns[2], "a", "Arm", arms, text=lambda arm: arm_name(*arm))
        st.caption("The error of a scan is 1 minus its Dice, or minus the probability of its true class.")
    return 1 - cases.case_scores(study.cases[(*arm, budget)][draw])


def chosen_study():
    """The study of the address; None where there is none."""
    return session.study() if session.selection().study in session.studies() else None


def show_map(shown: Features, kind: str, colour: str, values: pd.Series | None) -> None:
    """The picture, a sentence about it, and its data."""
    rows, places, shares = session.projection(shown, kind)
    share = f"{100 * shares[:2].sum():.0f}%"
    patients = shown.table["patient"].nunique()
    widgets.heading(
        f"{len(shown.table):,} scans of {patients:,} patients: two directions hold {share} of the variance of their features"
    )
    axes = (f"first component, {100 * shares[0]:.0f}%", f"second component, {100 * shares[1:2].sum():.0f}%")
    part = None if values is None else values.iloc[rows].reset_index(drop=True)
    drawn = embedding_map.figure(places, part, texts(shown, rows, colour, part), axes if kind == "PCA" else ("", ""))
    key = f"map {shown.id} {kind} {colour}"
    st.plotly_chart(
        drawn,
        key=key,
        on_select=partial(take, key, shown, rows, places),
        selection_mode=("points", "box", "lasso"),
        config={"displaylogo": False, "scrollZoom": True},
    )
    told = ["Draw a lasso or a box round points, or click one, to see the scans; a double click ends it."]
    if kind != "PCA":
        told.append("Neighbours lie together; the distances between groups, and their sizes, mean nothing.")
    if len(rows) < len(shown.table):
        told.append(f"A random {len(rows):,} of {len(shown.table):,} scans are drawn.")
    if len(rows) > embedding_map.MOST_MARKS:
        told.append(f"{embedding_map.MOST_MARKS:,} points can be pointed at; a lasso takes all in it.")
    if shown.rejected:
        told.append(f"{counted(shown.rejected, 'rejected scan')} without features.")
    st.caption(" ".join(told))
    table = shown.table.iloc[rows].assign(x=places[:, 0], y=places[:, 1])
    if part is not None:
        table["value"] = part.to_numpy()
    downloads.table(table, "Points, CSV", "embedding.csv", texts=["value"] if "value" in table else [])


def texts(shown: Features, rows: np.ndarray, colour: str, values: pd.Series | None) -> list[str]:
    """What is written beside each point."""
    scans = shown.table["scan"].to_numpy()[rows]
    if values is None:
        return [f"scan {scan}" for scan in scans]
    said = [embedding.UNKNOWN if pd.isna(v) else v if isinstance(v, str) else number(v) for v in values]
    return [f"scan {scan}, {colour}: {value}" for scan, value in zip(scans, said, strict=True)]


def take(key: str, shown: Features, rows: np.ndarray, places: np.ndarray) -> None:
    """Keep what the reader picked in the picture; a single point becomes the scan that is shown."""
    picked = picked_rows(st.session_state[key]["selection"], rows, places)
    st.session_state[PICKED] = (shown.id, picked)
    if len(picked):
        session.select(case=str(shown.table["scan"].iloc[picked[0]]))


def picked_rows(selection: Any, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The rows of the features in the lassos and boxes, or those of the points that were clicked."""
    if selection.get("box") or selection.get("lasso"):
        return rows[embedding.enclosed(places, selection)]
    return rows[[int(np.ravel(point["customdata"])[0]) for point in selection.get("points", ())]]


def show_scans(shown: Features, cache: Cache | None, values: pd.Series | None, colour: str) -> None:
    """The picked scans as a list and pictures, and the nearest neighbours of one of them."""
    of, picked = st.session_state.get(PICKED, ("", []))
    scans = shown.table["scan"].iloc[picked if of == shown.id else []].tolist()
    wanted = session.selection().case
    if wanted is not None and wanted not in set(shown.table["scan"]):
        widgets.caption(f"Scan {wanted} of the address has no features here.")
        wanted = None
    if not scans and wanted is None:
        return
    listed = scans or [str(wanted)]
    chosen = str(wanted) if wanted in listed else listed[0]
    st.markdown(f"##### {counted(len(listed), 'scan')} picked")
    left, right = st.columns([1.25, 2.75], gap="medium")
    with left, st.container(key="case-list"):
        choose_scan(shown, listed, chosen, values, colour)
    with right:
        show_neighbours(shown, cache, chosen)
    if cache is not None and len(listed) > 1:
        show_pictures(cache, [(scan, f"scan {scan}") for scan in listed[:PICTURES]])
        if len(listed) > PICTURES:
            st.caption(f"The first {PICTURES} of {len(listed)} picked scans.")


def choose_scan(shown: Features, listed: list[str], chosen: str, values: pd.Series | None, colour: str) -> None:
    """The table of the picked scans."""
    table = shown.table[shown.table["scan"].isin(listed[:LISTED])]
    if values is not None:
        table = table.assign(**{colour: values.loc[table.index]})
    names = table["scan"].tolist()
    controls.table("case", table, names, [chosen], several=False, height=330)
    downloads.table(
        shown.table[shown.table["scan"].isin(listed)], "Picked scans, CSV", "picked.csv", texts=["scan", "patient"]
    )


def show_neighbours(shown: Features, cache: Cache | None, scan: str) -> None:
    """The scan, and those whose features are most alike."""
    near = embedding.neighbours(shown, scan, NEAREST)
    patient = shown.table.loc[shown.table["scan"] == scan, "patient"].iloc[0]
    st.markdown(f"**Scan {widgets.plain(scan)}** · patient {widgets.plain(patient)}, and the nearest by cosine")
    captions = [(scan, f"scan {scan}")] + [
        (
            row.scan,
            f"{number(row.cosine)} · {'the same patient' if row.patient == patient else f'patient {row.patient}'}",
        )
        for row in near.itertuples()
    ]
    if cache is None:
        widgets.text_frame(near.set_index("scan"))
    else:
        show_pictures(cache, captions)
    study = chosen_study()
    if study is not None and any(
        scan in set(frame["scan"]) for draws in study.cases.values() for frame in draws.values()
    ):
        st.page_link("cases.py", label="Open the scan in Cases", query_params=session.selection().to_query())


def show_pictures(cache: Cache, captioned: list[tuple[str, str]]) -> None:
    """A slice of each scan that the cache holds: that with most of its mask, or the middle one."""
    held = cache.manifest.set_index("scan")["has_mask"]
    presets = viewer.windows(cache.modality)
    window = presets.get(str(session.selection().window), next(iter(presets.values())))
    pictures = []
    for scan, caption in captioned:
        if scan in held.index:
            index = session.fullest_slices(cache, scan, bool(held[scan]))["axial"]
            pictures.append((cases.scan_frames(cache, scan, Display("axial", index, window), False)[0], caption))
    widgets.case_pictures(pictures, narrowest_px=SMALL_PX)
    if missing := len(captioned) - len(pictures):
        st.caption(f"{counted(missing, 'scan')} not in the cache.")


def show_read_off(shown: Features, groups: dict[str, pd.Series]) -> None:
    """How well a column of the manifest can be read off: a shortcut that a model may take."""
    columns = [name for name in groups if name not in (embedding.ERROR, embedding.SPLIT)]
    if not columns:
        return
    st.markdown("##### Shortcuts: what can be read off the features")
    first = next((name for wanted in ACQUISITION for name in columns if name == wanted), columns[0])
    column = controls.selectbox(st, "read_off", "Column of the manifest", columns, default=first)
    found = session.readable(shown, column, groups[column])
    if found is None:
        st.caption("Too few patients: it takes two groups of five patients or more.")
        return
    (st.warning if found.shown else st.info)(widgets.plain(sentence(column, found)))
    left_out = f" Left out, with fewer than five patients: {', '.join(found.left_out)}." if found.left_out else ""
    widgets.caption(
        f"A logistic regression on {found.scans} scans of {found.patients} patients, in five folds of patients; balanced accuracy "
        f"with its 95% interval over patients.{left_out} Where the column goes along with a finding, the features may hold the "
        "finding and not the column."
    )


def sentence(column: str, found: ReadOff) -> str:
    """What was found, in words."""
    numbers = (
        f"balanced accuracy {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], guessing has {found.chance:.2f}"
    )
    if found.shown:
        return f"{column} can be read off the features: {numbers}. A model that starts from them may take it for the finding."
    return f"It was not shown that {column} can be read off the features: {numbers}."


def show_alike(shown: Features, cache: Cache | None) -> None:
    """Near-duplicates of different patients, and leaks between the splits."""
    st.markdown("##### Near-duplicates and leaks between splits")
    role = None if cache is None else roles(cache)
    if cache is not None and role is not None:
        for column, count in embedding.split_twice(cache.manifest).items():
            st.error(widgets.plain(f"{counted(count, 'patient')} with scans in two roles of the column {column}."))
        same, across = embedding.same_voxels(cache.manifest, role)
        if same:
            text = f"{counted(same, 'scan')} with the same voxels as one of another patient, {across} of them in another split."
            (st.error if across else st.warning)(text)
    why = "Every pair of scans; with 50,000 scans this takes a minute or more"
    if len(shown.table) > QUICK and not st.toggle("Compare all scans with each other", help=why):
        return
    pairs, count = session.alike(shown, PAIRS)
    if not count:
        st.caption(f"No two scans of different patients have a cosine of {embedding.ALIKE} or more.")
        return
    table = embedding.pair_table(shown, pairs, role)
    across = int((table["split"] != table["other_split"]).sum())
    listed = f"the closest {len(table)} are listed, of which" if count > len(table) else "of which"
    st.warning(
        f"{count:,} pairs of scans of different patients have a cosine of {embedding.ALIKE} or more: {listed} {across} lie in two "
        "splits. Look at them: features can agree where pictures do not."
    )
    show_pairs(table, cache)


def show_pairs(table: pd.DataFrame, cache: Cache | None) -> None:
    """The table of the pairs; a chosen one as pictures."""
    event = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key="pairs of scans", height=260
    )
    downloads.table(table, "Near-duplicates, CSV", "near_duplicates.csv", texts=["patient", "other_patient"])
    if cache is not None and (rows := event["selection"]["rows"]) and rows[0] < len(table):
        pair = table.iloc[rows[0]]
        show_pictures(
            cache,
            [
                (pair["scan"], f"{pair['scan']}, {pair['split']}"),
                (pair["other"], f"{pair['other']}, {pair['other_split']}"),
            ],
        )


show()
