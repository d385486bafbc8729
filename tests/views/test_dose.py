"""Low dose: Beer and Lambert's law, Poisson's variance, and a simulated tomograph."""

import numpy as np
import pytest
import torch
from scipy import stats

from medssl.core.errors import MedsslError
from medssl.views.dose import LowDoseCT, LowDoseXray, poisson_like
from medssl.views.random import make_keys, normal_like
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def test_so_many_photons_that_nothing_changes() -> None:
    x = torch.rand(2, 1, 12, 10)
    for view in (LowDoseXray((1e14, 1e14), electronic=0, probability=1.0), LowDoseCT((1e18, 1e18), probability=1.0)):
        assert torch.allclose(view(x, view.draw(keys(2))), x, atol=1e-4)


@pytest.mark.parametrize("mean", [5.0, 20.0, 300.0])
def test_counts_follow_poisson_s_distribution(mean: float) -> None:
    """Reference: scipy.stats.poisson: quantiles within 0.7 of a count, mean within 4 errors, variance within 2%."""
    means = torch.full((1, 1, 300, 300), mean)
    counts = poisson_like(means, keys(1)).flatten().double().numpy()
    normal = normal_like(means, keys(1)).flatten().double().numpy()
    middle = abs(normal) < 3
    exact = stats.poisson.ppf(stats.norm.cdf(normal[middle]), mean)
    agrees(LowDoseXray, "scipy poisson, quantiles of counts", counts[middle], exact, 0.7)
    assert abs(counts.mean() - mean) < 4 * np.sqrt(mean / counts.size)
    assert abs(counts.var() / mean - 1) < 0.02
    assert abs(stats.skew(counts) * np.sqrt(mean) - 1) < 0.25


@pytest.mark.parametrize("bright", [True, False])
def test_noise_of_a_radiograph_follows_beer_and_lambert_and_the_dose(bright: bool) -> None:
    """Variance (1 / N + electronic^2 / N^2) / attenuation^2 at N = photons * exp(-attenuation * density), within 3%."""
    variances = {}
    for photons in (2e4, 4e4):
        view = LowDoseXray((photons, photons), 4.0, 30.0, bright, 1.0)
        for density in (0.25, 0.75):
            x = torch.full((1, 1, 300, 300), density if bright else 1 - density)
            y = view(x, view.draw(keys(1)))
            counts = photons * np.exp(-4 * density)
            expected = (1 / counts + (30 / counts) ** 2) / 16
            variances[photons, density] = float(y.double().var())
            agrees(
                LowDoseXray,
                "variance by Beer, Lambert, Poisson",
                variances[photons, density],
                expected,
                0.03,
                relative=True,
            )
            assert abs(float(y.mean() - x.mean())) < 0.003
    assert (
        2 < variances[2e4, 0.25] / variances[4e4, 0.25] < 2.2
    )  # half the dose: twice the quantum noise, 4 times the detector's
    assert variances[2e4, 0.75] > 7 * variances[2e4, 0.25]  # more noise where more is absorbed


def simulated_sigma_hu(photons: float, electronic: float, radius_mm: float, views: int) -> float:
    """The noise at the middle of a disc of water by Poisson counts and filtered back projection, parallel rays 1 mm
    apart, in numpy alone: the ramp's result is read between the rays from a transform eight times as fine."""
    rng, water, fine = np.random.default_rng(0), LowDoseCT.water_per_mm, 8
    offset = np.arange(-128, 128)
    path = 2 * np.sqrt(np.clip(radius_mm**2 - offset**2, 0, None)) * water
    counts = rng.poisson(photons * np.exp(-path), (views, 256)) + electronic * rng.normal(size=(views, 256))
    spectrum = np.fft.rfft(-np.log(counts.clip(1) / photons)) * np.fft.rfftfreq(256)
    filtered = np.fft.irfft(np.pad(spectrum, ((0, 0), (0, 128 * fine - 128))), 256 * fine) * fine
    y, x = np.mgrid[-16:16, -16:16]
    image = np.zeros((32, 32))
    for row, angle in zip(filtered, np.pi * np.arange(views) / views):
        place = ((x * np.cos(angle) + y * np.sin(angle) + 128) * fine).round().astype(int)
        image += row[place] * np.pi / views
    return float(image.std() / water * 1000)


@pytest.mark.parametrize(("photons", "electronic"), [(2e4, 0.0), (1e5, 0.0), (2e4, 150.0)])
def test_noise_of_ct_is_that_of_a_simulated_tomograph(photons: float, electronic: float) -> None:
    """Reference: counts and filtered back projection of a disc of water 100 mm wide, at its middle; within 10%."""
    view = LowDoseCT((photons, photons), 100.0, electronic, probability=1.0)
    view.projections = 300
    water = torch.zeros(1, 1, 64, 64)
    sigma = float(view.sigma_hu(water, torch.tensor([photons])).mean())
    simulated = simulated_sigma_hu(photons, electronic, 50.0, 300)
    agrees(LowDoseCT, "numpy: counts, filtered back projection", sigma, simulated, 0.1, relative=True)
    noise = view(water, view.draw(keys(1)))[0, 0].numpy()
    agrees(LowDoseCT, "the deviation it states", noise.std(), sigma, 0.05, relative=True)
    power = np.abs(np.fft.fft2(noise)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    low, high = (power[(radius > a) & (radius < b)].mean() for a, b in ((0.05, 0.15), (0.35, 0.45)))
    assert 3 < high / low < 5.5  # in proportion to the frequency: 4


def test_ct_has_more_noise_along_rays_through_bone() -> None:
    body = torch.zeros(1, 1, 40, 40)
    body[..., 10:14, :] = 1000.0
    sigma = LowDoseCT().sigma_hu(body, torch.tensor([1e5]))[0, 0]
    assert sigma[11, 20] > 1.2 * sigma[30, 20]


def test_ranges_that_mean_nothing_are_rejected_with_a_message() -> None:
    for wrong in (
        lambda: LowDoseXray((0.5, 10)),
        lambda: LowDoseXray((10, 5)),
        lambda: LowDoseXray(attenuation=0),
        lambda: LowDoseCT(body_mm=0),
        lambda: LowDoseCT(electronic=-1),
    ):
        with pytest.raises(MedsslError, match=r" is .*: expected"):
            wrong()
    view = LowDoseCT(axes=(1, 2), probability=1.0)
    with pytest.raises(MedsslError, match="image of 2 axes"):
        view(torch.zeros(1, 1, 8, 8), view.draw(keys(1)))
