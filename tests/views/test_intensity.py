"""Views of intensity: the contract for each; each against MONAI, numpy or scipy on the same parameters."""

import numpy as np
import pytest
import torch
from monai.transforms import RandHistogramShift
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from medssl.core.errors import MedsslError
from medssl.views.base import View
from medssl.views.curves import BezierCurve, HistogramShift
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Invert, Noise, Sharpen, Window
from medssl.views.random import make_keys
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


NEUTRAL = [
    Gamma(1.0, 1.0),
    BrightnessContrast(0.0, 0.0, 1.0),
    Noise(0.0, 1.0),
    Sharpen(0.0, 1.0, 1.0),
    HistogramShift(8, 0.0, 1.0),
    Invert(0.0),
]


@pytest.mark.parametrize("view", NEUTRAL, ids=lambda v: type(v).__name__)
def test_neutral_parameters_leave_the_image_as_it_is(view: View) -> None:
    x = 1.4 * torch.rand(3, 2, 12, 10) - 0.2  # outside of 0..1 too
    assert torch.allclose(view(x, view.draw(keys(3))), x, atol=1e-6)


def test_windows_keep_their_ends_and_the_jitter_its_range_in_hu() -> None:
    view = Window(40, 400, jitter_hu=60)
    params = view.draw(keys(5000))
    for name, middle in (("level_hu", 40), ("width_hu", 400)):
        drawn = params[name]
        assert abs(drawn.mean() - middle) < 2
        assert abs(drawn.std() - 120 / 12**0.5) < 1  # uniform
        assert (drawn - middle).abs().max() <= 60
    ends = torch.stack([params["level_hu"] + s * params["width_hu"] / 2 for s in (-1, 0, 1)], 1)
    grey = view(ends[:, None, None], params)[:, 0, 0]
    agrees(Window, "its ends and level in HU", grey, torch.tensor([0.0, 0.5, 1.0]).expand_as(grey), 1e-5)


@pytest.mark.parametrize("level_width", [(-600, 1500), (-500, 1000), (300, 2400), (40, 400)])
def test_window_tails_rise_also_where_the_window_holds_air_or_bone(level_width: tuple[float, float]) -> None:
    """A lung window begins below air: what lies in the window must not be lost to a tail of no width."""
    hu = torch.linspace(-1400, 2000, 3401).reshape(1, 1, -1, 1)
    view = Window(*level_width, tails=0.1)
    y = view(hu, view.draw(keys(1))).flatten()
    level, width = level_width
    inside = y[(hu.flatten() > level - width / 2 + 2) & (hu.flatten() < level + width / 2 - 2)]
    assert torch.isfinite(y).all()
    assert (y.diff() >= 0).all()
    assert torch.allclose(inside.diff(), torch.tensor(0.8 / width), atol=1e-5)
    assert y[0] == 0
    assert y[-1] == 1


def test_sharpening_agrees_with_scipy() -> None:
    """Reference: x + amount * (x - scipy.ndimage.gaussian_filter(x)); tolerance 1e-3 (our kernel ends at 3 sigma)."""
    for dims in (2, 3):
        x = torch.rand(2, 2, *[16] * dims)
        view = Sharpen(2.0, 1.2, 1.0)
        params = view.draw(keys(2))
        for b, actual in enumerate(view(x, params)):
            for c in range(2):
                image = x[b, c].numpy()
                blurred = ndimage.gaussian_filter(image, 1.2, mode="nearest", radius=4)
                expected = image + float(params["amount"][b]) * (image - blurred)
                agrees(Sharpen, "scipy gaussian_filter", actual[c], expected, 1e-3)


def test_histogram_shift_agrees_with_monai_and_numpy() -> None:
    """References: MONAI's RandHistogramShift with our control points, numpy.interp; tolerance 1e-5."""
    x = torch.rand(3, 1, 10, 11)
    x[:, :, 0, :2] = torch.tensor([0.0, 1.0])  # MONAI spans the points from the image's minimum to its maximum
    view = HistogramShift(6, 1.0, 1.0)
    params = view.draw(keys(3))
    places, values, actual = np.linspace(0, 1, 8), view.table(params).numpy(), view(x, params)
    for b in range(3):
        monai = RandHistogramShift(num_control_points=8, prob=1.0)
        monai.randomize = lambda data=None: None
        monai._do_transform, monai.reference_control_points, monai.floating_control_points = True, places, values[b]
        agrees(HistogramShift, "MONAI RandHistogramShift", actual[b], monai(x[b]), 1e-5)
        agrees(HistogramShift, "numpy interp", actual[b], np.interp(x[b].numpy(), places, values[b]), 1e-5)
    rises = np.diff(view.table(view.draw(keys(2000))).numpy(), axis=1)
    assert rises.min() >= 0
    assert abs(rises.mean() - 1 / 7) < 1e-6
    outside = torch.tensor([-0.5, 1.5]).reshape(1, 1, 1, 2)
    assert view(outside, view.draw(keys(1))).flatten().tolist() == [-0.5, 1.5]


@pytest.mark.parametrize("inverting", [0.0, 1.0])
def test_bezier_curves_agree_with_numpy(inverting: float) -> None:
    """Reference: the cubic's 100,000 points, sorted, by numpy.interp, as the paper has it. Tolerance 1e-4 on average,
    1e-3 at the most: a curve may rise like a root at its ends, where a table of 1,024 steps is coarse."""
    x = torch.rand(20, 1, 40, 40)
    view = BezierCurve(inverting, 1.0)
    params = view.draw(keys(20))
    t = np.linspace(0, 1, 100_000)
    for b, actual in enumerate(view(x, params).numpy()):
        (x1, y1), (x2, y2) = params["points"][b].double().numpy()
        across, up = (3 * (1 - t) ** 2 * t * p + 3 * (1 - t) * t**2 * q + t**3 for p, q in ((x1, x2), (y1, y2)))
        up = np.sort(up)[::-1] if inverting else np.sort(up)
        expected = np.interp(x[b].numpy(), np.sort(across), up)
        agrees(BezierCurve, "numpy interp, 100,000 points", actual, expected, 1e-3)
        agrees(BezierCurve, "the same, mean difference", np.abs(actual - expected).mean(), 0.0, 1e-4)
    table = view.table(params)
    assert ((table.diff(dim=1) <= 0) if inverting else (table.diff(dim=1) >= 0)).all()
    assert torch.allclose(table[:, [0, -1]], torch.tensor([inverting, 1 - inverting]).expand(20, 2), atol=1e-6)
    assert torch.equal(view.draw(keys(20))["inverted"], torch.full((20,), bool(inverting)))


def test_bezier_curves_invert_the_stated_share() -> None:
    assert abs(BezierCurve(0.3, 1.0).draw(keys(4000))["inverted"].float().mean() - 0.3) < 0.03


def test_inversion_agrees_with_torchvision() -> None:
    x = torch.rand(2, 1, 6, 7)
    view = Invert(1.0)
    agrees(Invert, "torchvision invert", view(x, view.draw(keys(2))), tv.invert(x), 0)


def test_gamma_and_contrast_agree_with_torchvision() -> None:
    """References: adjust_gamma, adjust_contrast where nothing is clipped; tolerance 1e-5."""
    x = 0.4 + 0.2 * torch.rand(4, 1, 12, 13)
    gamma, contrast = Gamma(2.0, 1.0), BrightnessContrast(0.0, 0.5, 1.0)
    powers, factors = gamma.draw(keys(4))["gamma"].tolist(), contrast.draw(keys(4))["contrast"].tolist()
    curved, apart = gamma(x, gamma.draw(keys(4))), contrast(x, contrast.draw(keys(4)))
    for b in range(4):
        agrees(Gamma, "torchvision adjust_gamma", curved[b], tv.adjust_gamma(x[b], powers[b]), 1e-5)
        expected = tv.adjust_contrast(x[b], factors[b])
        agrees(BrightnessContrast, "torchvision adjust_contrast", apart[b], expected, 1e-5)


def test_drawn_numbers_fill_their_ranges() -> None:
    gamma = Gamma(2.0, 1.0).draw(keys(5000))["gamma"].log()
    assert abs(gamma.std() - 2 * np.log(2) / 12**0.5) < 0.01  # log-uniform
    assert abs(gamma.mean()) < 0.02
    amount = Sharpen(1.5, 1.0, 1.0).draw(keys(5000))["amount"]
    assert abs(amount.mean() - 0.75) < 0.02
    assert 0 <= amount.min() < 0.01
    assert 1.49 < amount.max() <= 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Gamma(0.5),
        lambda: BrightnessContrast(-0.1),
        lambda: BrightnessContrast(0.1, 1.5),
        lambda: Noise(-1),
        lambda: Blur(0.01),
        lambda: Sharpen(-1),
        lambda: Sharpen(1, 0),
        lambda: HistogramShift(0),
        lambda: HistogramShift(4, 1.5),
        lambda: BezierCurve(2),
        lambda: Window(0, 0),
        lambda: Window(0, 100, 100),
        lambda: Window(tails=0.5),
        lambda: Gamma(float("nan")),
    ],
)
def test_ranges_that_mean_nothing_are_rejected_with_a_message(wrong) -> None:
    with pytest.raises(MedsslError, match=r" is .*: expected"):
        wrong()
