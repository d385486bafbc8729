"""The page on runs: the table is that of the records, and folders that are empty, broken or foreign are named as such."""

from pathlib import Path

from medssl.core import runs
from medssl.reporting.dashboard.folder import runs_below
from medssl.reporting.dashboard.runs import configs, differences
from medssl.reporting.public_weights import public_weights
from tests.apps.reading import text_of
from tests.reporting.test_report import record


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
    assert set(differing.index) == {"config.arm", "config.draw", "parent"}
    assert differing.loc["config.draw"].tolist() == ["0", "1"]


def test_a_chosen_import_shows_its_receipt(studied: Path, opened) -> None:
    part = {"tensors": 2, "parameters": 300, "names": ["stem.weight"]}
    receipt = {
        "loaded": part,
        "adapted": {},
        "left_out": {"classifier": part},
        "random": part | {"tensors": 0},
        "share": 1.0,
        "notes": [],
    }
    source = {"layout": "torchvision", "licence": "BSD-3-Clause", "sha256": "ab" * 32}
    record(studied / "imagenet", "import", {"receipt": receipt, "source": source, "expects": {"intensity": "0..1"}})
    assert "Receipt of imported weights" not in text_of(opened(studied, "runs"))
    text = text_of(opened(studied, "runs", run=["imagenet"]))
    assert "Receipt of imported weights" in text
    shown = public_weights(configs(studied, ["imagenet"])).frame()
    assert shown["what"].str.contains("BSD-3-Clause").any()
    assert public_weights(configs(studied, ["hippo"])) is None


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


def test_a_cache_a_manifest_and_a_cohort_are_no_runs(studied: Path) -> None:
    before = runs_below(studied)["folder"].tolist()
    for name, files in {
        "cache": ["cache.json", "manifest.parquet"],
        "manifest": ["manifest.parquet"],
        "scans": ["labels.csv"],
    }.items():
        (studied / name).mkdir()
        for file in (".lock", *files):
            (studied / name / file).touch()
    assert runs_below(studied)["folder"].tolist() == before
