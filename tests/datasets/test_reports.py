"""Reports are kept only when asked for, without what can be told to name somebody, and findings stay readable."""

from pathlib import Path

import pandas as pd
import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.reports import REMOVED, scrub


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Seen by Dr. Ann Lee.", "Ann Lee"),
        ("Gez. Dr. med. Eva Schmidt-Klein", "Eva Schmidt-Klein"),
        ("Signed by Hans Müller, consultant", "Hans Müller"),
        ("Name: MEIER^HANS", "MEIER^HANS"),
        ("Patient: Joe X. Smith, liver normal", "Joe X. Smith"),
        ("Compared with 2021-03-04.", "2021-03-04"),
        ("Compared with 4.3.21.", "4.3.21"),
        ("Compared with 4 March 2021.", "4 March 2021"),
        ("Compared with March 4th, 2021.", "March 4th, 2021"),
        ("Phoned at 10:45 am.", "10:45"),
        ("MRN 12345", "12345"),
        ("Accession: A-77", "A-77"),
        ("call +49 30 1234-567", "1234-567"),
        ("mail a.b@c.de", "a.b@c.de"),
        ("see https://pacs.example/x", "pacs"),
        ("UID 1.2.840.113.4", "1.2.840.113.4"),
    ],
)
def test_what_names_somebody_is_taken_out(text: str, gone: str) -> None:
    assert gone not in scrub(text)
    assert REMOVED in scrub(text)


def test_what_the_table_or_the_header_knows_is_taken_out_wherever_it_stands() -> None:
    said = scrub("Mrs meier, id pq-7: the Meierhof sign; PQ-7 again", ["Meier^Eva", "pq-7", None])
    assert "meier," not in said.lower()
    assert "pq-7" not in said.lower()
    assert "Meierhof sign" in said  # a word that only begins like it is another word


def test_findings_stay(cohort: Path) -> None:
    """No sentence of the phantom's reports is touched, nor what looks a little like a date or a number."""
    for text in pd.read_csv(cohort / "reports.csv")["report"]:
        assert scrub(text) == text
    for text in ("L4/5 disc, grade 2/3.", "T10 vertebra, 3 x 4 mm.", "1.5 T, 120 kV, 2.5 mm.", "HU -1000."):
        assert scrub(text) == text


def test_index_keeps_reports_when_asked_alone(cohort: Path, tmp_path: Path, capfd) -> None:
    table = pd.read_csv(cohort / "labels.csv").merge(pd.read_csv(cohort / "reports.csv"), on="file")
    table["report"] += " Dr. Ann Lee, for " + table["patient"]
    table.loc[0, "report"] = None
    table.to_csv(tmp_path / "labels.csv", index=False)
    given = {"labels": tmp_path / "labels.csv", "patient": "patient"}
    assert "report" not in index([cohort / "dicom"], tmp_path / "a", **given)
    capfd.readouterr()
    manifest = index([cohort / "dicom"], tmp_path / "b", report="report", **given)
    said = capfd.readouterr().err
    assert f"{len(table) - 1} of {len(table)} scans have a report" in said
    assert "no anonymisation" in said
    texts = manifest["report"].dropna()
    assert len(texts) == len(table) - 1
    assert not texts.str.contains("Lee|PHANTOM", regex=True).any()
    assert texts.str.contains("phase").all()
    assert "label.report" not in manifest
    with pytest.raises(MedsslError, match="report 'repot' is not a column of the labels; did you mean report"):
        index([cohort / "dicom"], tmp_path / "c", report="repot", **given)
    with pytest.raises(MedsslError, match="no labels file is given"):
        index([cohort / "dicom"], tmp_path / "c", report="report")


def test_reports_are_shown_for_review_those_with_names_left_first(cohort: Path, tmp_path: Path, capfd) -> None:
    table = pd.read_csv(cohort / "labels.csv").merge(pd.read_csv(cohort / "reports.csv"), on="file")
    table.loc[3, "report"] = "Compared with the study that Ann Lee saw. Discussed with Ben Ott [x]."
    table.to_csv(tmp_path / "labels.csv", index=False)
    given = {"labels": tmp_path / "labels.csv", "patient": "patient"}
    manifest = index([cohort / "dicom"], tmp_path / "m", report="report", preview=2, **given)
    said = capfd.readouterr().err
    assert "2 reports as they are kept" in said
    assert "  1  Compared with the study that Ann Lee saw. Discussed with Ben Ott [x]." in said
    assert sum(f"  {text}" in said for text in manifest["report"].dropna().unique()) == 2
    with pytest.raises(MedsslError, match="expected --report COLUMN with it"):
        index([cohort / "dicom"], tmp_path / "n", preview=2, **given)
