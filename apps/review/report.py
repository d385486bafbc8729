"""Page: the study as a report to take along: one HTML file, a PDF, figures, tables, text, works and the command."""

import html
from typing import Any

import streamlit as st

from medssl.reporting import controls, report_files, widgets
from medssl.reporting.bibtex import bibtex
from medssl.reporting.dashboard import session
from medssl.reporting.dashboard.study import ReviewedStudy
from medssl.reporting.html.report import page
from medssl.reporting.latex import latex
from medssl.reporting.pdf import pdf, why_none
from medssl.reporting.report_view import view_of
from medssl.reporting.shown import Shown
from medssl.reporting.style import metric_name

TITLE = "Report"
ORDER = 10

CAPTIONS = {
    "label efficiency": "Means over draws and patients, with 95% intervals.",
    "differences from scratch": "Paired differences with 95% intervals; a filled marker where the interval excludes zero.",
    "forecast": "The fitted label curves, carried on to four times the largest budget with their 95% band (dashed).",
    "pretraining": "Losses of different methods cannot be compared.",
}
PICTURES = "Single cases, as the study saved them."


def show(study: ReviewedStudy) -> None:
    """What the report says, what of the study is in it, and everything to take along."""
    widgets.progress(study)
    shown = choose(study)
    with widgets.guarded("This report"):
        view = view_of(study, shown)
        widgets.heading(view["lead"])
        widgets.caption(view["detail"])
        if view["shown"]:
            widgets.caption(view["shown"])
        show_whole(view)
        with widgets.guarded("The figures"):
            show_figures(view)
        with widgets.guarded("The tables"):
            show_tables(view)
        with widgets.guarded("The text"):
            show_text(view)


def choose(study: ReviewedStudy) -> Shown:
    """The arms, budgets and other metrics that are shown; all where none is chosen."""
    columns = st.container(key="pairs-of-shown").columns(3)
    arms = controls.multiselect(columns[0], "arms", "Arms", list(dict.fromkeys(study.main["arm"])), "all")
    order = study.main.sort_values("patients", kind="stable")["budget_name"]
    budgets = controls.multiselect(columns[1], "budgets", "Budgets", list(dict.fromkeys(order)), "all")
    others = list(dict.fromkeys(study.others["metric"]))
    label = "Other metrics, by structure"
    metrics = controls.multiselect(columns[2], "metrics", label, others, "all", text=metric_name)
    return Shown(tuple(arms), tuple(budgets), tuple(metrics))


def show_whole(view: dict[str, Any]) -> None:
    """The report as one file."""
    columns = st.container(key="pairs-of-reports").columns(4)
    columns[0].download_button(
        "HTML, one file", page([view]).encode(), "report.html", "text/html", on_click="ignore", width="stretch"
    )
    reason = why_none()
    columns[1].download_button(
        "PDF",
        lambda: pdf(page([view])),
        "report.pdf",
        "application/pdf",
        on_click="ignore",
        disabled=bool(reason),
        width="stretch",
    )
    columns[2].download_button(
        "All files, ZIP",
        lambda: report_files.archive(view),
        "report.zip",
        "application/zip",
        on_click="ignore",
        width="stretch",
    )
    columns[3].download_button(
        "Works, BibTeX",
        bibtex(view["citations"]).encode(),
        "works.bib",
        "text/plain",
        on_click="ignore",
        width="stretch",
    )
    if reason:
        widgets.caption(f"{reason[:1].upper()}{reason[1:]}.")


def show_figures(view: dict[str, Any]) -> None:
    """One figure at a time, as SVG and PNG."""
    drawings = report_files.figures_of(view)
    if not drawings:
        st.caption("No cell is finished yet, so there is nothing to draw.")
        return
    name = controls.selectbox(st, "figure", "Figure", list(drawings))
    drawing, caption = drawings[name], CAPTIONS.get(name, PICTURES)
    st.html(f'<img src="{drawing.uri}" alt="{html.escape(caption)}" style="max-width: 100%; background: #fff">')
    st.caption(caption)
    columns = st.container(key="pairs-of-figure-files").columns([1, 1, 3])
    file = report_files.file_name(name)
    columns[0].download_button(
        "SVG", lambda: drawing.file("svg"), f"{file}.svg", "image/svg+xml", on_click="ignore", width="stretch"
    )
    columns[1].download_button(
        "PNG", lambda: drawing.file("png"), f"{file}.png", "image/png", on_click="ignore", width="stretch"
    )


def show_tables(view: dict[str, Any]) -> None:
    """One table at a time, as CSV and LaTeX; the protocol checklist is one of them."""
    tables = report_files.tables_of(view)
    name = controls.selectbox(st, "table", "Table", list(tables))
    table, file = tables[name], report_files.file_name(name)
    widgets.table(table, index=table.frame().columns[0])
    columns = st.container(key="pairs-of-table-files").columns([1, 1, 3])
    columns[0].download_button(
        "CSV", report_files.csv(table), f"{file}.csv", "text/csv", on_click="ignore", width="stretch"
    )
    columns[1].download_button(
        "LaTeX", latex(table, name.capitalize()), f"{file}.tex", "text/plain", on_click="ignore", width="stretch"
    )


def show_text(view: dict[str, Any]) -> None:
    """The text on methods, the works, and the command."""
    st.markdown("##### Methods")
    for paragraph in view["methods"]:
        st.markdown(widgets.plain(paragraph))
    with st.expander("Works to cite"):
        for work in view["citations"]:
            widgets.caption(work)
    st.download_button(
        "Methods and works, text", report_files.methods(view), "methods.txt", "text/plain", on_click="ignore"
    )
    st.markdown("##### How to reproduce this")
    st.code(view["command"], language=None, wrap_lines=True)


study = session.study()
if study is not None:
    show(study)
