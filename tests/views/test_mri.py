"""What a magnetic resonance scanner does: each view against numpy or MONAI on the same parameters, and by its law."""

import numpy as np
import pytest
import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise, RandBiasField
from scipy import ndimage, stats

from medssl.core.errors import MedsslError
from medssl.views.base import View
from medssl.views.mri import BiasField, Ghosting, Gibbs, Motion, RicianNoise, Spikes, Undersampling, move_rigidly
from medssl.views.random import make_keys
from medssl.views.spatial import rotation
from tests.views.references import agrees


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


NEUTRAL = [
    BiasField(strength=0.0, probability=1.0),
    RicianNoise(0.0, 1.0),
    Ghosting(strength=(0, 0), probability=1.0),
    Spikes(strength=(0, 0), probability=1.0),
    Gibbs((1, 1), probability=1.0),
    Undersampling((1, 1), probability=1.0),
    Motion(0.0, 0.0, probability=1.0),
]


@pytest.mark.parametrize("size", [(12, 15), (8, 7, 6)])
@pytest.mark.parametrize("view", NEUTRAL, ids=lambda v: type(v).__name__)
def test_neutral_parameters_leave_the_image_as_it_is(view: View, size: tuple[int, ...]) -> None:
    x = torch.rand(3, 2, *size)
    assert torch.allclose(view(x, view.draw(keys(3))), x, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3, 4])
def test_bias_field_agrees_with_monai_and_numpy_on_the_same_coefficients(order: int) -> None:
    """References: MONAI's RandBiasField in 3D; numpy's leggrid2d in 2D, where MONAI's terms are not those of a total
    degree. Tolerance 1e-5, relative."""
    view, n = BiasField(order, 0.4, 1.0), range(order + 1)
    params = view.draw(keys(1))
    coefficients = params["coefficients"][0].numpy()
    coefficients[0, 0, 0] = 0
    flat = [coefficients[i, j, k] for i in n for j in n[: order + 1 - i] for k in n[: order + 1 - i - j]]
    volume = torch.rand(1, 2, 12, 15, 18) + 0.5
    field = RandBiasField(degree=order)._generate_random_field((12, 15, 18), order, flat)
    expected = volume[0].numpy() * np.exp(field)
    agrees(BiasField, "MONAI RandBiasField, 3D", view(volume, params)[0], expected, 1e-5, relative=True)
    image = torch.rand(1, 2, 17, 20) + 0.5
    flat_matrix = [[coefficients[i, j, 0] * (i + j <= order) for j in n] for i in n]
    field = np.polynomial.legendre.leggrid2d(np.linspace(-1, 1, 17), np.linspace(-1, 1, 20), flat_matrix)
    expected = image[0].numpy() * np.exp(field)
    agrees(BiasField, "numpy leggrid2d, 2D", view(image, params)[0], expected, 1e-5, relative=True)


def test_bias_field_is_a_factor_of_the_drawn_strength_and_none_at_zero() -> None:
    x = torch.rand(400, 1, 6, 7)
    none = BiasField(strength=0.0, probability=1.0)
    assert torch.equal(none(x, none.draw(keys(400))), x)
    view = BiasField(1, 0.3, 1.0)
    field = (view(x, view.draw(keys(400))) / x).log()
    corner = field[:, 0, -1, -1]  # at order 1 the sum of two coefficients: triangular on -0.6..0.6
    assert abs(corner.std() - 0.6 / 6**0.5) < 0.02
    assert field.mean(dim=(2, 3)).abs().max() < 1e-6  # no change of brightness on the whole
    with pytest.raises(MedsslError, match="order is 0: expected a number from 1"):
        BiasField(order=0)


def test_rician_noise_has_the_moments_of_rice_s_distribution_and_of_rayleigh_s_in_air() -> None:
    """Reference: scipy.stats.rice, mean and variance within 2%; in air the mean is sigma * sqrt(pi / 2)."""
    view = RicianNoise(0.4, 1.0)
    params = view.draw(keys(4))
    for level in (0.0, 0.1, 1.0):
        actual = view(torch.full((4, 1, 200, 200), level), params).flatten(1)
        for row, sigma in zip(actual, params["sigma"].tolist()):
            mean, variance = stats.rice.stats(level / sigma, scale=sigma, moments="mv")
            agrees(RicianNoise, "scipy rice, mean", row.mean(), mean, 0.02, relative=True)
            agrees(RicianNoise, "scipy rice, variance", row.var(), variance, 0.03, relative=True)
            if level == 0:
                agrees(
                    RicianNoise, "Rayleigh's mean in air", row.mean(), sigma * np.sqrt(np.pi / 2), 0.02, relative=True
                )


def by_numpy(image: np.ndarray, axis: int, weights: np.ndarray) -> np.ndarray:
    """An image (n, m) with its centred k-space lines along an axis weighted: a full complex transform, shifted."""
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    spectrum = spectrum * (weights[:, None] if axis == 0 else weights[None])
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).real


@pytest.mark.parametrize("size", [(16, 21), (15, 18)])
def test_ghosts_agree_with_numpy(size: tuple[int, int]) -> None:
    """Reference: numpy's complex transform, the same lines; tolerance 1e-5."""
    view = Ghosting(centre=0.3, probability=1.0)
    x = torch.rand(8, 1, *size)
    params = view.draw(keys(8))
    assert set(params["axis"].tolist()) == {0, 1}
    for b, actual in enumerate(view(x, params)):
        axis = int(params["axis"][b])
        away = abs(np.arange(size[axis]) - size[axis] // 2)
        weak = (away % int(params["ghosts"][b]) == 0) & (away > 0.15 * size[axis])
        expected = by_numpy(x[b, 0].numpy(), axis, 1 - weak * float(params["strength"][b]))
        agrees(Ghosting, "numpy fft2", actual[0], expected, 1e-5)


def test_a_point_has_its_ghosts_at_even_distances_along_the_phase_axis() -> None:
    """Every 4th line weaker by s: copies of -s / 4 a quarter of the field apart, 1 - s / 4 left in place."""
    view = Ghosting((4, 4), (0.4, 0.4), centre=0.0, axes=(1,), probability=1.0)
    x = torch.zeros(1, 1, 8, 16, 4)
    x[..., 3, 5, 2] = 1
    weak = torch.zeros(16)
    params = view.draw(keys(1))
    weak[[5, 9, 13, 1]] = torch.tensor([0.9, -0.1, -0.1, -0.1])
    actual = view(x, params)[0, 0, 3, :, 2]  # the centre line itself is kept: 0.4 of the mean comes back
    agrees(Ghosting, "ghosts of a point, by hand", actual, weak + 0.4 / 16, 1e-6)


def test_spikes_agree_with_monai() -> None:
    """Reference: MONAI's KSpaceSpikeNoise told the same size of the same point; tolerance 1e-4."""
    view = Spikes(1, (0.5, 0.9), 1.0)
    for size in ((16, 18), (8, 10, 12)):
        x = torch.rand(1, 1, *size)
        params = view.draw(keys(1, 3))
        place = (params["place"][0, 0, : len(size)].numpy() * size).round().astype(int)
        spectrum = np.fft.fftn(x[0, 0].numpy())
        point = spectrum[tuple(place)]
        params["phase"] = torch.tensor([[np.angle(point)]], dtype=torch.float32)
        height = abs(point) + float(params["strength"]) * abs(spectrum.flat[0])
        shifted = tuple(int(p) for p in place + np.array(size) // 2)
        expected = KSpaceSpikeNoise(shifted, float(np.log(height)))(x[0])
        agrees(Spikes, "MONAI KSpaceSpikeNoise", view(x, params)[0], expected, 1e-4)


def test_spikes_are_as_many_as_stated() -> None:
    drawn = (Spikes(3, (0.1, 0.2), 1.0).draw(keys(3000))["strength"] > 0).sum(1)
    assert np.abs(np.bincount(drawn.numpy(), minlength=4) / 3000 - np.array([0, 1, 1, 1]) / 3).max() < 0.03


def test_gibbs_agrees_with_monai_and_overshoots_by_nine_per_cent() -> None:
    """Reference: MONAI's GibbsNoise, whose disc is our band for an image that varies along one axis (odd size: its
    centre is half a line off otherwise); tolerance 1e-5. The overshoot of a truncated series is 8.95% of the step."""
    line = torch.rand(31)
    x = line[:, None].expand(31, 31)[None, None].contiguous()
    view = Gibbs((0.5, 0.5), probability=1.0)
    radius = 0.5 * 31 / 2
    expected = GibbsNoise(alpha=1 - 2 * radius / (31 * np.sqrt(2)))(x[0])
    agrees(Gibbs, "MONAI GibbsNoise", view(x, view.draw(keys(1)))[0], expected, 1e-5)
    edge = torch.zeros(5, 1, 512, 8)
    edge[:, :, 128:384] = 1
    ringing = Gibbs((0.05, 0.15), probability=1.0)  # so that a ring is many voxels wide
    peaks = ringing(edge, ringing.draw(keys(5))).amax((1, 2, 3))
    agrees(Gibbs, "overshoot of 8.95%", peaks, 1.0895, 0.01)


def test_k_space_energy_is_that_of_the_lines_that_are_kept() -> None:
    """Parseval: what Gibbs takes away is what lay outside of its band."""
    x = torch.rand(4, 1, 20, 24)
    view = Gibbs(probability=1.0)
    params = view.draw(keys(4))
    spectrum = np.abs(np.fft.fft2(x[:, 0].numpy())) ** 2 / (20 * 24)
    inside = [np.abs(np.fft.fftfreq(n))[None] <= params["bandwidth"].numpy()[:, None] / 2 for n in (20, 24)]
    energy = (spectrum * inside[0][:, :, None] * inside[1][:, None]).sum((1, 2))
    agrees(Gibbs, "Parseval, numpy fft2", view(x, params).square().sum((1, 2, 3)), energy, 1e-5, relative=True)


def test_undersampling_agrees_with_numpy_and_keeps_the_stated_share_of_lines() -> None:
    """Reference: numpy's complex transform, the same lines; tolerance 1e-5. Shares within 3 deviations."""
    view = Undersampling((2.0, 4.0), 0.1, probability=1.0)
    x = torch.rand(6, 1, 40, 36)
    params = view.draw(keys(6))
    lines = view.acquired(x, params)
    for b, actual in enumerate(view(x, params)):
        axis = int(params["axis"][b])
        there = np.fft.fftshift(lines[b, 0].numpy().any(1 - axis))
        assert there[there.size // 2 - 1 : there.size // 2 + 2].all()
        agrees(Undersampling, "numpy fft2", actual[0], by_numpy(x[b, 0].numpy(), axis, there.astype(float)), 1e-5)
    wide = view.draw(keys(300))
    there = view.acquired(torch.zeros(300, 1, 200, 200), wide).float().mean((1, 2, 3))
    agrees(Undersampling, "lines, counted", (there * wide["acceleration"]).mean(), 1.0, 0.03, relative=True)


def test_motion_mixes_the_lines_of_poses_as_numpy_does_and_leaves_the_centre_at_rest() -> None:
    """Reference: scipy's affine_transform for each pose, numpy's transform for the lines; tolerance 2e-4."""
    size, spacing = (24, 20), (1.0, 1.5)
    view = Motion(8.0, 2.5, 2, spacing_mm=spacing, probability=1.0)
    x = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((6, 1, *size)), (0, 0, 2, 2))).float()
    params = view.draw(keys(6))
    for b, actual in enumerate(view(x, params)):
        image, axis = x[b, 0].numpy(), int(params["axis"][b])
        times = (np.arange(size[axis]) + 0.5) / size[axis]
        stretch = (times[:, None] > params["times"][b].numpy()).sum(1)
        rest = stretch[size[axis] // 2]
        poses = [scipy_pose(image, params["radians"][b, k], params["shift_mm"][b, k], spacing) for k in range(2)]
        poses.insert(rest, image)
        expected = sum(by_numpy(pose, axis, (stretch == k).astype(float)) for k, pose in enumerate(poses))
        agrees(Motion, "scipy affine_transform, numpy fft2", actual[0], expected, 2e-4)
        assert abs(float(actual.sum()) / image.sum() - 1) < 1e-4  # the centre of k-space is the unmoved one's


def scipy_pose(
    image: np.ndarray, radians: torch.Tensor, shift_mm: torch.Tensor, spacing: tuple[float, ...]
) -> np.ndarray:
    turn = rotation(radians[None] if image.ndim == 3 else radians[None, :1])[0].numpy()
    matrix = np.diag(1 / np.array(spacing)) @ turn @ np.diag(spacing)
    centre = (np.array(image.shape) - 1) / 2
    offset = centre + shift_mm.numpy()[: image.ndim] / spacing - matrix @ centre
    return ndimage.affine_transform(image, matrix, offset, order=1, mode="nearest")


def test_poses_are_rigid_in_millimetres_in_three_axes() -> None:
    """Reference: scipy.ndimage.affine_transform, linear, edges repeated; tolerance 1e-4."""
    image = ndimage.gaussian_filter(np.random.default_rng(1).random((14, 12, 10)), 1.5).astype(np.float32)
    radians, shift_mm = torch.tensor([[0.1, -0.2, 0.15]]), torch.tensor([[1.0, -2.0, 3.0]])
    actual = move_rigidly(torch.from_numpy(image)[None, None], radians, shift_mm, (1.0, 1.5, 3.0))
    expected = scipy_pose(image, radians[0], shift_mm[0], (1.0, 1.5, 3.0))
    agrees(Motion, "scipy affine_transform, 3D", actual[0, 0], expected, 1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RicianNoise(-1),
        lambda: Ghosting((1, 4)),
        lambda: Ghosting((5, 3)),
        lambda: Ghosting(strength=(0, 2)),
        lambda: Spikes(0),
        lambda: Gibbs((0.5, 1.5)),
        lambda: Undersampling((0.5, 2)),
        lambda: Undersampling((2, 20)),
        lambda: Motion(-1),
        lambda: Motion(moves=0),
        lambda: Motion(spacing_mm=(1, 0)),
        lambda: BiasField(strength=-1),
    ],
)
def test_ranges_that_mean_nothing_are_rejected_with_a_message(wrong) -> None:
    with pytest.raises(MedsslError, match=r" is .*: expected"):
        wrong()


def test_axes_that_are_not_there_are_rejected_with_a_message() -> None:
    for view in (Ghosting(axes=(1, 2), probability=1.0), Gibbs(axes=(2,), probability=1.0)):
        with pytest.raises(MedsslError, match="image of 2 axes"):
            view(torch.rand(1, 1, 8, 8), view.draw(keys(1)))
    turned = Motion(spacing_mm=(1, 1, 1), probability=1.0)
    with pytest.raises(MedsslError, match="one number per axis"):
        turned(torch.rand(1, 1, 8, 8), turned.draw(keys(1)))
