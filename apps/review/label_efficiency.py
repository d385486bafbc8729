"""Page: what pretraining was worth: one sentence, one curve an arm with its intervals, and the labels it saved."""

import html

import plotly.graph_objects as go
import streamlit as st

from medssl.evaluation.forecast import MIN_BUDGETS
from medssl.reporting import captions, controls, downloads, tables, widgets
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.label_efficiency import Ahead, Curve, ahead, all_studies, curves
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.findings import findings
from medssl.reporting.style import METRICS, MODES, ArmStyle, arm_styles, offset_factors, scoped_arm, status_name

TITLE = "Label efficiency"
ORDER = 1

DASHES = {"-": "solid", "--": "dash", ":": "dot"}


def show(study: ReviewedStudy) -> None:
    """The sentence, the curves, the labels saved, the numbers, and the cells that are not complete."""
    widgets.progress(study)
    lead, detail = findings(study.main, METRICS[study.task.metric.name])
    widgets.heading(f"So far: {lead}" if study.provisional and len(study.main) else lead)
    widgets.caption(detail)
    if len(study.main):
        with widgets.guarded("The chart"):
            show_curves(study)
        with widgets.guarded("The table of the gap closed"):
            show_gap_closed(study)
        with widgets.guarded("The table of labels saved"):
            show_labels_saved(study)
        with widgets.guarded("The forecast"):
            show_forecast(study)
        with widgets.guarded("The table of scores"):
            st.markdown("##### Numbers")
            widgets.table(tables.scores(study.main), index="budget")
            widgets.caption(captions.SCORES)
        with widgets.guarded("The table of other metrics"):
            show_other_metrics(study)
    with widgets.guarded("The table of cells"):
        incomplete = tables.incomplete_cells(study.cells, study.damaged)
        if incomplete is not None:
            st.markdown("##### Cells that are not complete")
            widgets.table(incomplete, index="cell")
    with widgets.guarded("The table of studies"):
        show_studies()


def show_curves(study: ReviewedStudy) -> None:
    modes = [mode for mode in MODES if (study.main["mode"] == mode).any()]
    mode = modes[0]
    if len(modes) > 1:
        mode = controls.radio(st, "mode", "How the encoders are used", modes, text=mode_name)
    styles = arm_styles(study.main["arm"].tolist())
    chart = figure(curves(study.main, mode), styles, METRICS[study.task.metric.name])
    st.plotly_chart(chart, config={"displayModeBar": False})
    config = study.run.config
    scored = f"{config.get('scored_patients', '–')} {config.get('score_on', 'test')} patients"
    widgets.caption(
        f"Means over draws and {scored}, with 95% intervals. Training from scratch is shown for every use of the encoders."
    )


def mode_name(mode: str) -> str:
    return MODES.get(mode, mode)


def figure(shown: list[Curve], styles: dict[str, ArmStyle], metric: str) -> go.Figure:
    """Score over labelled patients (log axis), with the intervals as bars."""
    drawn = go.Figure()
    for curve, factor in zip(shown, offset_factors(len(shown)), strict=True):
        rows, style = curve.rows, styles[curve.arm]
        colour = widgets.visible(style.colour)
        name = html.escape(scoped_arm(curve.arm, curve.mode, rows["pretraining_runs"].max()))
        drawn.add_scatter(
            x=rows["patients"] * factor,
            y=rows["mean"],
            name=name,
            mode="lines+markers",
            hovertext=[
                f"<b>{name}</b><br>{html.escape(row.budget_name)}: {row.patients:g} patients, {row.draws:g} draws<br>"
                f"{metric} {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]"
                for row in rows.itertuples()
            ],
            hoverinfo="text",
            line={"color": colour, "dash": DASHES[style.line], "width": 2},
            marker={"symbol": widgets.SYMBOLS[style.marker], "size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["mean"],
                "arrayminus": rows["mean"] - rows["low"],
                "thickness": 1.2,
                "width": 0,
                "color": colour,
            },
        )
    show_patients(drawn, {patients for curve in shown for patients in curve.rows["patients"]})
    drawn.update_yaxes(title=metric)
    legend = {"orientation": "h", "y": -0.22, "x": 0}
    margin = {"l": 10, "r": 10, "t": 10, "b": 10}
    return drawn.update_layout(height=430, margin=margin, legend=legend, hovermode="closest")


def show_patients(drawn: go.Figure, sizes: set[float]) -> None:
    """A log axis of labelled patients, with a tick at each budget."""
    ticks = {"tickvals": sorted(sizes), "ticktext": [f"{patients:g}" for patients in sorted(sizes)]}
    drawn.update_xaxes(type="log", title="labelled patients, validation included", showgrid=False, **ticks)


def show_gap_closed(study: ReviewedStudy) -> None:
    gap = tables.gap_closed(session.label_curves(study))
    if gap is None:
        return
    st.markdown("##### Gap closed")
    widgets.table(gap, index="budget")
    widgets.caption(captions.GAP_CLOSED)


def show_labels_saved(study: ReviewedStudy) -> None:
    st.markdown("##### Labels saved")
    saved, reason, full = tables.labels_saved(session.label_curves(study), study.main)
    if saved is None:
        st.caption(f"Cannot be computed. {reason}")
        return
    widgets.table(saved, index="arm")
    widgets.caption(captions.LABELS_SAVED.format(full=full))


def show_forecast(study: ReviewedStudy) -> None:
    """What more labels would buy: the fitted curves with their bands, and the numbers."""
    st.markdown("##### What more labels would buy")
    arms = session.forecasts(study)
    content = tables.forecasts(arms)
    if content is None:
        st.caption(
            f"Cannot be forecast: this needs {MIN_BUDGETS} budgets or more, with two scored patients of every class."
        )
        return
    styles = arm_styles(study.main["arm"].tolist())
    st.plotly_chart(
        forecast_figure(ahead(arms), styles, METRICS[study.task.metric.name]), config={"displayModeBar": False}
    )
    widgets.table(content, index="arm")
    widgets.caption(captions.FORECAST)


def forecast_figure(arms: list[Ahead], styles: dict[str, ArmStyle], metric: str) -> go.Figure:
    """Measured scores, the curve through them, and beyond the largest budget the dashed curve with its band."""
    drawn = go.Figure()
    for each in arms:
        arm, style = each.arm, styles[each.arm.arm]
        colour, name = widgets.visible(style.colour), html.escape(scoped_arm(arm.arm, arm.mode, arm.pretraining_runs))
        band = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip", "legendgroup": name}
        drawn.add_scatter(x=each.beyond["patients"], y=each.beyond["high"], **band)
        drawn.add_scatter(
            x=each.beyond["patients"], y=each.beyond["low"], fill="tonexty", fillcolor=faint(colour), **band
        )
        for rows, dash in ((each.fitted, DASHES[style.line]), (each.beyond, "dash")):
            line = {"color": colour, "width": 1.5, "dash": dash}
            drawn.add_scatter(
                x=rows["patients"],
                y=rows["score"],
                mode="lines",
                line=line,
                showlegend=False,
                hoverinfo="skip",
                legendgroup=name,
            )
        drawn.add_scatter(
            x=each.measured["patients"],
            y=each.measured["score"],
            name=name,
            legendgroup=name,
            mode="markers",
            marker={"symbol": widgets.SYMBOLS[style.marker], "size": 8, "color": colour},
            hovertemplate=f"<b>{name}</b><br>%{{x:g}} patients: {metric} %{{y:.3f}}<extra></extra>",
        )
    show_patients(drawn, {patients for each in arms for patients in each.measured["patients"]})
    drawn.update_yaxes(title=metric)
    legend = {"orientation": "h", "y": -0.22, "x": 0}
    return drawn.update_layout(height=380, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend=legend)


def faint(colour: str) -> str:
    """The colour of a band, from `#RRGGBB`."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.18)"


def show_studies() -> None:
    """All studies of the folder, with their cells by state."""
    rows = all_studies(session.runs_in_folder())
    st.markdown("##### All studies of this folder")
    table = rows.assign(status=rows["status"].map(status_name))
    column = st.column_config.DatetimeColumn("started, UTC", format="YYYY-MM-DD HH:mm")
    st.dataframe(table, hide_index=True, column_config={"started": column})
    open_ones = int(((rows["running"] + rows["failed"] + rows["missing"]) > 0).sum())
    widgets.caption(
        f"{len(rows)} studies, {open_ones} of them with cells that are running, failed or missing. The study is chosen in the side bar; "
        "the page follows the folder by itself."
    )
    downloads.table(table, "Studies, CSV", "studies.csv", texts=["study", "task", "status"])


def show_other_metrics(study: ReviewedStudy) -> None:
    if study.others.empty:
        return
    with st.expander("Other metrics"):
        for other in tables.other_metrics(study.others):
            widgets.table(other, index="budget")
        widgets.caption(captions.OTHER_METRICS)


study = session.study()
if study is not None:
    show(study)
