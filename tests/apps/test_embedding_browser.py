"""The page Embedding in a real browser: a lasso picks what lies in it, also where only a picture is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.preprocessing.cache import Cache
from tests.apps.readable import readable_study
from tests.apps.test_browser import PATIENCE_MS, Dashboard, browser, pytestmark, serve
from tests.apps.test_embedding import write_features

__all__ = ["browser", "pytestmark"]  # the fixture, and when these tests can run
MANY = 4_000
CORNERS = ((0.25, 0.2), (0.7, 0.25), (0.75, 0.8), (0.2, 0.75))  # of the lasso, as shares of the picture


@pytest.fixture(scope="module")
def served(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("embedding")
    write_features(root / "few", cache)
    ids = [f"{n:012x}" for n in range(MANY)]
    vectors = np.random.default_rng(0).normal(size=(MANY, 4)).astype(np.float32)
    table = pd.DataFrame({"scan": ids, "patient": ids, "status": "ok"})
    (root / "many").mkdir()
    features = pd.DataFrame(vectors, columns=[f"f{i}" for i in range(4)])
    pd.concat([table, features], axis=1).to_parquet(root / "many" / "features.parquet")
    readable_study(root, cache)
    yield from serve(root, cache.path, tmp_path_factory.mktemp("watch"))


@pytest.mark.parametrize("name", ["few", "many"])
def test_a_lasso_picks_the_scans_in_it(browser, served, name: str, cache: Cache) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    opened = Dashboard(page, served[0])
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", opened.note)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.open(f"embedding?study=segmentation&features={name}%2Ffeatures.parquet", ".js-plotly-plot .point")
    x, y, width, height = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box().values()
    places = [(x + across * width, y + down * height) for across, down in CORNERS]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in [*places[1:], places[0]]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.get_by_text("picked", exact=False).first.wait_for()
    opened.settle()
    picked = int(re.search(r"(\d+) scans? picked", page.inner_text(".stMain"))[1])
    assert "case=" in page.url
    if name == "few":
        assert 0 < picked < len(cache.manifest)
        assert page.locator(".case img").count() > 5
    else:
        assert MANY / 3 < picked < MANY  # more of the middle than a third, and most of these are no marks
    assert opened.outside == []
    assert opened.errors == []
    page.close()
