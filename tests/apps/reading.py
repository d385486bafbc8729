"""What a reader sees of a page that Streamlit's AppTest has run, and studies to show on it."""

import html
import json
import re
from pathlib import Path

import pandas as pd
from streamlit.testing.v1 import AppTest

from medssl.preprocessing.cache import Cache
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


def use_scans(study: Path, cache: Cache) -> list[str]:
    """Make the cases of a study of `make_study` scans of a cache, and return these."""
    scans = cache.manifest[["scan", "patient"]].head(4)
    for file in study.glob("cells/*/predictions.parquet"):
        cases = pd.read_parquet(file).head(len(scans))
        cases.assign(scan=scans["scan"], patient=scans["patient"]).to_parquet(file)
    record = study / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"data": cache.digest}))
    return scans["scan"].tolist()
