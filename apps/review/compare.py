"""Page: arms compared with one of them: the test, single cases as pairs, the groups of the cohort, where they differ most."""

import html

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from medssl.reporting import controls, downloads, widgets
from medssl.reporting.dashboard import cases, compare, session
from medssl.reporting.dashboard.selection import Arm
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.reporting.style import METRICS, arm_name, arm_styles, difference, interval, number, p_value, scoped_arm
from medssl.reporting.tables import Table

TITLE = "Compare"
ORDER = 2

ROW_PX = 34  # of one arm or group in a chart
LISTED = 50  # cases in the table of the largest differences


def show(study: ReviewedStudy) -> None:
    """The controls, the test of every arm, and two arms in detail."""
    widgets.progress(study)
    budgets = [budget for budget in cases.budgets(study) if len(compare.arms_at(study, budget)) > 1]
    if not budgets:
        st.info("No budget of this study has finished cells of two arms yet.")
        return
    columns = st.container(key="pairs-of-arms").columns([1, 2, 2])
    budget = controls.selectbox(columns[0], "budget", "Budget", budgets)
    arms = compare.arms_at(study, budget)
    reference = controls.selectbox(columns[1], "a", "Reference, A", arms, text=arm_text)
    others = [arm for arm in arms if arm != reference]
    other = controls.selectbox(columns[2], "b", "Arm, B", others, text=arm_text)
    with widgets.guarded("The comparisons"):
        show_comparisons(study, reference, budget)
    with widgets.guarded("The costs"):
        show_costs(study, budget)
    with widgets.guarded("The cases"):
        show_cases(study, (*reference, budget), (*other, budget))
    with widgets.guarded("The settings"):
        show_settings(study, (*reference, budget), (*other, budget))


def show_comparisons(study: ReviewedStudy, reference: Arm, budget: str) -> None:
    """The forest plot and the table of every arm against the reference."""
    compared = compare.comparisons(study, reference, budget)
    metric = METRICS[study.task.metric.name]
    st.markdown(f"##### {widgets.plain(f'{metric} minus that of {arm_text(reference)}, {budget}')}")
    if compared.empty:
        st.caption("No other arm has cells of the same draws.")
        return
    names = [scoped_arm(row.arm, row.mode, row.pretraining_runs) for row in compared.itertuples()]
    colours = arm_styles(study.main["arm"].tolist())
    marks = [(widgets.visible(colours[arm].colour), widgets.SYMBOLS[colours[arm].marker]) for arm in compared["arm"]]
    st.plotly_chart(forest(names, compared, marks, metric), config={"displayModeBar": False})
    table = Table(["=arm", "#difference [95%]", "#p", "#p, Holm"])
    for name, row in zip(names, compared.itertuples(), strict=True):
        note = "" if pd.isna(row.note) else row.note
        table.add(name, difference(row.difference, row.low, row.high), p_value(row.p), p_value(row.p_holm), note=note)
    widgets.table(table, index="arm")
    scope = "all comparisons of the study's table" if reference == compare.SCRATCH else "the comparisons of this table"
    widgets.caption(f"Paired, two-sided, on the same draws and patients; Holm's correction is over {scope}.")


def show_costs(study: ReviewedStudy, budget: str) -> None:
    """The score of every arm over what it cost, and the numbers."""
    rows, metric = compare.costs(study, budget), METRICS[study.task.metric.name]
    names = [scoped_arm(row.arm, row.mode, row.pretraining_runs) for row in rows.itertuples()]
    best = rows["mean"].idxmax()
    st.markdown(f"##### {widgets.plain(f'Cost against score, {budget}')}")
    styles = arm_styles(study.main["arm"].tolist())
    marks = [(widgets.visible(styles[arm].colour), widgets.SYMBOLS[styles[arm].marker]) for arm in rows["arm"]]
    st.plotly_chart(cost_figure(names, rows, marks, metric), config={"displayModeBar": False})
    table = Table(["=arm", f"#{metric} [95%]", "#one training, s", "#with its pretraining, s"])
    for name, row in zip(names, rows.itertuples(), strict=True):
        score = f"{number(row.mean)} [{interval(row.low, row.high)}]"
        table.add(name, score, number(row.training_s, 1), number(row.in_all_s, 1))
    widgets.table(table, index="arm")
    downloads.table(rows, "Costs, CSV", "costs.csv", texts=["arm", "mode"])
    widgets.caption(
        f"The highest mean is that of {names[best]}; whether arms differ is tested above. "
        "Seconds of one cell, averaged over the draws, and with one pretraining of the arm, which all its cells share, on top. A dash "
        "stands where a record does not say what the pretraining cost, as for public weights."
    )


def cost_figure(names: list[str], rows: pd.DataFrame, marks: list[tuple[str, str]], metric: str) -> go.Figure:
    """One point an arm: its score with the interval over the seconds with its pretraining; open over those of one training alone."""
    drawn = go.Figure()
    for name, row, (colour, symbol) in zip(names, rows.itertuples(), marks, strict=True):
        text = f"<b>{html.escape(name)}</b><br>{metric} {number(row.mean)}<br>"
        places = ((row.training_s, f"{symbol}-open", "one training"), (row.in_all_s, symbol, "with its pretraining"))
        for seconds, shape, what in places:
            drawn.add_scatter(
                x=[seconds],
                y=[row.mean],
                mode="markers",
                name=html.escape(name),
                legendgroup=name,
                showlegend=shape == symbol,
                marker={"symbol": shape, "size": 10, "color": colour},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [row.high - row.mean],
                    "arrayminus": [row.mean - row.low],
                    "width": 0,
                    "color": colour,
                },
                hovertext=[f"{text}{what}: {number(seconds, 1)} s"],
                hoverinfo="text",
            )
    drawn.update_xaxes(type="log", title="seconds: open one training, filled with its pretraining")
    drawn.update_yaxes(title=metric)
    legend = {"orientation": "h", "y": -0.25, "x": 0}
    return drawn.update_layout(height=360, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend=legend)


def show_settings(study: ReviewedStudy, reference: Key, other: Key) -> None:
    """In which settings the cells of A and B differ."""
    st.markdown("##### Settings of A and B that differ")
    table, draw = compare.settings_apart(session.root(), study, reference, other)
    if draw is None:
        st.caption("The two arms have no draw in common.")
        return
    widgets.text_frame(table)
    widgets.caption(
        f"The records of the two cells of draw {draw}: {len(table)} settings differ. What stands behind a pretrained arm is in the record of "
        "its pretraining run, on the page Runs."
    )
    downloads.table(table.reset_index(), "Settings, CSV", "settings.csv", texts=["setting", "A", "B"])


def show_cases(study: ReviewedStudy, reference: Key, other: Key) -> None:
    """The cases of two arms as pairs, the groups of the cohort, and the largest differences."""
    paired = compare.paired_cases(study, reference, other)
    score = "Dice" if study.task.keeps_examples else "p(true)"
    better = int((paired["difference"] > 0).sum())
    st.markdown(f"##### {widgets.plain(f'{score} of single cases: B is above A in {better} of {len(paired)}')}")
    left, right = st.columns(2)
    left.plotly_chart(scatter(paired, score), config={"displayModeBar": False})
    right.plotly_chart(histogram(paired, score), config={"displayModeBar": False})
    widgets.caption("Each point is a scan, averaged over the draws that both arms have. Above the line, B is better.")
    show_groups(study, reference, other, paired["scan"].tolist())
    show_largest(paired, score, reference, other)


def show_groups(study: ReviewedStudy, reference: Key, other: Key, scans: list[str]) -> None:
    """The difference in each group of a column of the manifest; nothing where the cache is not given."""
    cache, reason = session.cache_of(study)
    groups = compare.groups_of(cache.manifest, scans) if cache else {}
    st.markdown("##### By a column of the manifest")
    if not groups:
        widgets.caption("No column of the manifest divides these scans into groups." if cache else reason)
        return
    name = controls.selectbox(st, "by", "Column", list(groups))
    rows = compare.differences_by_group(study, reference, other, groups[name])
    texts = [f"{row.group} ({row.patients} patients)" for row in rows.itertuples()]
    marks = [(widgets.NEUTRAL, "circle")] * len(rows)
    st.plotly_chart(forest(texts, rows, marks, METRICS[study.task.metric.name]), config={"displayModeBar": False})
    widgets.caption(
        "B minus A with 95% intervals on the cases of each group alone. They are not corrected for the number of groups, and "
        "a difference between groups is not tested."
    )


def show_largest(paired: pd.DataFrame, score: str, reference: Key, other: Key) -> None:
    """The cases in which the arms differ most; a click opens one on the page of cases."""
    st.markdown("##### Where they differ most")
    st.caption("A click on a row opens the case.")
    listed = paired.head(LISTED)
    event = st.dataframe(
        listed.drop(columns="patient"),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"largest {reference} {other}",
        height=320,
        column_config={
            "scan": "scan",
            **{
                name: st.column_config.NumberColumn(f"{label}: {score}", format="%.3f")
                for name, label in (("a", "A"), ("b", "B"))
            },
            "difference": st.column_config.NumberColumn("B − A", format="%+.3f"),
        },
    )
    if rows := event["selection"]["rows"]:
        scan = str(listed["scan"].iloc[rows[0]])
        chosen = session.selection().changed(case=scan, a=reference[:2], b=other[:2], budget=reference[2])
        st.switch_page("cases.py", query_params=chosen.to_query())


def forest(names: list[str], rows: pd.DataFrame, marks: list[tuple[str, str]], metric: str) -> go.Figure:
    """One row a name: the difference with its interval; a filled marker where the interval excludes zero."""
    drawn = go.Figure()
    for name, row, (colour, symbol) in zip(names, rows.itertuples(), marks, strict=True):
        shown = difference(row.difference, row.low, row.high)
        clear = row.low > 0 or row.high < 0
        drawn.add_scatter(
            x=[row.difference],
            y=[html.escape(name)],
            mode="markers",
            marker={"symbol": symbol if clear else f"{symbol}-open", "size": 10, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.difference],
                "arrayminus": [row.difference - row.low],
                "color": colour,
                "width": 0,
            },
            hovertext=[f"<b>{html.escape(name)}</b><br>{shown}"],
            hoverinfo="text",
            showlegend=False,
        )
    drawn.add_vline(x=0, line_width=1, line_color=widgets.NEUTRAL)
    drawn.update_yaxes(autorange="reversed", title=None)
    drawn.update_xaxes(title=f"difference in {metric}, 95% interval")
    return drawn.update_layout(height=90 + ROW_PX * len(names), margin={"l": 10, "r": 10, "t": 10, "b": 10})


def scatter(paired: pd.DataFrame, score: str) -> go.Figure:
    """B over A, one point a scan, with the line on which both are equal."""
    texts = [f"{html.escape(str(row.scan))}<br>A {number(row.a)}, B {number(row.b)}" for row in paired.itertuples()]
    drawn = go.Figure()
    drawn.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": widgets.NEUTRAL, "width": 1}, hoverinfo="skip")
    drawn.add_scatter(
        x=paired["a"],
        y=paired["b"],
        mode="markers",
        hovertext=texts,
        hoverinfo="text",
        marker={"color": widgets.POINTS, "size": 7, "opacity": 0.7},
    )
    drawn.update_xaxes(title=f"A: {score}")
    drawn.update_yaxes(title=f"B: {score}")
    return drawn.update_layout(height=340, showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def histogram(paired: pd.DataFrame, score: str) -> go.Figure:
    """How many scans differ by how much."""
    drawn = go.Figure()
    drawn.add_histogram(x=paired["difference"], nbinsx=30, marker={"color": widgets.POINTS})
    drawn.add_vline(x=0, line_width=1, line_color=widgets.NEUTRAL)
    drawn.update_xaxes(title=f"B − A: {score}")
    drawn.update_yaxes(title="scans")
    return drawn.update_layout(height=340, bargap=0.05, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def arm_text(arm: Arm) -> str:
    return arm_name(*arm)


study = session.study()
if study is not None:
    show(study)
