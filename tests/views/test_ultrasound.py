"""Ultrasound: speckle by the moments of Rice's distribution, shadows by their formula."""

import numpy as np
import pytest
import torch
from scipy import stats

from medssl.core.errors import MedsslError
from medssl.views.kspace import smooth_noise
from medssl.views.random import make_keys
from medssl.views.ultrasound import Shadow, Speckle
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def test_neutral_parameters_leave_the_image_as_it_is() -> None:
    x = torch.rand(2, 2, 9, 8)
    for view in (Speckle(0.0, probability=1.0), Shadow((0, 0), probability=1.0)):
        assert torch.allclose(view(x, view.draw(keys(2))), x, atol=1e-6)


@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_speckle_multiplies_by_rice_s_distribution_of_mean_square_one(grain: float) -> None:
    """Reference: scipy.stats.rice with one steady echo; mean within 1%, deviation within 4%, at every brightness."""
    view = Speckle(0.5, grain, 1.0)
    params = view.draw(keys(3))
    for level in (0.2, 0.8):
        factor = view(torch.full((3, 1, 400, 400), level), params).flatten(1) / level
        for row, sigma in zip(factor, params["sigma"].tolist()):
            mean, variance = stats.rice.stats(1 / sigma, scale=sigma, moments="mv")
            size = np.sqrt(1 + 2 * sigma**2)
            agrees(Speckle, "scipy rice, mean", row.mean() * size, mean, 0.01, relative=True)
            agrees(Speckle, "scipy rice, deviation", row.std() * size, np.sqrt(variance), 0.04, relative=True)
            assert abs(float(row.square().mean()) - 1) < 0.02


def test_grain_is_a_gaussian_of_the_stated_width() -> None:
    """Neighbours d voxels apart are alike by exp(-d^2 / (4 grain^2)); tolerance 0.02. Deviation 1 up to the edge."""
    noise = smooth_noise(torch.zeros(40, 1, 64, 64), keys(40), 2.0)[:, 0]
    for d in (1, 2, 4):
        assert abs((noise[:, d:] * noise[:, :-d]).mean() - np.exp(-(d**2) / 16)) < 0.02
    assert abs(noise[:, 0].std() - 1) < 0.05
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize(("size", "depth_axis"), [((40, 30), 0), ((30, 40), 1), ((24, 20, 16), 0)])
def test_shadows_agree_with_their_formula_in_numpy(size: tuple[int, ...], depth_axis: int) -> None:
    view = Shadow(depth_axis=depth_axis, probability=1.0)
    x = torch.rand(4, 2, *size)
    params = {name: v.double().numpy() for name, v in view.draw(keys(4)).items()}
    actual = view(x, view.draw(keys(4)))
    for b in range(4):
        grid = np.meshgrid(*[np.arange(n) / (n - 1) for n in size], indexing="ij")
        across = [a for a in range(len(size)) if a != depth_axis]
        distance = sum((grid[a] - params["centre"][b, a]) ** 2 for a in across)
        below = np.clip((grid[depth_axis] - params["start"][b]) / 0.02, 0, 1)
        shade = params["strength"][b] * np.exp(-distance / (2 * params["width"][b] ** 2)) * below
        agrees(Shadow, "its formula in numpy", actual[b], x[b].numpy() * (1 - shade), 1e-5)
        above = grid[depth_axis] <= params["start"][b]
        assert np.array_equal(actual[b].numpy()[:, above], x[b].numpy()[:, above])  # nothing is lost before the stone


def test_ranges_that_mean_nothing_are_rejected_with_a_message() -> None:
    for wrong in (
        lambda: Speckle(-1),
        lambda: Speckle(grain=-1),
        lambda: Shadow((0, 2)),
        lambda: Shadow(width=(0, 0.1)),
    ):
        with pytest.raises(MedsslError, match=r" is .*: expected"):
            wrong()
    view = Shadow(depth_axis=2, probability=1.0)
    with pytest.raises(MedsslError, match="image of 2 axes"):
        view(torch.zeros(1, 1, 8, 8), view.draw(keys(1)))
