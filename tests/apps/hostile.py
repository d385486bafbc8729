"""Names from data that would be Markdown, HTML or an address, were they not escaped."""

import json
from pathlib import Path

import pandas as pd

FRAGMENTS = ("![x]", "](http", "**b**", "src=x", "script>", ":red[", "$d$", "www.f", "@f", ":material/home:", "-> b")
HOSTILE = (
    "![x](http://foreign.example/a.png) **b** <img src=x> :red[c] $d$ www.foreign.example a@foreign.example "
    ":material/home: a -> b <script>e()</script>"
)


def rename_arm(study: Path, old: str, new: str) -> None:
    """The study as if one of its arms had another name."""
    for file in study.glob("**/run.json"):
        file.write_text(file.read_text().replace(f'"{old}"', json.dumps(new)))
    summary = pd.read_parquet(study / "summary.parquet").replace({"arm": {old: new}})
    summary.to_parquet(study / "summary.parquet")


def elements_of(html: list[str]) -> list[str]:
    """The elements that no template of ours holds, so that they come from data."""
    return [found for text in html for found in ("<img src=x>", "<script") if found in text]


def cells_of(table) -> list[str]:
    frame = table.value
    return [*map(str, frame.index), *map(str, frame.columns), *map(str, frame.to_numpy().ravel())]
