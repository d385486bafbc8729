"""Labels that readers changed go back through `index`: nothing else changes, and no patient gets another pseudonym."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pandas as pd
import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.label_file import known_classes, label_file
from medssl.datasets.manifest import frame_name, read_table

LABELS = ["lesion", "kind", "scanner"]


def indexed(cohort: Path, manifest: Path, labels: Path, out: Path, names: list[str]) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return index(
            [cohort],
            out,
            labels=labels,
            key="scan",
            patient="patient",
            label=names,
            mask="../../masks/{name}.nii.gz",
            key_file=manifest / "pseudonym.key",
        )


def test_corrected_labels_go_back_through_index(cohort: Path, manifest: Path, cache, tmp_path: Path) -> None:
    before = read_table(cache.path / "manifest.parquet")
    scan, other = before["scan"][0], before["scan"][5]
    (tmp_path / "labels.csv").write_bytes(label_file(before, "kind", {scan: "corrected", other: "new, class"}))
    after = indexed(cohort, manifest, tmp_path / "labels.csv", tmp_path / "out", LABELS).set_index("scan")
    expected = before.set_index("scan").loc[after.index]
    assert after["patient"].tolist() == expected["patient"].tolist()
    assert after["label.lesion"].tolist() == expected["label.lesion"].tolist()
    assert after["label.scanner"].tolist() == expected["label.scanner"].tolist()
    assert after.loc[[scan, other], "label.kind"].tolist() == ["corrected", "new, class"]
    others = after.index.difference([scan, other])
    assert after.loc[others, "label.kind"].equals(expected.loc[others, "label.kind"])


def test_a_new_label_is_a_column_with_gaps(cohort: Path, manifest: Path, cache, tmp_path: Path) -> None:
    scans = cache.manifest["scan"][:3].tolist()
    given = dict(zip(scans, ["cyst", "tumour", "cyst"], strict=True))
    (tmp_path / "labels.csv").write_bytes(label_file(cache.manifest, "finding", given))
    after = indexed(cohort, manifest, tmp_path / "labels.csv", tmp_path / "out", ["finding"]).set_index("scan")
    assert after["label.finding"].dropna().to_dict() == given
    assert set(after["status"]) == {"ok"}


def test_a_patient_who_is_no_pseudonym_still_gets_one(cohort: Path, manifest: Path, cache, tmp_path: Path) -> None:
    """Only beside the pseudonym of its scan is a text of that form a pseudonym; anything else is a name."""
    table = pd.read_csv(io.BytesIO(label_file(cache.manifest, "kind", {})))
    table["patient"] = [f"Doe {n}" for n in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    after = indexed(cohort, manifest, tmp_path / "labels.csv", tmp_path / "out", ["kind"])
    assert not after["patient"].str.contains("Doe").any()
    by_path = pd.read_csv(cohort / "labels.csv", dtype=str)
    by_path["patient"] = [f"{n:012x}" for n in range(len(by_path))]
    by_path.to_csv(tmp_path / "paths.csv", index=False)
    named = index([cohort], tmp_path / "named", labels=tmp_path / "paths.csv", patient="patient", label=["kind"])
    assert not set(named["patient"]) & set(by_path["patient"])


def test_frames_of_one_scan_are_one_row_and_numbers_stay_numbers() -> None:
    scan = "85f3706036c9"
    manifest = pd.DataFrame(
        {"scan": [frame_name(scan, 0), frame_name(scan, 1), "a" * 12], "patient": ["b" * 12, "b" * 12, "c" * 12]}
    ).assign(**{"label.grade": [1.0, 1.0, None]})
    content = label_file(manifest, "grade", {frame_name(scan, 1): "2"}).decode()
    assert content.splitlines() == ["scan,patient,grade", f"{scan},{'b' * 12},2", f"{'a' * 12},{'c' * 12},"]
    assert known_classes(manifest, "grade") == ["1"]
    assert known_classes(manifest, "nothing") == []


@pytest.mark.parametrize("label", ["scan", "patient", " "])
def test_a_label_that_cannot_be_a_column_is_refused(cache, label: str) -> None:
    with pytest.raises(MedsslError, match="expected a name for its column"):
        label_file(cache.manifest, label, {})


def test_dates_and_long_texts_are_no_classes(cache) -> None:
    scan = cache.manifest["scan"][0]
    for value, problem in (("2024-01-31", "dates"), ("x" * 65, "64 characters")):
        with pytest.raises(MedsslError, match=problem):
            label_file(cache.manifest, "finding", {scan: value})
