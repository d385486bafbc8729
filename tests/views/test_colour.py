"""Colour: HSV against matplotlib and torchvision, stains against numpy."""

import numpy as np
import pytest
import torch
from matplotlib import colors
from torchvision.transforms.v2 import functional as tv

from medssl.core.errors import MedsslError
from medssl.views.colour import RUIFROK, ColourJitter, StainJitter, estimate_stains
from medssl.views.random import make_keys
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def test_neutral_parameters_leave_the_image_as_it_is() -> None:
    x = torch.rand(3, 3, 12, 10)
    for view in (ColourJitter(0, 0, 0, 1.0), StainJitter(0, 0, "ruifrok", 1.0), StainJitter(0, 0, "macenko", 1.0)):
        assert torch.allclose(view(x, view.draw(keys(3))), x, atol=1e-6)


def test_colour_jitter_agrees_with_matplotlib() -> None:
    """Reference: matplotlib's rgb_to_hsv and hsv_to_rgb with the same shift and factors; tolerance 1e-5."""
    x = torch.rand(6, 3, 20, 20)
    x[:, :, 0, 0], x[:, :, 0, 1], x[:, 1:, 0, 2] = 0, 0.5, 0  # black, grey, pure red
    view = ColourJitter(0.3, 0.6, 0.5, 1.0)
    params = view.draw(keys(6))
    for b, actual in enumerate(view(x, params)):
        hue, saturation, value = np.moveaxis(colors.rgb_to_hsv(x[b].permute(1, 2, 0).double().numpy()), -1, 0)
        hue = (hue + float(params["hue"][b])) % 1
        saturation, value = (
            (part * float(params[name][b])).clip(0, 1) for part, name in ((saturation, "saturation"), (value, "value"))
        )
        expected = colors.hsv_to_rgb(np.stack([hue, saturation, value], -1))
        agrees(ColourJitter, "matplotlib rgb_to_hsv, hsv_to_rgb", actual.permute(1, 2, 0), expected, 1e-5)


def test_hue_agrees_with_torchvision() -> None:
    """Reference: torchvision's adjust_hue; tolerance 1e-5."""
    x = torch.rand(3, 3, 16, 16)
    view = ColourJitter(0.5, 0.0, 0.0, 1.0)
    params = view.draw(keys(3))
    for b, actual in enumerate(view(x, params)):
        agrees(ColourJitter, "torchvision adjust_hue", actual, tv.adjust_hue(x[b], float(params["hue"][b])), 1e-5)


def stained(stains: np.ndarray, count: int = 2, size: int = 96) -> tuple[torch.Tensor, np.ndarray]:
    """Slides of known stains (3, 2): amounts with pure nuclei and pure stroma among them, and background."""
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.05, 1.2, (count, 2, size * size)) * (rng.random((count, 2, size * size)) < 0.6)
    return torch.from_numpy(np.exp(-stains @ amounts)).float().reshape(count, 3, size, size), amounts


def unit(stains: np.ndarray) -> np.ndarray:
    return stains / np.linalg.norm(stains, axis=0)


def test_stain_jitter_scales_and_shifts_the_amounts_of_the_stains() -> None:
    """By Beer and Lambert: exp(-stains (scale * amount + shift)), where that is not above white; tolerance 1e-4."""
    stains = unit(np.array(RUIFROK).T)
    x, amounts = stained(stains)
    view = StainJitter(0.5, 0.1, "ruifrok", 1.0)
    params = view.draw(keys(2))
    scale, shift = (params[name].double().numpy()[..., None] for name in ("scale", "shift"))
    expected = np.exp(-stains @ (scale * amounts + shift)).clip(max=1)
    agrees(StainJitter, "numpy: Beer and Lambert", view(x, params).flatten(2), expected, 1e-4)
    other = torch.rand(2, 3, 10, 10).clamp(min=0.02)  # what no stain explains is kept, as numpy's least squares has it
    density = -np.log(other.flatten(2).double().numpy())
    actual = np.stack([np.linalg.lstsq(stains, d, rcond=None)[0] for d in density])
    expected = np.exp(-(density + stains @ ((scale - 1) * actual + shift))).clip(max=1)
    agrees(StainJitter, "numpy lstsq", view(other, params).flatten(2), expected, 1e-4)


def test_macenko_finds_the_stains_and_agrees_with_numpy() -> None:
    """Known stains within 3 degrees. Reference: numpy's cov, eigh and percentile; tolerance 1e-3."""
    truth = unit(np.array([[0.55, 0.75, 0.36], [0.15, 0.93, 0.30]]).T)
    x, _ = stained(truth)
    density = -x.log().flatten(2)
    tissue = density.amax(1) > 0.15
    actual = estimate_stains(density, tissue).double().numpy()
    for b in range(2):
        assert (np.degrees(np.arccos((actual[b] * truth).sum(0).clip(max=1))) < 3).all()
        points = density[b][:, tissue[b]].double().numpy()
        axes = np.linalg.eigh(np.cov(points))[1][:, 1:]
        axes = axes * np.sign(axes.sum(0))
        angles = np.arctan2(*(axes.T @ points))
        ends = np.percentile(angles, [1, 99])
        reference = axes @ np.stack([np.sin(ends), np.cos(ends)])
        reference = reference[:, np.argsort(-reference[0])]
        agrees(StainJitter, "numpy cov, eigh, percentile (Macenko)", actual[b], reference, 1e-3)


def test_an_empty_slide_has_no_stains_to_estimate() -> None:
    view = StainJitter(0.2, 0.0, "macenko", 1.0)
    blank = torch.full((2, 3, 16, 16), 0.98)
    fixed = StainJitter(0.2, 0.0, "ruifrok", 1.0)
    assert torch.equal(view(blank, view.draw(keys(2))), fixed(blank, fixed.draw(keys(2))))


def test_what_means_nothing_is_rejected_with_a_message() -> None:
    for wrong in (lambda: ColourJitter(0.6), lambda: ColourJitter(saturation=2), lambda: StainJitter(-1)):
        with pytest.raises(MedsslError, match=r" is .*: expected"):
            wrong()
    with pytest.raises(MedsslError, match="'ruifrok' or 'macenko'"):
        StainJitter(stains="reinhard")
    for view in (ColourJitter(probability=1.0), StainJitter(probability=1.0)):
        with pytest.raises(MedsslError, match="1 channels: expected 3"):
            view(torch.rand(2, 1, 8, 8), view.draw(keys(2)))
