"""Files that a reader takes along: labels as `medssl index` takes them, with the command, and tables as CSV.

downloads.labels(content, "labels.csv")
downloads.table(frame, "All verdicts, CSV", "verdicts.csv", texts=["reader", "value"])
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from medssl.reporting.spreadsheet import as_text


def labels(content: bytes, name: str) -> None:
    """Offer a file of labels; content: as from `label_file`."""
    st.download_button("Labels for medssl index, CSV", content, name, "text/csv", on_click="ignore")
    header = pd.read_csv(io.BytesIO(content), nrows=0).columns
    kept = " ".join(shlex.quote(column) for column in header if column not in ("scan", "patient"))
    st.caption("It holds all labels of the cohort. Give it with the options of the first time, into the same manifest:")
    command = f"medssl index SCANS --out MANIFEST --labels {name} --key scan --patient patient --label {kept}"
    st.code(command, language=None, wrap_lines=True)


def table(frame: pd.DataFrame, label: str, name: str, texts: Sequence[str]) -> None:
    """Offer a table as CSV.

    Args:
        frame: The table.
        label: What stands on the button.
        name: Name of the file.
        texts: Columns that people wrote; one that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    safe = frame.assign(**{column: frame[column].map(as_text) for column in texts})
    st.download_button(label, safe.to_csv(index=False).encode(), name, "text/csv", on_click="ignore")
