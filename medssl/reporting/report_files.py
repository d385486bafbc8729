"""What a reader takes along of a report: the page, and its figures, tables, text and works as files for a paper.

view = study_view(folder, run, cells, pretrained, shown)       # of medssl/reporting/html/report.py
figures_of(view)["label efficiency"].file("png")
archive(view, works)                                           # all of it as one ZIP
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from medssl.reporting.bibtex import bibtex
from medssl.reporting.figures import Drawing
from medssl.reporting.html.report import page
from medssl.reporting.latex import latex
from medssl.reporting.spreadsheet import as_text
from medssl.reporting.tables import Table

FIGURES = {"curves": "label efficiency", "forest": "differences from scratch", "forecast": "forecast"}
TABLES = {  # the key in a view -> what the table is called
    "scores": "scores",
    "gap": "gap closed",
    "saved": "labels saved",
    "forecast_table": "forecast",
    "selection": "which patients to label",
    "trials": "trials of settings",
    "cost": "cost",
    "protocol": "protocol checklist",
    "cohort": "cohort",
    "subsets": "label budgets",
    "public_weights": "public weights",
    "cells": "cells",
    "incomplete": "cells that are not complete",
    "provenance": "provenance",
    "settings": "settings",
}
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive, so that it depends on its content alone


def figures_of(view: dict[str, Any]) -> dict[str, Drawing]:
    """Return name -> figure of a report."""
    drawn = {name: view[key] for key, name in FIGURES.items() if view[key]}
    pictures = [*view["examples"], *view["pretraining"]["pictures"]]
    drawn |= {f"pictures {number}": each["drawing"] for number, each in enumerate(pictures, 1)}
    if view["pretraining"]["figure"]:
        drawn["pretraining"] = view["pretraining"]["figure"]
    return drawn


def tables_of(view: dict[str, Any]) -> dict[str, Table]:
    """Return name -> table of a report."""
    listed = {name: view[key] for key, name in TABLES.items() if view[key]}
    return listed | {f"other metrics {number}": table for number, table in enumerate(view["others"], 1)}


def csv(table: Table) -> bytes:
    """Return a table as CSV, its footnotes as a last column; no cell is one that a spreadsheet would run."""
    frame = table.frame()
    if table.notes:
        frame["note"] = [table.notes[int(row["mark"]) - 1] if row["mark"] else "" for row in table.rows]
    return frame.map(as_text).to_csv(index=False).encode()


def methods(view: dict[str, Any]) -> str:
    """Return the text on methods, with the works to cite."""
    works = "\n".join(f"{number}. {work}" for number, work in enumerate(view["citations"], 1))
    return "\n\n".join([*view["methods"], works]) + "\n"


def archive(view: dict[str, Any]) -> bytes:
    """Return everything as a ZIP: the page, figures as SVG and PNG, tables as CSV and LaTeX, methods, BibTeX, the command."""
    files = {"report.html": page([view]).encode(), "methods.txt": methods(view).encode()}
    files |= {"works.bib": bibtex(view["citations"]).encode(), "command.txt": view["command"].encode()}
    for name, drawing in figures_of(view).items():
        files |= {f"figures/{file_name(name)}.{kind}": drawing.file(kind) for kind in ("svg", "png")}
    for name, table in tables_of(view).items():
        files[f"tables/{file_name(name)}.csv"] = csv(table)
        files[f"tables/{file_name(name)}.tex"] = latex(table, name.capitalize()).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, WRITTEN), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def file_name(name: str) -> str:
    """Return the name of a figure or a table as that of a file."""
    return name.replace(" ", "_")
