"""The page Report: what it offers to take along is the report of `medssl report`, whole or as a selection."""

import csv
import html
import io
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.reporting import pdf, report_files, tables
from medssl.reporting.bibtex import bibtex
from medssl.reporting.findings import findings
from medssl.reporting.html.report import page, pretraining_runs, report, study_view
from medssl.reporting.latex import latex
from medssl.reporting.shown import EVERYTHING, Shown
from medssl.reporting.style import METRICS
from medssl.studies.results import cells_of
from tests.apps.hostile import FRAGMENTS, HOSTILE, rename_arm
from tests.apps.hostile import cells_of as texts_of
from tests.apps.reading import html_of, text_of
from tests.reporting.test_report import make_study


def view_of(study: Path, shown: Shown = EVERYTHING) -> dict:
    run = runs.read(study)
    known = pretraining_runs([study / "pretraining" / "simmim"])
    return study_view(study, run, cells_of(runs.table(study / "cells"), run), known, shown)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs"))


def test_the_page_is_the_very_report(study: Path, tmp_path: Path) -> None:
    written = report(study, tmp_path / "report.html").read_text()
    assert page([view_of(study)]) == written


def test_a_selection_shows_fewer_rows_and_says_so_and_keeps_the_sentence_of_the_whole(study: Path) -> None:
    whole, part = view_of(study), view_of(study, Shown(("simmim",), ("1p",), ("hd95_mm.1",)))
    summary = pd.read_parquet(study / "summary.parquet").query("metric == 'dice'")
    assert (part["lead"], part["detail"]) == findings(summary, METRICS["dice"]) == (whole["lead"], whole["detail"])
    (row,) = part["scores"].rows
    own = summary.query("arm == 'simmim' and budget_name == '1p'").iloc[0]
    assert [cell["text"] for cell in row["cells"]][5] == f"{own['mean']:.3f}"
    assert len(whole["scores"].rows) == 6
    assert {cell["text"] for row in part["gap"].rows for cell in row["cells"][:1]} == {"1p"}
    assert "arms simmim; budgets 1p; other metrics HD95, mm (1)" in part["shown"]
    assert whole["shown"] == ""
    assert html.escape(part["shown"]).replace("&#x27;", "&#39;") in page([part])


def test_the_archive_has_every_figure_and_table_with_the_numbers_of_the_report(study: Path) -> None:
    view = view_of(study)
    with zipfile.ZipFile(io.BytesIO(report_files.archive(view))) as packed:
        names = packed.namelist()
        scores = pd.read_csv(packed.open("tables/scores.csv"))
        assert packed.read("report.html").decode() == page([view])
        assert packed.read("figures/label_efficiency.svg").startswith(b"<?xml")
        assert packed.read("figures/pictures_1.png").startswith(b"\x89PNG")
        assert packed.read("command.txt").decode() == view["command"]
        protocol = packed.read("tables/protocol_checklist.tex").decode()
    for drawing in report_files.figures_of(view):
        assert f"figures/{report_files.file_name(drawing)}.png" in names
    for table in report_files.tables_of(view):
        assert f"tables/{report_files.file_name(table)}.tex" in names
    expected = view["scores"].frame()
    assert scores["mean"].map("{:.3f}".format).tolist() == expected["mean"].tolist()
    assert scores["minus scratch"].tolist() == expected["minus scratch"].tolist()
    assert "split by patient & met &" in protocol


def test_csv_keeps_footnotes_and_runs_no_formula() -> None:
    table = tables.Table(["=arm", "#difference [95%]"])
    table.add("=HYPERLINK(1)", "+0.031 [0.010, 0.052]", note="one draw")
    rows = list(csv.reader(io.StringIO(report_files.csv(table).decode())))
    assert rows[1] == ["'=HYPERLINK(1)", "+0.031 [0.010, 0.052]", "one draw"]


def test_latex_escapes_data_and_sets_notes_below() -> None:
    table = tables.Table(["=arm", "#share"])
    table.add(r"a_b \input{x} $&#^~", "10%", note="50% of it")
    text = latex(table, "A & B")
    assert (
        r"a\_b \textbackslash{}input\{x\} \$\&\#\textasciicircum{}\textasciitilde{}\textsuperscript{1} & 10\% \\"
        in text
    )
    assert r"\begin{tabular}{lr}" in text
    assert r"\textsuperscript{1} 50\% of it" in text


def test_bibtex_names_only_what_the_line_names() -> None:
    text = bibtex(
        [
            "Chen et al., A Simple Framework for Contrastive Learning, ICML 2020 (arXiv 2002.05709).",
            "Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021 (arXiv 2011.10566).",
            "Higgins et al., beta-VAE, ICLR 2017, and others of 2021 (arXiv 2006.13202).",
            "medssl 0.1.0: this software; see CITATION.cff in its source.",
        ]
    )
    first, second, third, last = text.strip().split("\n\n")
    assert "author = {Chen and others}" in first
    assert "title = {{A Simple Framework for Contrastive Learning}}" in first
    assert "eprint = {2002.05709}" in first
    assert second.startswith("@misc{chen2021,")
    assert "author = {Chen and He}" in second
    assert "title" not in third
    assert "note = {Higgins et al." in third
    assert last.startswith("@software{medssl,")
    assert "version = {0.1.0}" in last


def test_the_page_offers_the_report_and_one_figure_and_table_by_address(studied: Path, opened) -> None:
    dashboard = opened(studied, "report", study="hippo", table="protocol checklist", figure="forecast")
    assert not dashboard.error
    labels = [button.proto.label for button in dashboard.get("download_button")]
    assert labels[:4] == ["HTML, one file", "PDF", "All files, ZIP", "Works, BibTeX"]
    assert "split by patient" in dashboard.table[0].value.to_string()
    assert '<img src="data:image/svg+xml;base64,' in "".join(html_of(dashboard))
    assert "medssl study --data CACHE --out STUDY" in dashboard.code[0].value
    dashboard = opened(studied, "report", study="hippo", table="nothing", metric="hd95_mm.1")
    assert "Table nothing of the address is not here: scores is shown." in text_of(dashboard)
    assert "A selection is shown: other metrics HD95, mm (1)." in text_of(dashboard)


def test_names_from_data_are_inert(studied: Path, opened) -> None:
    rename_arm(studied / "hippo", "simmim", HOSTILE)
    dashboard = opened(studied, "report", study="hippo")
    assert HOSTILE in text_of(dashboard)
    shown = [element.value for kind in (dashboard.markdown, dashboard.caption) for element in kind]
    shown += [text for table in dashboard.table for text in texts_of(table)]
    assert not [text for text in shown if any(fragment in text for fragment in FRAGMENTS)]


def test_without_weasyprint_the_page_and_the_command_say_what_to_do(
    studied: Path, opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    dashboard = opened(studied, "report", study="hippo")
    assert "A PDF needs WeasyPrint: pip install 'weasyprint>=70'" in text_of(dashboard)
    assert [button.proto.disabled for button in dashboard.get("download_button")][:2] == [False, True]
    with pytest.raises(MedsslError, match="print the HTML page"):
        report(studied / "hippo", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


@pytest.mark.skipif(bool(pdf.why_none()), reason="needs WeasyPrint and Pango: pip install 'weasyprint>=70'")
def test_the_pdf_is_the_page_and_fetches_nothing(study: Path, tmp_path: Path) -> None:
    written = report(study, tmp_path / "report.pdf").read_bytes()
    assert written.startswith(b"%PDF")
    assert written.count(b"/Type /Page\n") + written.count(b"/Type /Page ") != 1
    outside = pdf.pdf('<html><body><img src="http://127.0.0.1:9/x.png"><p>text</p></body></html>')
    assert outside.startswith(b"%PDF")
