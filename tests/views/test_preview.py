"""The picture of a recipe's views: what each panel shows, its orientation, and which requests raise an error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.preprocessing.cache import Cache, prepare
from medssl.views import recipes
from medssl.views.base import leaves
from medssl.views.dose import LowDoseCT
from medssl.views.preview import (
    DIFFERENCE_SCALE,
    as_if_selected,
    middle,
    panel_title,
    plane_spacing,
    preview,
    scan_panels,
    slice_of,
    source_of,
    values_of_hu,
)
from medssl.views.random import make_keys

SIZE = (16, 16, 16)


def test_the_preview_is_labelled_with_every_view_and_carries_pseudonyms_alone(cache: Cache, tmp_path: Path) -> None:
    out = preview("contrastive", cache.path, tmp_path / "views.svg", crop=SIZE, scans=2, seed=3)
    text = out.read_text()
    views = recipes.contrastive(cache.data_spec, SIZE)
    for part, _ in leaves(views, views.draw(make_keys(0, (torch.arange(1),)))):
        assert type(part).__name__ in text
    for label in (
        "original",
        "all, draw 1",
        "all, draw 2",
        "p 0.8",
        "contrastive, CT, crop 16 x 16 x 16, seed 3",
        "240 HU",
    ):
        assert label in text
    shown = [scan for scan in cache.manifest["scan"] if f"scan {scan[:8]}" in text]
    assert len(shown) == 2
    assert not any(patient in text for patient in cache.manifest["patient"])
    assert str(cache.path) not in text
    again = preview("contrastive", cache.path, tmp_path / "again.svg", crop=SIZE, scans=2, seed=4).read_text()
    assert again != text


def test_each_panel_is_what_the_view_makes_of_the_scan(cache: Cache) -> None:
    scan = str(cache.manifest["scan"].iloc[0])
    for recipe in recipes.RECIPES:
        views = recipes.recipe_views(recipe, cache.data_spec, SIZE)
        panels = scan_panels(cache, scan, views, SIZE, 0)
        original = panels[0].image
        assert panels[0].title == "original"
        assert all(torch.isfinite(p.image).all() for p in panels)
        assert 0 <= original.min() < original.max() <= 1  # windowed, whatever the recipe
        together = [p for p in panels if p.title.startswith("all")]
        assert len(together) == (len(views) if len(views) > 1 else 2)
        assert all(p.before is not None and p.before.shape == p.image.shape for p in together)
        if recipe == "plain":
            assert all(torch.equal(p.image, p.before) for p in together)
            assert torch.allclose(together[0].image, original, atol=1e-5)


def test_slices_stand_upright_with_the_right_on_the_left_and_true_proportions() -> None:
    volume = torch.zeros(1, 8, 10, 12)
    volume[0, 7, 9, 6] = 1  # right, anterior, in the middle slice from head to foot
    shown = slice_of(volume, (1.0, 1.0, 1.0))
    assert shown.shape == (1, 10, 8)
    assert shown[0, 0, 0] == 1
    thick = torch.zeros(1, 4, 10, 12)
    thick[0, 2, 9, 11] = 1  # anterior, superior
    assert slice_of(thick, (5.0, 1.0, 0.5))[0, 0, 0] == 1
    assert plane_spacing((5.0, 1.0, 0.5)) == (0.5, 1.0)
    assert plane_spacing((1.0, 2.0, 1.0)) == (1.0, 1.0)
    assert plane_spacing((1.0, 1.2, 1.0)) == (1.2, 1.0)
    image = torch.arange(6.0).reshape(1, 2, 3)
    assert np.array_equal(slice_of(image, (1.0, 1.0)), image.numpy())


def test_the_bar_of_ct_says_which_hu_a_grey_is() -> None:
    assert values_of_hu((-1000, -160, 40, 240, 1500)) == pytest.approx([0, 0.15, 0.5, 0.85, 1])


def test_low_dose_is_shown_as_it_acts_in_hu_before_the_window(cache: Cache) -> None:
    scan = str(cache.manifest["scan"].iloc[0])
    (view,) = recipes.recipe_views("contrastive", cache.data_spec, SIZE)
    keys = make_keys(0, (torch.tensor([int.from_bytes(scan.encode()[:7])]),))
    dose, params = next(pair for pair in leaves(view, view.draw(keys)) if isinstance(pair[0], LowDoseCT))
    plain, hu = recipes.plain(cache.data_spec), middle(source_of(cache, scan, SIZE), SIZE)
    expected = plain(dose(hu, as_if_selected(params)), plain.draw(keys))[0]
    panel = next(p for p in scan_panels(cache, scan, (view,), SIZE, 0) if p.title.startswith("LowDoseCT"))
    assert torch.equal(panel.image, expected)
    assert 0 < (panel.image - panel.before).abs().mean() < 0.1


def test_small_and_large_differences_show_on_one_scale() -> None:
    """A noise of 0.01 takes a visible share of the colours, twenty times as much is not yet at their end, and no change is white."""
    place = DIFFERENCE_SCALE(np.array([-0.4, -0.2, -0.01, 0.0, 0.01, 0.2, 0.4]))
    assert np.allclose(place, 1 - place[::-1])
    assert place[3] == 0.5
    assert place[4] > 0.55
    assert place[5] < 0.95


def test_turns_are_labelled_in_degrees() -> None:
    view = recipes.Resample((8, 8), rotate_degrees=(20.0,))
    params = view.draw(make_keys(0, (torch.arange(1),)))
    assert f"degrees {float(params['radians'].rad2deg()):.3g}" in panel_title(view, params)


def test_the_command_writes_a_picture_of_colour_photographs_too(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 255, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    index([folder], tmp_path / "m")
    prepare(tmp_path / "m", tmp_path / "c", size=(40, 48))
    out = tmp_path / "views.png"
    words = ["--data", str(tmp_path / "c"), "--out", str(out), "--scans", "1", "--crop", "32", "32"]
    assert main(["views", "--recipe", "masked", *words]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"
    with pytest.warns(UserWarning, match="a recipe for US was given scans of RGB"):
        preview("masked", tmp_path / "c", out, "us", (32, 32), 1)


def test_wrong_asks_are_answered_in_words(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "views.png"
    for given, said in (
        (("contrasive", out), "no recipe 'contrasive'; did you mean contrastive"),
        (("masked", tmp_path / "views.gif"), "--out ends in '.gif': expected one of .png"),
        (("masked", out, "mr"), "a recipe for MR was given scans of CT: expected one scale"),
        (("masked", out, "ct", SIZE, 0), "scans is 0: expected 1 or more"),
    ):
        with pytest.raises(MedsslError, match=said):
            preview(given[0], cache.path, *given[1:])
    assert main(["views", "--recipe", "maskd", "--data", str(cache.path)]) == 2
    assert "did you mean masked?" in capsys.readouterr().err
    assert not out.exists()
