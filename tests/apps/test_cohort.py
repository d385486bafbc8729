"""The page on the cohort: its counts are the manifest's, rejects stand with their reasons, and labels with the parts of the study."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.manifest import to_parquet
from medssl.datasets.splits import SplitSpec, label_budgets
from medssl.preprocessing.cache import Cache
from medssl.reporting import cohort_tables
from medssl.reporting.dashboard import cohort, cohort_parts
from tests.apps.hostile import FRAGMENTS, HOSTILE, cells_of
from tests.apps.readable import readable_study
from tests.apps.reading import html_of, table_of, text_of

ID = "{:012x}".format


def scans(count: int = 30, **columns: object) -> pd.DataFrame:
    """The rows of a manifest of CT volumes, one patient for each two scans."""
    table = {
        "scan": [ID(n) for n in range(count)],
        "patient": [ID(1000 + n // 2) for n in range(count)],
        "modality": "CT",
        "shape": [[64, 64, 20 + n % 2] for n in range(count)],
        "spacing_mm": [[1.0, 1.0, 2.5]] * count,
        "manufacturer": ["GE", "Philips", None] * (count // 3),
        "has_mask": [n % 2 == 0 for n in range(count)],
        "flags": ["few slices; duplicate of 00000000000a" if n == 1 else None for n in range(count)],
        "status": "ok",
        "reason": None,
        "label.kind": ["a", "b", "b"] * (count // 3),
        "label.age": [20.5 + n for n in range(count)],
    }
    return pd.DataFrame(table | columns)


def written(folder: Path, table: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.parquet").write_bytes(to_parquet(table))
    return folder


def test_counts_are_those_of_the_manifest() -> None:
    usable = scans()
    assert cohort.columns(usable)[:4] == ["modality", "spacing_mm", "shape", "manufacturer"]
    assert not {"scan", "patient", "reason", "status"} & set(cohort.columns(usable))
    maker = cohort.counts(usable, "manufacturer").set_index("value")
    assert maker["scans"].to_dict() == {"GE": 10, "Philips": 10, "not known": 10}
    assert maker.index[-1] == "not known"
    assert maker.loc["GE", "patients"] == usable[usable["manufacturer"] == "GE"]["patient"].nunique()
    assert cohort.counts(usable, "shape")["value"].tolist() == ["64 × 64 × 20", "64 × 64 × 21"]
    flags = cohort.counts(usable, "flags").set_index("value")["scans"].to_dict()
    assert flags == {"none": 29, "few slices": 1, "duplicate of": 1}


def test_many_numbers_become_bands_that_hold_all_scans_and_rare_values_are_put_together() -> None:
    usable = scans(60)
    ages = cohort.counts(usable, "label.age")
    assert len(ages) == cohort.BANDS
    assert ages["scans"].sum() == 60
    assert ages["value"].iloc[0].startswith("20.5 to ")
    names = cohort.counts(scans(60, **{"label.kind": [f"v{n}" for n in range(60)]}), "label.kind")
    assert names["value"].iloc[-1] == f"{60 - cohort.MOST_VALUES} other values"
    odd = cohort.counts(scans(60, **{"label.age": [np.inf, np.nan, *map(float, range(58))]}), "label.age")
    assert odd.set_index("value")["scans"]["not known"] == 2


def test_reasons_that_differ_in_numbers_are_one(tmp_path: Path) -> None:
    table = scans(6, manufacturer="GE", **{"label.kind": "a"})
    table["status"] = ["ok", *["rejected"] * 5]
    table["reason"] = [None, *(f"spacing_mm[2] is {n}.5 in {ID(n)}" for n in range(4)), "cannot read /home/ann/x.nii"]
    shown = cohort.read_cohort("m", written(tmp_path / "m", table))
    reasons = cohort.reject_reasons(shown.rejected)
    assert reasons["scans"].tolist() == [4, 1]
    assert reasons["reason"].tolist() == [f"spacing_mm[2] is 0.5 in {ID(0)}", "cannot read [path]"]
    assert cohort_tables.sentence(shown) == (
        "1 scan of 1 patient can be used: all CT, most often at 1 × 1 × 2.5 mm; 5 scans cannot be used, 4 of them for one reason."
    )


def test_only_folders_with_a_manifest_are_cohorts_and_links_are_not_followed(tmp_path: Path) -> None:
    root, data = tmp_path / "runs", written(tmp_path / "cache", scans())
    written(root / "sub" / "manifest", scans())
    (root / "linked").mkdir()
    (root / "linked" / "manifest.parquet").symlink_to(data / "manifest.parquet")
    named = cohort.cohorts(root, [data, tmp_path, written(tmp_path / "other" / "cache", scans())])
    assert list(named) == ["cache", "cache 2", "sub/manifest"]
    assert cohort.cohorts(root, [root / "sub" / "manifest"]) == {"manifest": root / "sub" / "manifest"}


def test_labels_are_counted_in_the_very_parts_of_the_study(cache: Cache) -> None:
    usable = cache.manifest
    roles = SplitSpec(0).roles(usable)
    kind = dict(zip(usable["patient"], usable["label.kind"], strict=True))
    subsets = label_budgets(roles, {patient: [value] for patient, value in kind.items()}, ["100%", "2p"], draws=3)
    table = cohort_parts.counts_by_part(usable, roles, subsets, "kind")
    assert list(table) == ["train", "validation", "test", "2p", "100%"]
    for name in usable["label.kind"].unique():
        in_test = sum(role == "test" and kind[patient] == name for patient, role in roles.items())
        assert table.loc[name, "test"] == (in_test, in_test)
        sizes = [
            sum(kind[patient] == name for patient in own["patient"])
            for _, own in subsets[subsets["budget_name"] == "2p"].groupby("draw")
        ]
        assert table.loc[name, "2p"] == (min(sizes), max(sizes))
    assert table.loc["all patients", "test"] == ((roles == "test").sum(),) * 2


def test_a_split_that_is_not_the_studys_is_refused(studied_cohort: tuple[Path, Cache]) -> None:
    root, cache = studied_cohort
    run = runs.read(root / "segmentation")
    assert cohort_parts.roles_of(run, cache.manifest).isin(["train", "validation", "test"]).all()
    with pytest.raises(MedsslError, match="expected the same"):
        cohort_parts.roles_of(run, cache.manifest.iloc[2:])


@pytest.fixture
def studied_cohort(tmp_path: Path, cache: Cache) -> tuple[Path, Cache]:
    """A study of the phantom cache, with its split and two budgets."""
    study = readable_study(tmp_path / "runs", cache)
    roles = SplitSpec(0).roles(cache.manifest)
    counts = {role: int((roles == role).sum()) for role in ("train", "validation", "test")}
    about = json.loads((study / "run.json").read_text())
    about["config"] |= {"patients": counts, "split_seed": 0, "split_column": None}
    (study / "run.json").write_text(json.dumps(about))
    classes = {patient: ["x"] for patient in cache.manifest["patient"]}
    label_budgets(roles, classes, ["1p", "100%"], draws=2).to_parquet(study / "subsets.parquet")
    return tmp_path / "runs", cache


def test_the_page_shows_the_cache_its_pictures_and_the_labels_of_the_study(studied_cohort, opened) -> None:
    root, cache = studied_cohort
    dashboard = opened(root, "cohort", data=[cache.path])
    text, count = text_of(dashboard), len(cache.manifest)
    assert f"{count} scans of {cache.manifest['patient'].nunique()} patients can be used" in text
    assert len(re.findall("<img ", "".join(html_of(dashboard)))) == min(count, 24)
    assert f"Scans 1 to {min(count, 24)} of {count}, the middle axial slice of each." in text
    parts = next(table for table in map(table_of, dashboard.table) if "training" in table)
    roles = SplitSpec(0).roles(cache.manifest)
    assert parts.loc["all patients", "test"] == str((roles == "test").sum())
    assert parts.loc["all patients", "1p"] == "1"
    assert "No audit lies in this folder" in text
    assert not dashboard.error


def test_one_value_of_a_column_fills_the_sheet_and_stands_in_the_address(studied_cohort, opened) -> None:
    root, cache = studied_cohort
    kind = cache.manifest["label.kind"].iloc[0]
    own = cache.manifest["label.kind"] == kind
    dashboard = opened(root, "cohort", data=[cache.path], column="label.kind", value=kind)
    pictures = "".join(html_of(dashboard))
    shown = [scan for scan in cache.manifest["scan"] if f">{scan}<" in pictures]
    assert shown == cache.manifest["scan"][own].tolist()[:24]
    dashboard = opened(root, "cohort", data=[cache.path], cohort="nowhere", column="none", sheet="99")
    assert text_of(dashboard).count("of the address is not here") == 3
    assert not dashboard.error


def test_a_manifest_has_no_pictures_but_its_rejects_and_its_audit(tmp_path: Path, opened) -> None:
    table = scans()
    table.loc[:2, ["status", "reason"]] = ["rejected", HOSTILE]
    table["label.kind"] = [HOSTILE, "b", "b"] * 10
    folder = written(tmp_path / "manifest", table)
    fields = {"format": "dicom", "field": "0010,0010", "name": HOSTILE, "vr": "PN", "became": "nothing", "files": 7}
    pd.DataFrame([fields]).to_csv(folder / "audit.csv", index=False)
    dashboard = opened(tmp_path, "cohort", column="label.kind")
    text = text_of(dashboard)
    assert "27 scans of 14 patients can be used" in text
    assert "3 scans cannot be used" in text
    assert "1 fields of the headers held text. Of 1 nothing was kept" in text
    assert "Pictures are made of a cache" in text
    assert HOSTILE in text
    markdown = [e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.error) for e in kind]
    markdown += [cell for table in dashboard.table for cell in cells_of(table)]
    assert not [each for each in markdown if any(fragment in each for fragment in FRAGMENTS)]
    assert "<img" not in "".join([*html_of(dashboard), *(chart.proto.spec for chart in dashboard.get("plotly_chart"))])


@pytest.mark.parametrize("damage", ["cut off", "no column", "all rejected", "bad audit", "missing voxels"])
def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path: Path, studied_cohort, opened, damage: str) -> None:
    root, cache = studied_cohort
    if damage == "missing voxels":
        copy = Path(shutil.copytree(cache.path, tmp_path / "copy"))
        gone = cache.manifest["scan"].iloc[0]
        (copy / "volumes" / f"{gone}.b2nd").unlink()
        text = text_of(opened(root, "cohort", data=[copy]))
        assert f"The voxels of these scans are missing or damaged: {gone}." in text
        return
    folder = written(root / "m", scans())
    if damage == "cut off":
        (folder / "manifest.parquet").write_bytes(b"PAR1 cut off")
    elif damage == "no column":
        written(folder, scans().drop(columns="spacing_mm"))
    elif damage == "all rejected":
        written(folder, scans(status="rejected", reason="no"))
    else:
        (folder / "audit.csv").write_text("a,b\n1,2\n")
    dashboard = opened(root, "cohort", cohort="m")
    said = {
        "cut off": "is not a table",
        "no column": "has no column spacing_mm",
        "all rejected": "0 scans of 0 patients can be used; 30 scans cannot be used, all for one reason.",
        "bad audit": "audit.csv cannot be read",
    }
    assert said[damage] in text_of(dashboard)
    assert str(tmp_path) not in text_of(dashboard)
