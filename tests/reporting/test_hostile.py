"""The report shows every name from data as it is written: it is no HTML, no address, no maths, and none goes missing."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from medssl.reporting.html.report import report
from tests.apps.hostile import HOSTILE, rename_arm
from tests.reporting.test_report import make_study, text_of

pytestmark = pytest.mark.long

MATHS = r"$\frac{1}{0$"  # an error in matplotlib's maths, of which $x_1$ would be shown as a formula
LIVE = r"<script|<img(?! src=\"data:)[^>]*>|<[^>]+\son\w+=|(?:href|src)=\"?(?:https?:|//|javascript:)|<iframe|<object|<link"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Every text of the figures that are saved: what it says, and whether it is read as maths."""
    texts: list[tuple[str, bool]] = []
    save = Figure.savefig

    def note(figure: Figure, *given, **named) -> None:
        save(figure, *given, **named)
        found = figure.findobj(lambda artist: hasattr(artist, "get_parse_math"))
        texts.extend((text.get_text(), text.get_parse_math()) for text in found)

    monkeypatch.setattr(Figure, "savefig", note)
    return texts


def hostile_study(root: Path, task: str, name: str) -> Path:
    """A study whose arm, label, settings, failures and cells all have this name."""
    study = make_study(root, task)
    rename_arm(study, "simmim", name)
    cell = study / "cells" / "simmim-1p-1" / "run.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"status": "failed", "reason": name}))
    about = json.loads((study / "run.json").read_text())
    about["config"]["given_options"] |= {"label": name, name: name}
    about["protocol"]["strong baselines"]["evidence"] = name
    (study / "run.json").write_text(json.dumps(about))
    return study


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("name", [f"{HOSTILE} {MATHS}", "_underscored", "$x_1$ & \"quoted\" 'so'"])
def test_names_from_data_are_text_in_the_page_and_in_its_figures(
    tmp_path: Path, drawn: list[tuple[str, bool]], task: str, name: str
) -> None:
    """Two dollar signs were maths, which ended the report if they were none; a name from `_` on was in no legend."""
    page = report(hostile_study(tmp_path, task, name))
    source = page.read_text()
    assert not re.search(LIVE, source)
    assert " ".join(name.split()) in text_of(page)
    assert not any(maths for _, maths in drawn)
    assert sum(text.startswith(name) for text, _ in drawn) >= 2  # the legend of the curves, and the forest
    for svg in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', source):
        assert not re.search(rb"<script|<image|<foreignObject|<a |href=\"(?!#)", base64.b64decode(svg))
