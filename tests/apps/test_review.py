"""The dashboard's pages without a browser: they show what the files hold, survive broken ones, and never leave the folder."""

import base64
import html
import io
import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from medssl.cli.main import main
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.reporting import tables
from medssl.reporting.dashboard import cases, viewer
from medssl.reporting.dashboard.folder import inside, runs_below
from medssl.reporting.dashboard.pages import pages
from medssl.reporting.dashboard.runs import differences
from medssl.reporting.dashboard.server import app, options
from medssl.reporting.dashboard.study import ReviewedStudy, read_study
from medssl.reporting.dashboard.viewer import Overlay, Plane
from medssl.reporting.findings import findings
from medssl.reporting.style import METRICS
from tests.reporting.test_report import BUDGETS, make_study, record

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A folder of runs: a segmentation study `hippo`, and a classification study `two/hippo`."""
    make_study(tmp_path / "runs" / "two", "classification")
    make_study(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def run(root: Path, page: str = "label_efficiency", data: list[Path] | None = None, **query: str) -> AppTest:
        settings = {"root": str(root), "data": [str(folder) for folder in data or ()]}
        monkeypatch.setenv("MEDSSL_REVIEW", json.dumps(settings))
        dashboard = AppTest.from_file(str(app()), default_timeout=120)
        dashboard.query_params.update(query)
        dashboard.switch_page(f"{page}.py").run()
        assert not dashboard.exception
        return dashboard

    return run


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


# ------------------------------------------------------------------------------------------------- the pages


@pytest.mark.parametrize(("name", "kind"), [("hippo", "dice"), ("two/hippo", "auroc")])
def test_curves_sentence_and_labels_saved_are_the_studys(studied: Path, opened, name: str, kind: str) -> None:
    dashboard = opened(studied, study=name)
    summary = pd.read_parquet(studied / name / "summary.parquet").query("metric == @kind")
    lead, detail = findings(summary, METRICS[kind])
    assert f"<h4>{html.escape(lead)}</h4>" in html_of(dashboard)
    assert detail in [unescaped(c.value) for c in dashboard.caption]
    drawn = {trace["name"]: trace for trace in json.loads(dashboard.get("plotly_chart")[0].proto.spec)["data"]}
    for arm in ("scratch", "simmim"):
        trace, rows = drawn[f"{arm}, fine-tuned"], summary[summary["arm"] == arm].sort_values("patients")
        assert numbers(trace["y"]) == pytest.approx(rows["mean"].tolist())
        assert numbers(trace["error_y"]["array"]) == pytest.approx((rows["high"] - rows["mean"]).tolist())
        assert numbers(trace["error_y"]["arrayminus"]) == pytest.approx((rows["mean"] - rows["low"]).tolist())
    saved, scores = map(table_of, dashboard.table)
    study = study_of(studied, name)
    expected = tables.labels_saved(study.label_curves(), study.main)[0]
    assert saved.to_numpy().tolist() == expected.frame().set_index("arm").to_numpy().tolist()
    for note in (*expected.notes, *tables.scores(study.main).notes):
        assert note[1:] in text_of(dashboard)
    for row in summary.itertuples():
        mine = (
            scores.loc[row.budget_name]
            if row.arm == "scratch"
            else scores[scores["arm"].str.startswith("simmim, fine-tuned")]
        )
        assert f"{row.mean:.3f}" in mine.to_string()


def numbers(values) -> list[float]:
    if isinstance(values, dict):  # plotly packs arrays
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return values


def test_the_run_table_is_runs_table(studied: Path, opened) -> None:
    shown = opened(studied, "runs").dataframe[0].value.set_index("run")
    table = runs.table(studied).set_index("folder")
    assert set(shown.index) == set(table.index)
    assert shown["id"].to_dict() == table["id"].to_dict()
    assert shown["status"].to_dict() == table["status"].to_dict()
    both = table["cost.seconds"].dropna()
    assert len(both) == 2 * 26
    assert shown.loc[both.index, "seconds"].to_dict() == both.to_dict()


def test_filters_and_the_comparison_of_two_runs(studied: Path, opened) -> None:
    dashboard = opened(studied, "runs")
    dashboard.multiselect[0].set_value(["study"]).run()
    assert sorted(dashboard.dataframe[0].value["run"]) == ["hippo", "two/hippo"]
    differing = differences(studied, ["hippo/cells/scratch-1p-0", "hippo/cells/simmim-1p-1"])
    assert set(differing.index) == {"config.arm", "config.draw"}
    assert differing.loc["config.draw"].tolist() == ["0", "1"]


def test_cases_come_worst_first_with_two_arms_beside_each_other(studied: Path, opened) -> None:
    dashboard = opened(studied, "cases", study="hippo")
    listed = dashboard.dataframe[0].value
    assert listed["a"].is_monotonic_increasing
    cases = pd.read_parquet(studied / "hippo/cells/scratch-1p-0/predictions.parquet")
    worst = cases.assign(score=cases[["dice.1", "dice.2"]].mean(axis=1)).sort_values("score").iloc[0]
    assert (listed.iloc[0]["scan"], listed.iloc[0]["a"]) == (worst["scan"], worst["score"])
    assert f"**Scan {worst['scan']}**" in text_of(dashboard)
    assert "start the dashboard with --data CACHE" in text_of(dashboard)
    pictures = "".join(html_of(dashboard))
    assert pictures.count("<img") == 6  # without a cache: three saved slices of each arm
    assert "A: scratch, fine-tuned · its own worst case, Dice 0.250" in pictures
    (budget,) = [box for box in dashboard.selectbox if box.label == "Budget"]
    budget.set_value("100%").run()
    listed = dashboard.dataframe[0].value
    cases = pd.read_parquet(studied / "hippo/cells/scratch-100-0/predictions.parquet")
    assert listed.iloc[0]["a"] == cases[["dice.1", "dice.2"]].mean(axis=1).min()


def test_class_probabilities_are_those_of_the_case(studied: Path, opened) -> None:
    dashboard = opened(studied, "cases", study="two/hippo")
    cases = pd.read_parquet(studied / "two/hippo/cells/scratch-1p-0/predictions.parquet")
    given = np.where(cases["label"] == 1, cases["p.pneumonia"], cases["p.normal"])
    worst = cases.iloc[given.argmin()]
    assert f"**Scan {worst['scan']}**" in text_of(dashboard)
    bars = "".join(html_of(dashboard))
    for name, code in (("normal", 0), ("pneumonia", 1)):
        label = f"{name} (true)" if worst["label"] == code else name
        assert re.search(rf"<span>{re.escape(label)}</span>.*?<span>{worst[f'p.{name}']:.3f}</span>", bars, re.DOTALL)


def test_a_running_study_is_followed_from_its_finished_cells(studied: Path, opened) -> None:
    study = studied / "hippo"
    config = runs.read(study).config
    (study / "summary.parquet").unlink()
    late = study / "cells" / "simmim-100-2" / "run.json"
    record_text, _ = late.read_text(), late.unlink()
    record(study, "study", config, status="running", heartbeat=4e9)
    cells = study / "cells"
    for folder in cells.iterdir():
        if (folder / "run.json").exists():
            about = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps(about | {"metrics": {"dice": 0.5}}))
    dashboard = opened(studied, study="hippo")
    assert "25 of 26 cells are finished" in text_of(dashboard)
    assert "<h4>So far: " in text_of(dashboard)
    before = table_of(dashboard.table[1])
    late.write_text(record_text.replace('"metrics": {', '"metrics": {"dice": 0.5, '))
    dashboard.run()
    assert "25 of 26" not in text_of(dashboard)
    after = table_of(dashboard.table[1])
    assert not after.equals(before)
    assert after["draws"].tolist()[-1] == "3"


# --------------------------------------------------------------------------------- what is broken or foreign


def test_empty_partial_broken_and_foreign_folders_are_shown_as_such(studied: Path, opened, tmp_path: Path) -> None:
    (studied / "nothing").mkdir()
    (studied / "killed").mkdir()
    (studied / "killed" / ".lock").touch()
    (studied / "Doe_Jane").mkdir()
    (studied / "Doe_Jane" / "scan.dcm").touch()
    half = studied / "half"
    half.mkdir()
    (half / "run.json").write_text('{"id": "half')
    for name, content in {"list": "[]", "number": "3", "deep": "[" * 100_000, "bytes": "\udcff"}.items():
        (studied / name).mkdir()
        (studied / name / "run.json").write_text(content, errors="surrogateescape")
    (studied / "folder" / "run.json").mkdir(parents=True)
    outside = tmp_path / "outside"
    record(outside, "pretrain", {"secret": "value"})
    (studied / "linked").mkdir()
    (studied / "linked" / "run.json").symlink_to(outside / "run.json")
    (studied / "way_out").symlink_to(outside)
    shown = opened(studied, "runs").dataframe[0].value.set_index("run")["status"]
    assert shown["nothing"] == "empty folder"
    assert shown["killed"] == "no record"
    assert {shown[name] for name in ("half", "list", "number", "deep", "bytes")} == {"record cannot be read"}
    assert {shown["linked"], shown["way_out"]} == {"refused: a link leads out of the folder"}
    assert not [name for name in shown.index if "Doe" in name]
    text = text_of(opened(studied, "runs"))
    assert "secret" not in text
    assert str(studied) not in text


def test_cells_that_are_broken_or_lead_out_do_not_enter_and_are_named(studied: Path, opened, tmp_path: Path) -> None:
    cells = studied / "hippo" / "cells"
    (cells / "simmim-1p-1" / "predictions.parquet").write_bytes(b"PAR1 cut off")
    pd.DataFrame({"scan": ["s00"], "patient": ["p00"], "dice.1": [1.0]}).to_parquet(
        cells / "simmim-1p-2" / "predictions.parquet"
    )
    elsewhere = tmp_path / "elsewhere.parquet"
    os.replace(cells / "simmim-1p-3" / "predictions.parquet", elsewhere)
    (cells / "simmim-1p-3" / "predictions.parquet").symlink_to(elsewhere)
    (cells / "simmim-1p-0" / "examples.npz").write_bytes(b"PK cut off")
    study = study_of(studied, "hippo")
    assert sorted(study.damaged) == ["simmim-1p-1", "simmim-1p-2"]
    assert sorted(study.cases["simmim", "finetune", "1p"]) == [0, 4]
    text = text_of(opened(studied, study="hippo"))
    assert "predictions cannot be read" in text
    assert "refused: a link leads out of the folder" in text
    assert "saved no pictures" in text_of(opened(studied, "cases", study="hippo"))


@pytest.mark.parametrize("name", ["../outside", "/etc", "hippo/../../outside", "hippo/cells", "way_out", "nowhere"])
@pytest.mark.parametrize("page", ["label_efficiency", "cases"])
def test_a_path_in_the_address_is_refused(studied: Path, opened, tmp_path: Path, name: str, page: str) -> None:
    make_study(tmp_path / "outside")
    os.rename(tmp_path / "outside" / "hippo", tmp_path / "away")
    (studied / "way_out").symlink_to(tmp_path / "away")
    dashboard = opened(studied, page, study=name)
    assert len(dashboard.error) == 1
    assert re.search(
        "outside of the one under review|no readable study of the requested name", dashboard.error[0].value
    )
    assert not dashboard.table
    assert not dashboard.dataframe


JUNK = (None, "x", [[1]])


@pytest.mark.parametrize("field", ["config", "metrics", "cost", "started", "status", "kind", "protocol", "versions"])
def test_a_malformed_record_never_ends_the_page(studied: Path, opened, field: str) -> None:
    file = studied / "hippo" / "run.json"
    about = json.loads(file.read_text())
    for junk in JUNK:
        file.write_text(json.dumps(about | {field: junk}))
        assert text_of(opened(studied))
    cell = studied / "two" / "hippo" / "cells" / "scratch-1p-0" / "run.json"
    about = json.loads(cell.read_text())
    cell.write_text(json.dumps(about | {field: "x"}))
    assert text_of(opened(studied, "runs"))
    assert text_of(opened(studied, study="two/hippo"))


@pytest.mark.parametrize("name", ["task", "arms", "cell_ids", "cells", "scored_patients", "seen_test_scans", "dims"])
def test_malformed_settings_of_a_study_are_shown_on_the_page(studied: Path, opened, name: str) -> None:
    file = studied / "hippo" / "run.json"
    about = json.loads(file.read_text())
    for junk in JUNK:
        file.write_text(json.dumps(about | {"config": about["config"] | {name: junk}}))
        assert text_of(opened(studied, "cases", study="hippo"))


def test_an_empty_folder_says_so(tmp_path: Path, opened) -> None:
    for page in ("label_efficiency", "runs", "cases"):
        assert "This folder is empty" in text_of(opened(tmp_path, page))


# ---------------------------------------------------------------------------------------------- the pictures


def test_a_slice_lies_as_radiologists_look_at_it() -> None:
    volume = np.zeros((4, 5, 6))
    volume[3, 4, 5] = 1  # the right, front, upper corner
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    axial = viewer.slice_of(volume, affine, "axial", 5)
    assert (axial.left, axial.right, axial.top, axial.bottom) == ("R", "L", "A", "P")
    assert axial.pixels.shape == (5, 4)
    assert axial.pixels[0, 0] == 1
    assert (axial.row_mm, axial.column_mm) == (3.0, 2.0)
    coronal = viewer.slice_of(volume, affine, "coronal", 4)
    assert (coronal.left, coronal.right, coronal.top, coronal.bottom) == ("R", "L", "S", "I")
    assert (coronal.row_mm, coronal.column_mm, coronal.pixels[0, 0]) == (5.0, 2.0, 1)
    sagittal = viewer.slice_of(volume, affine, "sagittal", 3)
    assert (sagittal.left, sagittal.right, sagittal.top, sagittal.bottom) == ("A", "P", "S", "I")
    turned = viewer.slice_of(volume, np.diag([-2.0, 3.0, 5.0, 1.0]), "axial", 5)
    assert (turned.left, turned.right) == ("L", "R")  # the letters follow the affine, not an assumption


def test_a_picture_is_true_to_the_spacing_and_the_window() -> None:
    plane = Plane(np.array([[-1000, -160], [40, 3000]], dtype=np.int16), row_mm=3.0, column_mm=1.0)
    drawn = viewer.picture(plane, viewer.windows("CT")["soft tissue (40/400)"])
    assert drawn.shape[0] == pytest.approx(3 * drawn.shape[1], abs=2)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[-1, 0].tolist() == pytest.approx([127, 127, 127], abs=1)
    assert drawn[-1, -1].tolist() == [255, 255, 255]


def test_overlays_mix_with_the_image_as_their_opacity_says() -> None:
    plane = Plane(np.zeros((20, 20)), 1.0, 1.0)
    mask = np.zeros((20, 20))
    mask[5:15, 5:15] = 2
    colour = [int(viewer.structure_colour(2)[i : i + 2], 16) for i in (1, 3, 5)]
    for opacity in (0.0, 0.5, 1.0):
        drawn = viewer.picture(plane, (0, 1), [Overlay(mask, opacity)])
        middle = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2]
        assert middle.tolist() == pytest.approx([opacity * c for c in colour], abs=1)
        assert not drawn[0, 0].any()
    line = viewer.picture(plane, (0, 1), [Overlay(mask, 1.0, outline=True)])
    assert not line[line.shape[0] // 2, line.shape[1] // 2].any()
    assert line.any()


def test_windows_suit_the_modality() -> None:
    assert viewer.windows("CT")["lung (-600/1500)"] == (-1350, 150)
    assert not set(viewer.windows("MR")) & set(viewer.windows("CT"))
    assert viewer.windows("DX")["full range"] == (0.0, 1.0)


def test_the_fullest_slice_and_the_middle_one() -> None:
    mask = np.zeros((6, 7, 8), dtype=np.uint8)
    mask[2:4, 3, 5] = 1
    assert [viewer.fullest_slice(mask, mask.shape, plane) for plane in ("sagittal", "coronal", "axial")] == [
        2,
        3,
        5,
    ]
    assert viewer.fullest_slice(None, mask.shape, "axial") == 4


def test_a_cache_of_other_data_is_refused(cache, studied: Path, tmp_path: Path) -> None:
    run = runs.read(studied / "hippo")
    no_cache, reason = cases.cache_of(run, [cache.path, tmp_path])
    assert no_cache is None
    assert cache.digest[:12] in reason
    assert "is no cache (cache.json is missing): run medssl prepare with this folder as --out" in reason
    assert str(tmp_path) not in reason
    assert cases.cache_of(runs.Run("a", "study", {}, cache.digest, 0), [cache.path])[0].path == cache.path


# ---------------------------------------------------------------------------------------------- the command


def test_every_setting_that_decides_who_may_look_is_explicit() -> None:
    given = options("127.0.0.1", 8501, ["box"])
    for setting in (
        "--server.address=127.0.0.1",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--server.enableCORS=true",
        "--server.enableXsrfProtection=true",
        "--server.enableStaticServing=false",
        "--server.enableAgentApi=false",
        "--server.allowedHosts=localhost",
        "--server.allowedHosts=box",
    ):
        assert setting in given
    assert not [g for g in given if "0.0.0.0" in g or "*" in g or "streamlit.app" in g]
    assert "--server.allowedHosts=0.0.0.0" not in options("0.0.0.0", 8501, [])


def test_what_cannot_be_served_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["review", str(tmp_path / "nowhere")]) == 2
    assert "expected the folder of runs" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["review", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


def test_an_address_that_others_can_reach_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("medssl.reporting.dashboard.server")
    served: list[list[str]] = []
    monkeypatch.setattr(module, "_serve", served.append)
    monkeypatch.setenv("MEDSSL_REVIEW", "")
    with pytest.warns(UserWarning, match="without a password"):
        module.review(tmp_path, host="0.0.0.0", port=0)
    assert "--server.address=0.0.0.0" in served[0]
    module.review(tmp_path, port=0)
    assert "--server.address=127.0.0.1" in served[1]
    assert module.settings().root == tmp_path.resolve()


def test_a_name_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "/etc", "a/../../x"):
        with pytest.raises(MedsslError, match="outside of the one under review"):
            inside(tmp_path, name)


def test_from_a_wheel_in_an_empty_folder_and_without_torch(studied: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = """
import sys
from streamlit.testing.v1 import AppTest
from medssl.reporting.dashboard.server import app
dashboard = AppTest.from_file(str(app()), default_timeout=120).run()
for page in ("runs.py", "cases.py"):
    dashboard.switch_page(page).run()
    assert not dashboard.exception and not dashboard.error, dashboard.error
import medssl
print(medssl.__file__, str(app()), sorted({"torch", "monai", "lightly", "torchvision"} & set(sys.modules)))
"""
    (tmp_path / "empty").mkdir()
    settings = json.dumps({"root": str(studied), "data": []})
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "MEDSSL_REVIEW": settings}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    package, first, heavy = done.stdout.strip().split("\n")[-1].split(" ", 2)
    assert Path(package).is_relative_to(tmp_path / "installed")
    assert Path(first) == tmp_path / "installed" / "medssl" / "apps" / "review" / "app.py"
    assert heavy == "[]"


def test_the_pictures_on_the_page_are_png_of_the_case(studied: Path, opened) -> None:
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", "".join(html_of(opened(studied, "cases", study="hippo"))))
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in pictures]
    with np.load(studied / "hippo/cells/scratch-1p-0/examples.npz") as saved:
        image, mask = saved["image.0"], saved["prediction.0"]
    low, high = np.percentile(image, [1, 99])
    grey = viewer.picture(viewer.slice_of(image[..., None], np.eye(4), "axial", 0), (low, high))
    outside = ~np.asarray(viewer.picture(viewer.slice_of(mask[..., None], np.eye(4), "axial", 0), (0, 1))[..., 0] > 0)
    assert drawn[0].shape == grey.shape
    assert np.mean(drawn[0][outside] == grey[outside]) > 0.95  # all but the outline of the reference
    assert len(BUDGETS) == 3


# ------------------------------------------------------------------------------------------------- a page's file


def test_a_page_is_one_file_that_states_its_title_and_order(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    (tmp_path / "b.py").write_text('"""Second."""\nTITLE = "Beta"\nORDER = 2\n1 / 0')
    (tmp_path / "a.py").write_text('TITLE = "Omega"\nORDER = 10\n')
    (tmp_path / "c.py").write_text('TITLE = "Alpha"\nORDER = 1\n')
    assert [(page.title, page.path.name) for page in pages(tmp_path)] == [
        ("Alpha", "c.py"),
        ("Beta", "b.py"),
        ("Omega", "a.py"),
    ]
    (tmp_path / "d.py").write_text('TITLE = "No order"\n')
    with pytest.raises(MedsslError, match="d.py states no title or no order"):
        pages(tmp_path)


def test_the_pages_of_the_app_are_the_files_of_its_folder() -> None:
    found = pages(app().parent)
    assert len(found) == len(list(app().parent.glob("*.py"))) - 1  # all but app.py
    assert len({page.title for page in found}) == len(found)
    assert [page.title for page in found][:3] == ["Label efficiency", "Runs", "Cases"]


# ------------------------------------------------------------------------------- data is never Markdown or HTML

FRAGMENTS = ("![x]", "](http", "**b**", "src=x", ":red[", "$d$", "www.f", "@f")
HOSTILE = "![x](http://foreign.example/a.png) **b** <img src=x> :red[c] $d$ www.foreign.example a@foreign.example"


def test_names_and_messages_from_data_are_shown_as_they_are_written(studied: Path, opened) -> None:
    rename_arm(studied / "hippo", "simmim", HOSTILE)
    cell = studied / "hippo" / "cells" / "simmim-1p-1" / "run.json"
    about = json.loads(cell.read_text())
    cell.write_text(json.dumps(about | {"status": HOSTILE, "reason": f"# {HOSTILE}"}))
    for page in ("label_efficiency", "runs", "cases"):
        dashboard = opened(studied, page, study="hippo")
        assert HOSTILE in text_of(dashboard), page
        markdown = [
            e.value
            for kind in (dashboard.markdown, dashboard.caption, dashboard.error, dashboard.warning)
            for e in kind
        ]
        markdown += [text for table in dashboard.table for text in cells_of(table)]
        markdown += [metric.label for metric in dashboard.metric]
        assert not [text for text in markdown if any(fragment in text for fragment in FRAGMENTS)]
        assert "<img src=x>" not in "".join(html_of(dashboard))
        charts = "".join(chart.proto.spec for chart in dashboard.get("plotly_chart"))
        assert "<img" not in charts


def rename_arm(study: Path, old: str, new: str) -> None:
    """The study as if one of its arms had another name."""
    for file in study.glob("**/run.json"):
        file.write_text(file.read_text().replace(f'"{old}"', json.dumps(new)))
    summary = pd.read_parquet(study / "summary.parquet").replace({"arm": {old: new}})
    summary.to_parquet(study / "summary.parquet")


def cells_of(table) -> list[str]:
    frame = table.value
    return [*map(str, frame.index), *map(str, frame.columns), *map(str, frame.to_numpy().ravel())]
