"""`medssl select` on a cache: training patients without a label only, as a list that can be worked through."""

from __future__ import annotations

import pandas as pd
import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.splits import SplitSpec
from medssl.preprocessing.cache import Cache
from medssl.studies.select import select


@pytest.fixture
def half_labelled(cache, tmp_path):
    """The cohort's cache with masks and labels of every second patient alone."""
    copy = tmp_path / "half"
    copy.mkdir()
    for entry in cache.path.iterdir():
        if entry.name != "manifest.parquet":
            (copy / entry.name).symlink_to(entry)
    manifest = pd.read_parquet(cache.path / "manifest.parquet")
    second = manifest["patient"].isin(sorted(manifest["patient"].unique())[::2])
    manifest.loc[second, "has_mask"] = False
    for column in manifest.columns[manifest.columns.str.startswith("label.")]:
        manifest[column] = manifest[column].where(~second)
    manifest.to_parquet(copy / "manifest.parquet")
    return Cache(copy)


@pytest.mark.parametrize("selector", ["MaxHerding", "ForegroundHerding", "Random"])
def test_the_list_holds_training_patients_without_a_mask(half_labelled, pretrained, tmp_path, selector):
    out, data = tmp_path / "to_label.csv", half_labelled.path
    table = select(data, "3p", out, None if selector == "Random" else pretrained, selector)
    pd.testing.assert_frame_equal(pd.read_csv(out, dtype={"patient": str, "scan": str}), table, check_dtype=False)
    assert list(table["rank"].unique()) == [1, 2, 3]
    roles = SplitSpec().roles(half_labelled.manifest)
    assert (roles[table["patient"]] == "train").all()
    masks = half_labelled.manifest.set_index("scan")["has_mask"]
    assert not masks[table["scan"]].any()


def test_labels_of_a_column_count_as_labelled(half_labelled, tmp_path):
    label = next(c for c in half_labelled.manifest if c.startswith("label.")).removeprefix("label.")
    table = select(half_labelled.path, "2p", tmp_path / "list.csv", selector="Random", label=label)
    values = half_labelled.manifest.set_index("scan")[f"label.{label}"]
    assert values[table["scan"]].isna().all()


def test_messages(half_labelled, cache, pretrained, tmp_path):
    out = tmp_path / "list.csv"
    with pytest.raises(MedsslError, match="expected --run"):
        select(half_labelled.path, "2p", out)
    with pytest.raises(MedsslError, match="did you mean MaxHerding"):
        select(half_labelled.path, "2p", out, pretrained, "maxherding")
    with pytest.raises(MedsslError, match="0 of .* training patients have no label"):
        select(cache.path, "1p", out, pretrained)
    assert not out.exists()
