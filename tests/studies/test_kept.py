"""A running study is summarised bit by bit: the same table, with only the new cells read and only their rows computed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from medssl.core import runs
from medssl.evaluation.case_metrics import Dice
from medssl.studies import summary
from medssl.studies.kept import KeptCells
from medssl.studies.summary import summarise
from tests.reporting.test_report import make_study


@pytest.fixture
def running(tmp_path: Path) -> Path:
    study = make_study(tmp_path)
    for file in (study / "cells").glob("*/run.json"):
        file.write_text(file.read_text().replace('"metrics": {', '"metrics": {"dice": 0.5, '))
    return study


def test_only_new_cells_are_read_and_only_their_rows_computed(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, kept, metric = sorted(p.name for p in (running / "cells").glob("*/")), KeptCells(), Dice()
    cells = [name for name in cells if (running / "cells" / name / "run.json").exists()]
    last = "simmim-100-2"
    first = summarise(running, [name for name in cells if name != last], metric, kept)
    read, computed = [], []
    read_run, rows = runs.read, summary._metric_rows
    monkeypatch.setattr(runs, "read", lambda folder: read.append(Path(folder).name) or read_run(folder))
    monkeypatch.setattr(summary, "_metric_rows", lambda *given: computed.append(given[0]) or rows(*given))
    whole = summarise(running, cells, metric, kept)
    assert (read, computed) == ([last], [("simmim", "finetune", "100%")])
    pd.testing.assert_frame_equal(whole, summarise(running, cells, metric))
    assert not whole.equals(first)


def test_a_cell_that_was_made_again_is_read_again(running: Path) -> None:
    cells, kept, metric = ["scratch-1p-0", "simmim-1p-0"], KeptCells(), Dice()
    before = summarise(running, cells, metric, kept)
    own = running / "cells" / "scratch-1p-0" / "predictions.parquet"
    shutil.copy(running / "cells" / "simmim-1p-0" / "predictions.parquet", own)
    after = summarise(running, cells, metric, kept)
    assert after.loc[after["arm"] == "simmim", "difference"].dropna().tolist() == [0.0]
    assert before.loc[before["arm"] == "simmim", "difference"].dropna().tolist() != [0.0]
    about = json.loads((own.parent / "run.json").read_text())
    (own.parent / "run.json").write_text(json.dumps(about | {"status": "failed"}))
    assert set(summarise(running, cells, metric, kept)["arm"]) == {"simmim"}
