"""Moves in space against scipy, MONAI and the affine on the same parameters; what is drawn; what is refused."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medssl.core.errors import MedsslError
from medssl.views.orientation import RightAngle, orientations, turn_batch
from medssl.views.random import make_keys
from medssl.views.separable import cubic_bspline, interpolate_grid, multiply_axis
from medssl.views.spatial import NO_FOLD, Resample, flip_chances, limit_turns
from medssl.views.thick_slices import ThickSlices, slice_weights
from tests.views.references import agrees

ALL = {"zoom": (0.6, 0.9), "aspect": 1.2, "flip": (0.5, 0.5, 0.5), "shear_degrees": 8.0, "elastic_mm": 3.0}


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def everything(dims: int, size: tuple[int, ...], **more: object) -> Resample:
    """A view that does all at once on voxels of unequal spacing."""
    turn = (25.0,) * (3 if dims == 3 else 1)
    given = {
        **ALL,
        "rotate_degrees": turn,
        "flip": (0.5,) * dims,
        "spacing_mm": (1.0, 2.0, 1.5)[:dims],
        "elastic_every_mm": 8.0,
    }
    return Resample(size, **given | more)  # type: ignore[arg-type]


def smooth(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    image = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return torch.from_numpy((image - image.min()) / np.ptp(image)).float()[None, None]


def coordinates(view: Resample, params: dict, source: tuple[int, ...]) -> np.ndarray:
    """Where each voxel of the crop lies in the source, written again from the definition: scipy's own B-spline."""
    dims = len(view.size)
    places = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in view.size], indexing="ij"))
    if view.elastic_mm:
        field = view.displacement(params)[0].numpy()
        knots = [k.numpy() for k in view.control_points()]
        where = [(p - k[0]) / (k[1] - k[0]) for p, k in zip(places, knots)]
        moves = [ndimage.map_coordinates(part, where, order=3, prefilter=False, mode="constant") for part in field]
        places = places + np.stack(moves)
    matrix = view.matrix(params, source)[0].double().numpy()
    return np.einsum("ij,j...->i...", matrix[:dims, :dims], places) + matrix[:dims, dims].reshape(-1, *[1] * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_whole_move_agrees_with_scipy(dims: int) -> None:
    """Reference: scipy.ndimage.map_coordinates on coordinates from its own B-spline; tolerance 1e-4, 1 in 1000 mask
    voxels (ties)."""
    source, size = (30, 26, 34)[:dims], (12, 14, 10)[:dims]
    x, mask = smooth(source), (smooth(source, 1) * 4).floor()
    view = everything(dims, size)
    for seed in range(5):
        params = view.draw(keys(1, seed))
        where = coordinates(view, params, source)
        inside = np.all([(w >= 0) & (w <= n - 1) for w, n in zip(where, source)], axis=0)
        assert inside.mean() > 0.4
        expected = ndimage.map_coordinates(x[0, 0].numpy(), where, order=1)
        image, moved = view.with_mask(x, mask, params)
        agrees(Resample, "scipy map_coordinates, all moves", image[0, 0].numpy()[inside], expected[inside], 1e-4)
        labels = ndimage.map_coordinates(mask[0, 0].numpy(), where, order=0)
        assert (moved[0, 0].numpy() != labels)[inside].mean() < 1e-3


def test_the_affine_part_agrees_with_monai() -> None:
    """Reference: monai.transforms.Affine's grid_sample on the same matrix; tolerance 1e-4."""
    from monai.networks.layers import AffineTransform

    source, size = (20, 24, 18), (12, 14, 10)
    x = smooth(source)
    view = everything(3, size, elastic_mm=0.0)
    params = view.draw(keys(4))
    theirs = AffineTransform(
        spatial_size=size, normalized=False, align_corners=True, reverse_indexing=True, zero_centered=False
    )
    expected = theirs(x.repeat(4, 1, 1, 1, 1), view.matrix(params, source))
    inside = theirs(torch.ones(4, 1, *source), view.matrix(params, source)) > 0.999
    actual = view(x.repeat(4, 1, 1, 1, 1), params)
    assert inside.float().mean() > 0.4
    agrees(Resample, "MONAI AffineTransform", actual[inside], expected[inside], 1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_crop_has_the_millimetres_the_affine_says(dims: int) -> None:
    """A source with a turned affine: the crop's own affine, affine @ matrix, has edges of zoom * region_mm."""
    spacing, region = (0.8, 0.8, 5.0)[:dims], (60.0, 40.0, 100.0)[:dims]
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = np.linalg.qr(np.random.default_rng(0).normal(size=(dims, dims)))[0] @ np.diag(spacing)
    turn = (30.0,) * (3 if dims == 3 else 1)
    view = Resample((32, 16, 20)[:dims], (0.5, 1.5), 1.3, turn, spacing_mm=spacing, region_mm=region)
    params = view.draw(keys(20))
    steps = torch.from_numpy(affine[:dims, :dims]).float() @ view.matrix(params, (100, 90, 40)[:dims])[:, :dims, :dims]
    edges = steps.norm(dim=1) * torch.tensor(view.size)
    agrees(Resample, "mm by the affine", edges, params["zoom"] * torch.tensor(region), 1e-4, relative=True)
    inner = steps.mT @ steps
    assert (inner - torch.diag_embed(torch.diagonal(inner, dim1=1, dim2=2))).abs().max() < 1e-3  # still right angles


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_mask_of_a_ball_stay_together(dims: int) -> None:
    """Centres of mass of the image and the mask of a ball are less than half a voxel apart after every move at once."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * dims, indexing="ij"))
    ball = ((grid - torch.tensor([18.0, 22.0, 19.0])[:dims].reshape(-1, *[1] * dims)).norm(dim=0) < 6).float()
    x = ball[None, None].repeat(8, *[1] * (dims + 1))
    view = everything(dims, (32,) * dims, shift=False, spacing_mm=None, zoom=(0.8, 1.2), elastic_every_mm=9.0)
    image, mask = view.with_mask(x, x, view.draw(keys(8)))
    places = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * dims, indexing="ij")).flatten(1)
    for a, b in zip(image.flatten(1), mask.flatten(1)):
        assert b.sum() > 30
        distance = ((places * a).sum(1) / a.sum() - (places * b).sum(1) / b.sum()).norm()
        agrees(Resample, "image from mask, voxels", distance, 0.0, 0.49)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_elastic_move_at_its_bound_never_folds(dims: int) -> None:
    """A descent on the control points searches the field, within the bound, whose Jacobian is smallest somewhere: it stays
    positive; with twice the bound the same search finds a fold, so the test can tell."""
    count, n = 6, 17
    step = (n - 1) / (count - 3)
    knots = step * (torch.arange(count) - 1)  # one cell beyond at either end
    weights = [cubic_bspline((torch.arange(n)[:, None] - knots) / step)] * dims
    still = torch.stack(torch.meshgrid(*[torch.arange(float(n))] * dims, indexing="ij"))

    def smallest_jacobian(field: torch.Tensor) -> torch.Tensor:
        slopes = [torch.stack(torch.gradient(part), -1) for part in interpolate_grid(field, weights)[0] + still]
        return torch.linalg.det(torch.stack(slopes, -2)).min()

    def worst(maximum: float) -> float:
        field = torch.rand(1, dims, *[count] * dims, generator=torch.Generator().manual_seed(1)) * 2 - 1
        jacobians = []
        for _ in range(25):
            field.requires_grad_()
            lowest = smallest_jacobian(field * maximum)
            jacobians.append(float(lowest.detach()))
            field = (field.detach() - 0.3 * torch.autograd.grad(lowest, field)[0].sign()).clamp(-1, 1)
        return min(jacobians)

    assert 0 < worst(NO_FOLD[dims] * step) < 0.3
    assert worst(2 * NO_FOLD[dims] * step) < 0
    with pytest.raises(MedsslError, match="may fold"):
        Resample((41,) * dims, elastic_mm=NO_FOLD[dims] * 8 * 1.01, elastic_every_mm=8)
    Resample((41,) * dims, elastic_mm=NO_FOLD[dims] * 8, elastic_every_mm=8)


def test_what_a_crop_draws_has_the_stated_distribution() -> None:
    """Kolmogorov-Smirnov against the uniform law of each parameter, 4000 keys, p > 1e-4; independent columns."""
    view = Resample((16, 16, 16), (0.5, 2.0), 1.0, (10, 20, 30), (0.2, 0.5, 0.0), shear_degrees=10, elastic_mm=1.5)
    params = view.draw(keys(4000, 5))
    columns = [
        params["zoom"][:, 0].log() / np.log(2),
        *params["place"].T,
        *(params["radians"] * 180 / np.pi).T,
        params["elastic_mm"] * 2 / 1.5 - 1,
        *(params["shear"] / np.tan(np.radians(10))).T,
    ]
    spans = [1, 1, 1, 1, 10, 20, 30, 1, *[1] * 6]
    for column, span in zip(columns, spans):
        assert stats.kstest((column / span).numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4
    together = np.corrcoef(np.stack([c.numpy() for c in columns]))
    assert np.abs(together - np.eye(len(columns))).max() < 0.07
    assert torch.allclose(params["flip"].float().mean(0), torch.tensor([0.2, 0.5, 0.0]), atol=0.03)
    aspect = Resample((16, 16), aspect=1.5).draw(keys(4000))["zoom"]
    assert (aspect[:, 0] / aspect[:, 1]).max() <= 1.5 * 1.0001
    assert (aspect[:, 0] / aspect[:, 1]).max() > 1.4


def test_left_and_right_are_mirrored_only_when_asked_for_by_name() -> None:
    assert flip_chances(0.5, 3) == (0.0, 0.5, 0.5)
    assert flip_chances(0.5, 2) == (0.5, 0.0)
    assert Resample((8, 8, 8), flip=1.0).flip == (0.0, 1.0, 1.0)
    assert Resample((8, 8), flip=(0, 1.0)).flip == (0, 1.0)
    x = torch.rand(1, 1, 8, 8, 8)
    view = Resample((8, 8, 8), flip=1.0, shift=False)
    assert torch.allclose(view(x, view.draw(keys(1))), x.flip(3, 4), atol=1e-5)


def test_thick_slices_are_turned_in_their_plane_alone_and_cut_to_one_slice() -> None:
    assert limit_turns(15, (1, 1, 1)) == (15, 15, 15)
    assert limit_turns(15, (0.7, 0.7, 5.0)) == (0, 0, 15)
    assert limit_turns(15, (5.0, 0.7, 0.7)) == (15, 0, 0)
    assert limit_turns(15, (0.7, 0.7)) == (15,)
    x = torch.arange(9.0).expand(1, 1, 20, 20, 9).contiguous()  # the value is the slice
    in_plane = Resample((10, 10, 1), shift=False, rotate_degrees=limit_turns(30, (1, 1, 5)), spacing_mm=(1, 1, 5))
    assert torch.allclose(in_plane(x, in_plane.draw(keys(1, 3))), torch.tensor(4.0), atol=1e-5)
    across = Resample((16, 1, 40), spacing_mm=(1, 1, 5), region_mm=(16, 1, 40))  # 8 slices of 5 mm as 40 voxels of 1 mm
    column = across(x, across.draw(keys(1)))[0, 0, 8, 0]
    assert torch.allclose(column.diff()[4:-4], torch.full((31,), 0.2), atol=1e-4)


def test_what_is_outside_is_air_or_an_error_as_chosen() -> None:
    x = torch.full((2, 1, 8, 8), 40.0)
    hu = Resample((16, 16), outside=-1000.0, shift=False)
    made = hu(x, hu.draw(keys(2)))
    assert made[0, 0, 0, 0] == -1000
    assert made[0, 0, 8, 8] == 40
    assert set(hu.mask(torch.ones(2, 1, 8, 8), hu.draw(keys(2))).unique().tolist()) == {0.0, 1.0}
    strict = Resample((16, 16), (0.5, 1.5), outside="error")
    with pytest.raises(MedsslError, match=r"\(24, 24\) voxels, the source is \(8, 8\)"):
        strict(x, strict.draw(keys(2)))
    large = torch.zeros(2, 1, 24, 24)
    assert strict(large, strict.draw(keys(2))).shape == (2, 1, 16, 16)


def test_a_plain_crop_takes_whole_voxels() -> None:
    x = torch.rand(6, 1, 20, 21, 22)
    view = Resample((8, 9, 10), flip=(0.5, 0.5, 0.5))
    params = view.draw(keys(6))
    offset = view.matrix(params, x.shape[2:])[:, :3, 3]
    assert torch.equal(offset, offset.round())
    made = view(x, params)
    for sample, crop in zip(x, made):
        apart = (sample.flatten()[None] - crop.flatten()[::37, None]).abs().min(1).values
        assert apart.max() < 2e-6  # each value is one of the source's


def test_settings_that_mean_nothing_are_rejected_with_a_message() -> None:
    for settings, words in [
        ({"zoom": (0, 1)}, "zoom"),
        ({"zoom": (2, 1)}, "zoom"),
        ({"aspect": 0.5}, "aspect"),
        ({"flip": (0.5,)}, "flip"),
        ({"flip": (0, 2)}, "chances"),
        ({"rotate_degrees": (-5,)}, "turns"),
        ({"shear_degrees": 60}, "shear"),
        ({"spacing_mm": (0, 1)}, "above 0"),
        ({"region_mm": (5, -1)}, "above 0"),
        ({"elastic_mm": -1}, "fold"),
        ({"elastic_every_mm": 0.0}, "above 0"),
        ({"outside": "air"}, "outside"),
    ]:
        with pytest.raises(MedsslError, match=words):
            Resample((8, 8), **settings)  # type: ignore[arg-type]
    with pytest.raises(MedsslError, match="2 or 3 numbers"):
        Resample((8,))
    view = Resample((8, 8))
    with pytest.raises(MedsslError, match=r"expected \(B, C, H, W\)"):
        view(torch.zeros(1, 1, 9, 9, 9), view.draw(keys(1)))
    with pytest.raises(MedsslError, match="2 samples and parameters of 3"):
        view(torch.zeros(2, 1, 9, 9), view.draw(keys(3)))


def test_the_24_orientations_are_all_turns_all_different_and_exact() -> None:
    x = torch.arange(27.0).reshape(1, 1, 3, 3, 3).expand(24, -1, -1, -1, -1)
    made = turn_batch(x, torch.arange(24))
    for one, (order, back) in zip(made, orientations(3)):  # reference: torch's permute and flip
        expected = x[0].permute(0, *[1 + a for a in order]).flip([1 + a for a in back])
        agrees(RightAngle, "torch permute, flip", one, expected, 0)
    seen = {tuple(one.flatten().tolist()) for one in made}
    assert len(seen) == 24
    assert tuple(x[0].flip(1).flatten().tolist()) not in seen  # a mirror image is no turn
    plane = torch.arange(9).reshape(1, 1, 3, 3)
    assert {tuple(turn_batch(plane, torch.tensor([k])).flatten().tolist()) for k in range(4)} == {
        tuple(torch.rot90(plane, k, (2, 3)).flatten().tolist()) for k in range(4)
    }
    counts = np.bincount(RightAngle(3).draw(keys(4800))["turn"], minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-4
    with pytest.raises(MedsslError, match="unequal edges"):
        turn_batch(torch.zeros(1, 1, 4, 5), torch.tensor([1]))


def test_thick_slices_average_over_their_thickness() -> None:
    """Reference: numpy means of the signal at 100 points a voxel, numpy.interp between the slabs' middles."""
    x = torch.rand(1, 2, 12, 5, 6)
    weight = slice_weights(12, torch.tensor([3.0]))
    middles = 5.5 + 3.0 * np.arange(-1, 2)  # slabs lie about the middle of the scan
    fine = np.repeat(x[0, 0, :, 0, 0].double().numpy(), 100)  # 100 points a voxel, the first at -0.495
    points = (np.arange(1200) + 0.5) / 100 - 0.5
    means = [fine[(points > m - 1.5) & (points < m + 1.5)].mean() for m in middles]
    actual = multiply_axis(x, weight, 0)[0, 0, :, 0, 0].numpy()
    inner = (np.arange(12) >= middles[0]) & (np.arange(12) <= middles[-1])
    agrees(ThickSlices, "numpy mean, interp", actual[inner], np.interp(np.arange(12), middles, means)[inner], 1e-5)
    for n, factor in ((12, 3.0), (12, 1.0), (12, 0.0), (12, 30.0), (1, 4.0), (7, 2.6)):
        weight = slice_weights(n, torch.tensor([factor]))
        assert torch.allclose(weight.sum(2), torch.ones(1, n), atol=1e-5)
        assert (weight >= 0).all()
    assert torch.equal(slice_weights(12, torch.tensor([1.0]))[0], torch.eye(12))


def test_thick_slices_change_one_axis_and_leave_the_mask() -> None:
    view = ThickSlices((4, 4), (1.0, 1.0, 2.0), probability=1.0)
    params = view.draw(keys(60))
    across = torch.arange(16.0)
    made = {}
    for axis in range(3):
        x = (
            (torch.arange(16) % 2)
            .float()
            .reshape(*[16 if a == axis else 1 for a in range(3)])
            .expand(60, 1, 16, 16, 16)
        )
        made[axis] = view(x.contiguous(), params).std((1, 2, 3, 4)) < 0.25  # stripes are averaged away
    hit = torch.stack(list(made.values()))
    assert (hit.sum(0) == 1).all()
    assert hit.any(1).all()
    assert torch.equal(view.mask(across, params), across)
    with pytest.raises(MedsslError, match="thickness_mm"):
        ThickSlices((0, 1))
    params = {"thickness_mm": torch.ones(1), "axis": torch.zeros(1)}
    with pytest.raises(MedsslError, match="axes of the scan"):
        ThickSlices(axes=(2,), probability=1.0)(torch.zeros(1, 1, 8, 8), params)
