"""The viewer on the page of cases: what it is told to show. `test_browser.py` has what it shows."""

import json
from pathlib import Path

import numpy as np
import pytest

from medssl.preprocessing.cache import Cache
from medssl.reporting import volume_viewer
from medssl.reporting.dashboard import viewer, volumes
from medssl.studies import masks
from tests.apps.reading import text_of, use_scans


@pytest.fixture
def with_scans(studied: Path, cache: Cache) -> Path:
    """The segmentation study as if its cases were scans of the cache; arm scratch saved masks of its first draw."""
    scans = use_scans(studied / "hippo", cache)
    predicted = {scan: np.roll(cache.read_mask(scan), 1, axis=0) for scan in scans}
    masks.write(studied / "hippo" / "cells" / "scratch-1p-0", predicted)
    return studied


def shown(dashboard) -> dict:
    (component,) = dashboard.get("bidi_component")
    return json.loads(component.proto.json)


def offered(address: str) -> volumes.Volume:
    return volumes.OFFERED.get(address.removeprefix("volumes/"))


def test_a_case_is_shown_with_its_reference_and_the_masks_of_two_arms(with_scans: Path, opened, cache: Cache) -> None:
    dashboard = opened(with_scans, "cases", [cache.path], study="hippo")
    data = shown(dashboard)
    scan = dashboard.dataframe[0].value.iloc[0]["scan"]
    whole = np.concatenate([offered(data["image"]).slab(z, 1)[0] for z in range(cache.shape(scan)[2])], axis=2)
    np.testing.assert_array_equal(whole, cache.read(scan)[0])
    reference, a, b = data["views"]
    assert reference["mask"] == data["reference"]
    np.testing.assert_array_equal(offered(data["reference"]).slab(0, 1), cache.read_mask(scan)[..., :1])
    np.testing.assert_array_equal(offered(a["mask"]).slab(0, 1), np.roll(cache.read_mask(scan), 1, axis=0)[..., :1])
    assert a["outlined"]
    assert (b["mask"], b["outlined"]) == (None, False)
    assert "no mask was saved" in b["note"]
    assert [each["value"] for each in data["structures"]] == list(cache.structures)
    assert [(each["low"], each["high"]) for each in data["presets"]] == list(viewer.windows("CT").values())
    assert data["unit"] == " HU"
    fullest = viewer.fullest_slices(cache.read_mask(scan), cache.shape(scan))
    assert data["voxel"] == [fullest[plane] for plane in ("sagittal", "coronal", "axial")]
    assert not [name for name in json.dumps(data).split('"') if str(with_scans) in name or str(cache.path) in name]


@pytest.mark.parametrize(("voxel", "taken"), [("1-2-3", True), ("1-2-999", False)])
def test_a_voxel_of_the_address_is_taken_where_the_scan_has_it(
    with_scans: Path, opened, cache: Cache, voxel: str, taken: bool
) -> None:
    data = shown(opened(with_scans, "cases", [cache.path], study="hippo", voxel=voxel))
    assert (data["voxel"] == [1, 2, 3]) == taken


def test_stills_are_drawn_on_request_and_where_the_browser_has_no_webgl(
    with_scans: Path, opened, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = opened(with_scans, "cases", [cache.path], study="hippo", stills="yes")
    assert not dashboard.get("bidi_component")
    assert [box.label for box in dashboard.selectbox if box.label == "Plane"]
    monkeypatch.setattr(volume_viewer, "show", lambda scene, moved: False)
    dashboard = opened(with_scans, "cases", [cache.path], study="hippo")
    assert "no WebGL 2" in text_of(dashboard)
    assert [box.label for box in dashboard.selectbox if box.label == "Plane"]


def test_the_voxel_in_view_goes_into_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_viewer.st, "session_state", {volume_viewer.KEY: {"voxel": [3, 0, 12]}})
    assert volume_viewer.voxel() == (3, 0, 12)
