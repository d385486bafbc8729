"""Recipes: every one for every kind of scan, by the contract; what a modality may and may not get; wrong asks in words."""

import inspect
import math
import warnings

import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.modality import FAMILIES
from medssl.views import recipes
from medssl.views.base import Compose
from medssl.views.check import check_view
from medssl.views.dose import LowDoseCT, LowDoseXray
from medssl.views.intensity import BrightnessContrast, Noise, Window
from medssl.views.mri import BiasField, RicianNoise
from medssl.views.random import make_keys
from medssl.views.spatial import Resample
from medssl.views.ultrasound import Speckle


def spec(modality: str, dims: int = 2) -> DataSpec:
    return DataSpec(dims, 3 if modality == "RGB" else 1, modality)


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_keeps_the_contract_for_every_family_of_scans(name: str, family: str) -> None:
    dims = (2,) if family in ("XRAY", "RGB") else (2, 3)
    for d in dims:
        views = recipes.recipe_views(name, spec(family, d), (12,) * d)
        for view in {views[0], views[-1]}:
            check_view(view, d, size=(18,) * d, channels=3 if family == "RGB" else 1)


def test_a_recipe_that_is_not_there_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MedsslError, match="no recipe 'contrastve'; did you mean contrastive"):
        recipes.recipe_views("contrastve", spec("MR"), (16, 16))


def test_only_ct_is_windowed_and_only_pictures_without_a_side_are_mirrored() -> None:
    mirrored = {}
    for name in recipes.RECIPES:
        for family in FAMILIES:
            for dims in (2, 3):
                parts = [
                    m for view in recipes.recipe_views(name, spec(family, dims), (16,) * dims) for m in view.modules()
                ]
                windowed = any(isinstance(m, Window) for m in parts)
                assert windowed == (family == "CT" and name not in ("restoration", "strengthen"))
                mirrored[name, family, dims] = any(any(m.flip) for m in parts if isinstance(m, Resample))
    assert {(k, d) for (n, k, d), on in mirrored.items() if on} == {("RGB", 2), ("US", 2)}
    assert not any(on for (n, _, _), on in mirrored.items() if n in ("relational", "plain"))


def test_a_recipe_for_another_modality_is_refused_where_scales_differ_and_warned_of_elsewhere() -> None:
    for recipe, data in (("CT", "MR"), ("DX", "CT")):
        with pytest.raises(MedsslError, match="expected one scale, HU in CT"):
            recipes.check_modality(Compose([recipes.contrastive(spec(recipe), (16, 16))]), spec(data))
    with pytest.warns(UserWarning, match="for MR was given scans of US: .* whose modality is 'US'"):
        recipes.check_modality(recipes.contrastive(spec("MR"), (16, 16)), spec("US"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipes.check_modality(recipes.contrastive(spec("CR"), (16, 16)), spec("DX"))
        recipes.check_modality(recipes.restoration(), spec("MR"))


def test_a_method_with_a_recipe_for_another_modality_is_refused_before_it_runs() -> None:
    from medssl.encoders import ResNet
    from medssl.methods import SimCLR

    class Fixed(SimCLR):
        def views(self, data_spec, size):
            return (recipes.contrastive(spec("CT"), size),) * 2

    method = Fixed(ResNet(2, width=4))
    method.set_up_views(spec("CT"), (32, 32))
    with pytest.raises(MedsslError, match="a recipe for CT was given scans of MR"):
        method.set_up_views(spec("MR"), (32, 32))


@pytest.mark.parametrize("dims", [2, 3])
def test_multi_crop_gives_two_wide_crops_and_small_ones_of_the_papers_shares(dims: int) -> None:
    size = (224, 224) if dims == 2 else (96, 96, 96)
    views = recipes.multi_crop(spec("MR", dims), size, local=4)
    assert len(views) == 6
    for view, (low, high) in zip(views, [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 4):
        crop = next(m for m in view.modules() if isinstance(m, Resample))
        edges = crop.draw(keys(4000))["zoom"] * torch.tensor(crop.size) / torch.tensor(size)
        share, apart = edges.prod(1), crop.aspect ** (dims / 2)  # axes are jittered apart on top of the paper's share
        assert low / apart <= share.min() < low
        assert high < share.max() <= high * apart * 1.001
        assert share.log().mean() == pytest.approx((math.log(low) + math.log(high)) / 2, abs=0.03)
    assert next(m for m in views[-1].modules() if isinstance(m, Resample)).size == (
        (96, 96) if dims == 2 else (40,) * 3
    )


def test_every_recipe_says_what_it_is_for_and_the_file_where_its_ranges_come_from() -> None:
    assert all(inspect.getdoc(recipe) for recipe in recipes.RECIPES.values())
    assert recipes.__doc__.count("arXiv") >= 6


@pytest.mark.parametrize("family", ["CT", "MR", "US"])
def test_where_there_is_air_no_brightness_lifts_it(family: str) -> None:
    x = torch.rand(64, 1, 16, 16)
    x[:, :, :8] = 0
    for name in ("contrastive", "masked", "finetune"):
        parts = recipes.recipe_views(name, spec(family), (16, 16))[0].modules()
        light = Compose([m for m in parts if isinstance(m, BrightnessContrast | BiasField)])
        changed = light(x, light.draw(keys(64)))
        assert (changed[:, :, :8] == 0).all()
        assert not torch.equal(changed, x)


def test_a_photograph_in_grey_has_a_recipe_of_one_channel() -> None:
    view = recipes.contrastive(DataSpec(2, 1, "OP"), (16, 16))
    assert view(torch.rand(2, 1, 20, 20), view.draw(keys(2))).shape == (2, 1, 16, 16)


def test_each_scanner_has_its_own_noise_and_ct_gets_it_in_hu() -> None:
    expected = {
        "CT": LowDoseCT,
        "MR": RicianNoise,
        "XRAY": LowDoseXray,
        "US": Speckle,
        "RGB": Noise,
        "OT": Noise,
    }
    assert expected.keys() == FAMILIES.keys()
    noises = tuple(expected.values())
    for family, noise in expected.items():
        parts = list(recipes.contrastive(spec(family), (16, 16)).modules())
        assert [type(m) for m in parts if isinstance(m, noises)] == [noise]
        order = [type(m) for m in parts]
        assert family != "CT" or order.index(Resample) < order.index(LowDoseCT) < order.index(Window)
        assert family != "XRAY" or order.index(Resample) < order.index(LowDoseXray) < order.index(BrightnessContrast)


def test_low_dose_in_ct_leaves_organs_to_be_told_apart() -> None:
    """Its noise in 300 mm of water lies at the 10 to 50 HU of clinical scans."""
    dose = next(m for m in recipes.contrastive(spec("CT"), (16, 16)).modules() if isinstance(m, LowDoseCT))
    worst, best = dose.sigma_hu(torch.zeros(2, 1, 16, 16), torch.tensor(dose.photons)).mean((1, 2, 3)).tolist()
    assert 10 < best < 20 < worst < 50
