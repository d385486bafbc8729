"""The basic views against an independent reference on the same parameters."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import Compose
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Noise, Window
from medssl.views.random import derive_keys, make_keys, normal_like, uniform
from medssl.views.recipes import Recipe
from medssl.views.spatial import Resample, rotation
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def test_uniform_numbers_are_uniform_independent_and_a_function_of_the_key() -> None:
    drawn = uniform(keys(40_000), 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T.numpy():
        counts = np.histogram(column, 20, (0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 45  # chi square, 19 degrees of freedom, p = 0.0007
    assert abs(np.corrcoef(drawn.T.numpy()) - np.eye(3)).max() < 0.02
    assert torch.equal(uniform(keys(10), 2), uniform(keys(20), 2)[:10])
    assert not torch.equal(uniform(keys(10, 1), 2), uniform(keys(10), 2))
    assert len(derive_keys(keys(1000), 3).unique()) == 1000


def test_noise_has_the_drawn_deviation_and_depends_on_its_key_alone() -> None:
    x = torch.zeros(4, 1, 40, 40, 40)
    view = Noise(max_sigma=0.3, probability=1.0)
    params = view.draw(keys(4))
    actual = view(x, params).flatten(1).std(1)
    agrees(Noise, "the drawn deviation", actual, params["sigma"], 0.02, relative=True)
    assert torch.equal(normal_like(x, keys(4))[2:3], normal_like(x[2:3], keys(4)[2:3]))


@pytest.mark.parametrize("dims", [2, 3])
def test_resample_without_a_move_is_the_identity(dims: int) -> None:
    x = torch.rand(2, 1, *(12, 14, 10)[:dims])
    view = Resample(x.shape[2:], shift=False)
    assert torch.allclose(view(x, view.draw(keys(2))), x, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_resample_agrees_with_scipy_on_the_same_affine(dims: int) -> None:
    """Reference: scipy.ndimage.affine_transform, linear, zeros outside; tolerance 1e-4 away from the source's edge."""
    source, size = (30, 26, 34)[:dims], (12, 14, 10)[:dims]
    spacing = (1.0, 2.0, 1.5)[:dims]
    x = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random(source), 1.5)).float()[None, None]
    view = Resample(size, (0.6, 0.9), 1.2, (25.0,) * (3 if dims == 3 else 1), (0.5,) * dims, spacing_mm=spacing)
    for seed in range(6):
        params = view.draw(keys(1, seed))
        edges = params["zoom"][0].numpy() * np.where(params["flip"][0].numpy(), -1, 1)  # source voxels per crop voxel
        turn = rotation(params["radians"])[0].numpy()
        matrix = np.diag(1 / np.array(spacing)) @ turn @ np.diag(spacing) @ np.diag(edges)
        room = np.clip(np.array(source) - np.abs(edges) * np.array(size), 0, None) / 2
        centre = (np.array(source) - 1) / 2 + room * params["place"][0].numpy()
        offset = centre - matrix @ ((np.array(size) - 1) / 2)
        expected = ndimage.affine_transform(x[0, 0].numpy(), matrix, offset, size, order=1, mode="constant")
        inside = ndimage.affine_transform(np.ones(source), matrix, offset, size, order=1, mode="constant") > 0.999
        actual = view(x, params)[0, 0].numpy()
        assert inside.mean() > 0.5
        agrees(Resample, "scipy affine_transform", actual[inside], expected[inside], 1e-4)


def test_image_and_mask_stay_aligned_to_half_a_voxel() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij"))
    ball = (
        ((grid - torch.tensor([15.0, 22.0, 19.0])[:, None, None, None]).norm(dim=0) < 7)
        .float()[None, None]
        .repeat(6, 1, 1, 1, 1)
    )
    view = Resample((32, 32, 32), (0.8, 1.2), 1.1, (30, 30, 30), (0.5, 0.5, 0.5), shift=False)
    params = view.draw(keys(6))
    image, mask = view(ball, params), view.mask(ball, params)
    places = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")).flatten(1)
    for a, b in zip(image.flatten(1), mask.flatten(1)):
        distance = ((places * a).sum(1) / a.sum() - (places * b).sum(1) / b.sum()).norm()
        assert distance < 0.25


def test_rotation_is_rigid_in_millimetres_and_turns_the_stated_plane() -> None:
    turns = rotation(torch.tensor([[0.3, -0.7, 1.1], [0.0, 0.0, torch.pi / 2]]))
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-6)
    assert torch.allclose(torch.det(turns), torch.ones(2), atol=1e-6)
    assert torch.allclose(turns[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_window_ends_gamma_and_contrast_are_as_stated() -> None:
    hu = torch.tensor([-160.0, 40.0, 240.0, 900.0]).reshape(1, 1, 2, 2)
    view = Window(40, 400)
    assert view(hu, view.draw(keys(1))).flatten().tolist() == [0.0, 0.5, 1.0, 1.0]
    tails = Window(40, 400, tails=0.2)
    hu = torch.tensor([-1200.0, -1000.0, -160.0, 40.0, 240.0, 1500.0]).reshape(1, 1, 2, 3)
    assert torch.allclose(tails(hu, tails.draw(keys(1))).flatten(), torch.tensor([0, 0, 0.2, 0.5, 0.8, 1.0]))
    x = torch.rand(5, 1, 8, 8)
    gamma = Gamma(2.0, 1.0)
    params = gamma.draw(keys(5))
    agrees(Gamma, "numpy power", gamma(x, params), x.numpy() ** params["gamma"].numpy()[:, None, None, None], 1e-5)
    assert 0.5 <= params["gamma"].min() <= params["gamma"].max() <= 2
    contrast = BrightnessContrast(0.2, 0.3, 1.0)
    params = contrast.draw(keys(5))
    y = contrast(x, params)
    middle, deviation = x.mean((1, 2, 3)) + params["brightness"], x.std((1, 2, 3)) * params["contrast"]
    agrees(BrightnessContrast, "mean and deviation", y.mean((1, 2, 3)), middle, 1e-5)
    agrees(BrightnessContrast, "mean and deviation", y.std((1, 2, 3)), deviation, 1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_agrees_with_scipy(dims: int) -> None:
    """Reference: scipy.ndimage.gaussian_filter, edges repeated; tolerance 1e-4 (scipy ends at 4 of each sigma, ours of the largest)."""
    x = torch.rand(3, 2, *[20] * dims)
    view = Blur(1.5, 1.0)
    params = view.draw(keys(3))
    actual = view(x, params)
    for b in range(3):
        for c in range(2):
            expected = ndimage.gaussian_filter(x[b, c].numpy(), float(params["sigma"][b]), mode="nearest", truncate=4)
            agrees(Blur, "scipy gaussian_filter", actual[b, c], expected, 1e-4)


def test_probability_is_the_share_of_changed_samples() -> None:
    x = torch.rand(2000, 1, 4, 4)
    view = Noise(probability=0.3)
    changed = (view(x, view.draw(keys(2000))) != x).flatten(1).any(1).float().mean()
    assert abs(changed - 0.3) < 0.04


def test_compose_gives_each_view_its_own_numbers() -> None:
    view = Compose([Gamma(), Gamma()])
    params = view.draw(keys(8))
    assert not torch.equal(params["0"]["gamma"], params["1"]["gamma"])


def test_compose_and_recipes_are_their_views_called_one_after_the_other() -> None:
    x = torch.rand(4, 1, 20, 20, 20)
    pair, recipe = Compose([Gamma(), Noise()]), recipes.contrastive(DataSpec(3, modality="MR"), (16, 16, 16))
    by_hand = [x, x]
    for n, view in enumerate((pair, recipe)):
        for i, part in enumerate(view.views):
            by_hand[n] = part(by_hand[n], part.draw(derive_keys(keys(4), i)))
    agrees(Compose, "its views, one by one", pair(x, pair.draw(keys(4))), by_hand[0], 0)
    agrees(Recipe, "its views, one by one", recipe(x, recipe.draw(keys(4))), by_hand[1], 0)


def test_volumes_are_never_mirrored_by_the_recipes() -> None:
    for recipe in (recipes.contrastive, recipes.masked, recipes.relational, recipes.finetune):
        for view in recipe(DataSpec(3, modality="CT"), (16, 16, 16)).modules():
            assert not isinstance(view, Resample) or not any(view.flip)


def test_views_refuse_what_means_nothing() -> None:
    with pytest.raises(MedsslError, match="zoom"):
        Resample((8, 8), zoom=(0, 1))
    with pytest.raises(MedsslError, match="one number per axis"):
        Resample((8, 8), rotate_degrees=(1, 2, 3))
