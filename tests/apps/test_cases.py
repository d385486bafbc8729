"""The page on cases: the worst first, two arms beside each other, and pictures of the very case."""

import base64
import io
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medssl.core import runs
from medssl.reporting.dashboard import cases, viewer
from tests.apps.reading import html_of, study_of, text_of
from tests.reporting.test_report import BUDGETS


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


def test_a_cache_of_other_data_is_refused(cache, studied: Path, tmp_path: Path) -> None:
    run = runs.read(studied / "hippo")
    no_cache, reason = cases.cache_of(run, [cache.path, tmp_path])
    assert no_cache is None
    assert cache.digest[:12] in reason
    assert "is not a cache (cache.json is missing): run medssl prepare with this folder as --out" in reason
    assert str(tmp_path) not in reason
    assert cases.cache_of(runs.Run("a", "study", {}, cache.digest, 0), [cache.path])[0].path == cache.path
