"""The page Embedding: the features of a file as points, what a lasso holds, neighbours, leaks, what can be read off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Outline
from streamlit.testing.v1 import AppTest

from medssl.core.errors import MedsslError
from medssl.datasets.splits import SplitSpec
from medssl.preprocessing.cache import Cache
from medssl.reporting import embedding_map
from medssl.reporting.dashboard import embedding, session
from medssl.reporting.dashboard.embedding import Features
from tests.apps.hostile import FRAGMENTS, HOSTILE
from tests.apps.readable import readable_study
from tests.apps.reading import html_of, text_of

WIDTH = 6


def write_features(folder: Path, cache: Cache, **changes: object) -> Path:
    """A file as `medssl embed` writes it; the first two scans, of two patients, have the same features."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, table = np.random.default_rng(0), cache.manifest[["scan", "patient", "status"]].copy()
    vectors = generator.normal(size=(len(table), WIDTH)).astype(np.float32)
    vectors[1] = vectors[0]
    table = pd.concat([table, pd.DataFrame(vectors, columns=[f"f{i}" for i in range(WIDTH)])], axis=1)
    rejected = pd.DataFrame([{"scan": "0" * 12, "status": "rejected", "reason": "no"}])
    pd.concat([table, rejected], ignore_index=True).assign(**changes).to_parquet(folder / "features.parquet")
    return folder / "features.parquet"


@pytest.fixture
def root(tmp_path: Path, cache: Cache) -> Path:
    write_features(tmp_path / "runs" / "simclr-features", cache)
    readable_study(tmp_path / "runs", cache)
    return tmp_path / "runs"


NAME = "simclr-features/features.parquet"


def chart(dashboard: AppTest) -> dict:
    (drawn,) = dashboard.get("plotly_chart")
    return json.loads(drawn.proto.spec)


def test_the_page_draws_every_scan_and_says_what_it_draws(root: Path, cache: Cache, opened) -> None:
    dashboard = opened(root, "embedding", [cache.path], colour="scanner")
    text = text_of(dashboard)
    patients = cache.manifest["patient"].nunique()
    assert f"{len(cache.manifest)} scans of {patients} patients: two directions hold" in text
    assert "1 rejected scan without features" in text
    traces = chart(dashboard)["data"]
    assert sum(len(trace["hovertext"]) for trace in traces) == len(cache.manifest)
    assert [trace["name"] for trace in traces] == sorted(cache.manifest["label.scanner"].unique())
    assert len({(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in traces}) == len(traces)
    (box,) = [box for box in dashboard.selectbox if box.label == "Coloured by"]
    assert {"split", "error of a cell", "kind", "scanner", "lesion", "nothing"} <= set(box.options)
    assert next(button.label for button in dashboard.get("download_button")) == "Points, CSV"


def test_colours_are_the_split_and_the_error_of_a_cell(root: Path, cache: Cache) -> None:
    features = embedding.read(root, NAME)
    roles = embedding.roles_of(cache.manifest, {"split_seed": 3})
    errors = pd.Series([0.25], index=[features.table["scan"][4]])
    groups = embedding.groups_of(cache.manifest, features, roles, errors)
    expected = features.table["patient"].map(SplitSpec(3).roles(cache.manifest)).tolist()
    assert groups["split"].tolist() == expected
    assert groups["error of a cell"].dropna().to_dict() == {4: 0.25}


def test_a_scan_of_the_address_is_shown_with_its_nearest_neighbours(root: Path, cache: Cache, opened) -> None:
    scan, twin = cache.manifest["scan"].iloc[:2]
    dashboard = opened(root, "embedding", [cache.path], case=scan, study="segmentation")
    (pictures,) = [body for body in html_of(dashboard) if "<img" in body]
    assert pictures.count("<img") == 6
    assert pictures.index(f"scan {scan}") < pictures.index("1.000 · patient")
    features = embedding.read(root, NAME)
    near = embedding.neighbours(features, scan, 3)
    assert near["scan"][0] == twin
    centred = features.vectors - features.vectors.mean(0)
    cosines = centred @ centred[0] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[0])
    assert near["cosine"].tolist() == pytest.approx(sorted(cosines, reverse=True)[1:4], abs=1e-5)
    assert "of the address has no features" in text_of(
        opened(root, "embedding", [cache.path], case="../x", study="segmentation")
    )


def test_near_duplicates_across_the_split_are_flagged(root: Path, cache: Cache, opened) -> None:
    dashboard = opened(root, "embedding", [cache.path])
    first, second = cache.manifest["patient"].iloc[:2]
    roles = SplitSpec().roles(cache.manifest)
    across = int(roles[first] != roles[second])
    assert (
        f"1 pairs of scans of different patients have a cosine of 0.99 or more: of which {across} lie in two"
        in text_of(dashboard)
    )
    (pairs,) = [frame.value for frame in dashboard.dataframe if "cosine" in frame.value]
    assert pairs[["patient", "other_patient"]].iloc[0].tolist() == [first, second]
    assert pairs[["split", "other_split"]].iloc[0].tolist() == [roles[first], roles[second]]


def test_patients_in_two_roles_and_copies_of_voxels_are_counted() -> None:
    manifest = pd.DataFrame(
        {
            "scan": list("abcd"),
            "patient": ["p", "p", "q", "r"],
            "digest": ["1", "2", "2", None],
            "label.fold": ["train", "test", "test", "val"],
            "label.kind": ["x", "y", "x", "y"],
        }
    )
    assert embedding.split_twice(manifest) == {"fold": 1}
    roles = pd.Series({"p": "train", "q": "test", "r": "train"})
    assert embedding.same_voxels(manifest, roles) == (1, 1)
    assert embedding.same_voxels(manifest, pd.Series("train", index=["p", "q", "r"])) == (1, 0)


def test_a_shortcut_is_named_with_its_interval(root: Path, cache: Cache, opened, monkeypatch) -> None:
    rows = cache.manifest["label.scanner"].astype("category").cat.codes.to_numpy()
    table = pd.read_parquet(root / NAME)
    for code in range(3):
        table[f"f{code}"] = table[f"f{code + 3}"] = np.append(rows == code, np.nan).astype(float)
    table.to_parquet(root / NAME)
    dashboard = opened(root, "embedding", [cache.path])
    features = embedding.read(root, NAME)
    found = session.read_off(features.vectors, cache.manifest["label.scanner"], features.table["patient"])
    told = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}], guessing has {found.chance:.2f}"
    assert found.value > 0.9
    assert f"scanner can be read off the features: balanced accuracy {told}" in text_of(dashboard)


def test_a_lasso_holds_what_lies_in_it_and_a_box_too() -> None:
    places = np.random.default_rng(0).uniform(size=(5_000, 2))
    corners = [(0.1, 0.2), (0.8, 0.1), (0.4, 0.5), (0.9, 0.9), (0.2, 0.7)]
    x, y = zip(*corners, strict=True)
    held = embedding.enclosed(places, {"lasso": [{"x": x, "y": y}], "box": []})
    assert held.tolist() == np.flatnonzero(Outline(corners).contains_points(places)).tolist()
    box = embedding.enclosed(places, {"box": [{"x": [0.6, 0.5], "y": [0.1, 0.3]}]})
    expected = (places[:, 0] >= 0.5) & (places[:, 0] <= 0.6) & (places[:, 1] >= 0.1) & (places[:, 1] <= 0.3)
    assert box.tolist() == np.flatnonzero(expected).tolist()


def test_what_was_picked_is_listed_with_pictures(root: Path, cache: Cache, opened) -> None:
    scans = cache.manifest["scan"].tolist()
    dashboard = opened(root, "embedding", [cache.path], case=scans[3])
    features = embedding.read(root, NAME)
    dashboard.session_state["picked scans"] = (features.id, np.array([2, 3, 5]))
    dashboard.run()
    assert "3 scans picked" in text_of(dashboard)
    assert dashboard.dataframe[0].value["scan"].tolist() == [scans[2], scans[3], scans[5]]
    assert sum(body.count("<img") for body in html_of(dashboard)) == 6 + 3


def test_many_points_are_one_picture_and_few_marks() -> None:
    places = np.random.default_rng(0).normal(size=(20_000, 2))
    groups = pd.Series(np.where(places[:, 0] > 0, "a", "b"))
    texts = [f"scan {n}" for n in range(len(places))]
    drawn = embedding_map.figure(places, groups, texts, ("", ""))
    marks = np.concatenate([trace.customdata for trace in drawn.data])
    assert len(marks) == len(set(marks)) == embedding_map.MOST_MARKS
    assert len(drawn.layout.images) == 1
    assert len(drawn.to_json()) < 1_500_000
    (few,) = [embedding_map.figure(places[:50], groups[:50], texts, ("", ""))]
    assert not few.layout.images


def test_groups_with_many_values_keep_the_most_frequent(cache: Cache) -> None:
    scans = [f"{n:012x}" for n in range(60)]
    table = pd.DataFrame({"scan": scans, "patient": scans})
    manifest = table.assign(site=[f"s{n % 20}" if n < 40 else "s1" for n in range(60)], **{"label.age": range(60)})
    groups = embedding.groups_of(manifest, Features("x", "x", table, np.zeros((60, 2)), 0), None)
    assert groups["site"].nunique() == 12
    assert (groups["site"] == "others").sum() == 18
    assert groups["age"].nunique() == 4


def test_hostile_names_are_shown_as_they_are_written(root: Path, cache: Cache, opened, monkeypatch) -> None:
    renamed = cache.manifest.assign(**{"label.scanner": [HOSTILE, "b"] * (len(cache.manifest) // 2)})
    monkeypatch.setattr(Cache, "manifest", renamed, raising=False)
    made = Cache(cache.path)
    made.manifest = renamed.assign(**{f"label.{HOSTILE}": ["a", "b"] * (len(renamed) // 2)})
    monkeypatch.setattr(session, "caches", lambda: [made])
    dashboard = opened(root, "embedding", [cache.path], colour="scanner", read_off=HOSTILE)
    assert HOSTILE in text_of(dashboard)
    markdown = [
        e.value for kind in (dashboard.markdown, dashboard.caption, dashboard.info, dashboard.warning) for e in kind
    ]
    assert not [value for value in markdown if any(fragment in value for fragment in FRAGMENTS)]
    assert "<img" not in json.dumps(chart(dashboard))


def test_without_features_or_a_cache_the_page_says_what_to_do(root: Path, cache: Cache, opened) -> None:
    dashboard = opened(root, "embedding", case=cache.manifest["scan"].iloc[0])
    assert "start the dashboard with --data and the cache that medssl embed was given" in text_of(dashboard)
    assert len(chart(dashboard)["data"]) == 1
    (root / NAME).unlink()
    assert "There are no features in this folder yet" in text_of(opened(root, "embedding", [cache.path]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pd.DataFrame({"scan": ["0" * 12]}), "cannot be read"),
        (pd.DataFrame({"scan": ["0" * 12], "patient": ["1" * 12]}), "has no features"),
        (pd.DataFrame({"scan": ["../x"], "patient": ["1" * 12], "f0": [1.0]}), "a scan that is no pseudonym"),
        (pd.DataFrame({"scan": ["0" * 12], "patient": ["1" * 12], "f0": ["x"]}), "cannot be read"),
        (pd.DataFrame({"scan": ["0" * 12], "patient": ["1" * 12], "f0": [1.0]}), "three or more"),
        (pd.DataFrame({"scan": ["0" * 11 + c for c in "abcd"], "patient": "1" * 12, "f0": 1.0}), "the same features"),
        (None, "cannot be read"),
    ],
)
def test_broken_features_are_refused_in_words(root: Path, cache: Cache, opened, content, message: str) -> None:
    if content is None:
        (root / NAME).write_bytes(b"PAR1 half")
    else:
        content.to_parquet(root / NAME)
    assert message in text_of(opened(root, "embedding", [cache.path]))


def test_features_are_found_below_the_folder_alone(root: Path, cache: Cache, tmp_path: Path, opened) -> None:
    away = write_features(tmp_path / "away", cache)
    (root / "linked").mkdir()
    (root / "linked" / "features.parquet").symlink_to(away)
    assert embedding.files(root) == [NAME]
    for name in ("../away/features.parquet", "linked/features.parquet", "segmentation/run.json"):
        with pytest.raises(MedsslError):
            embedding.read(root, name)
    assert "is not here" in text_of(opened(root, "embedding", [cache.path], features="../away/features.parquet"))
