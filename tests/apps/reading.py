"""What a reader sees of a page that Streamlit's AppTest has run, and studies to show on it."""

import html
import re
from pathlib import Path

import pandas as pd
from streamlit.testing.v1 import AppTest

from medssl.reporting.dashboard.folder import runs_below
from medssl.reporting.dashboard.study import ReviewedStudy, read_study


def text_of(dashboard: AppTest) -> str:
    """What a reader sees: Markdown without its escapes."""
    kinds = (dashboard.markdown, dashboard.caption, dashboard.error, dashboard.warning, dashboard.info)
    texts = [element.value for kind in kinds for element in kind]
    shown = [table_of(table).reset_index().to_string() for table in (*dashboard.table, *dashboard.dataframe)]
    return "\n".join([*map(unescaped, texts), *shown, *map(html.unescape, html_of(dashboard))])


def unescaped(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", str(text)).replace("\u2060", "")


def table_of(element) -> pd.DataFrame:
    return element.value.map(unescaped).rename(index=unescaped, columns=unescaped)


def html_of(dashboard: AppTest) -> list[str]:
    return [element.proto.body for element in dashboard.get("html")]


def study_of(root: Path, name: str) -> ReviewedStudy:
    return read_study(root, name, runs_below(root))
