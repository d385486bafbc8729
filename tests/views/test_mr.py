"""What a magnetic resonance scanner does: each view against numpy or MONAI on the same parameters, and by its law."""

import numpy as np
import pytest
import torch
from monai.transforms import RandBiasField

from medssl.errors import MedsslError
from medssl.views.base import check_view, make_keys
from medssl.views.mr import BiasField


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_contract(dims: int, channels: int) -> None:
    check_view(BiasField(), dims, channels=channels)


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
    assert np.allclose(view(volume, params)[0].numpy(), volume[0].numpy() * np.exp(field), rtol=1e-5)
    image = torch.rand(1, 2, 17, 20) + 0.5
    flat_matrix = [[coefficients[i, j, 0] * (i + j <= order) for j in n] for i in n]
    field = np.polynomial.legendre.leggrid2d(np.linspace(-1, 1, 17), np.linspace(-1, 1, 20), flat_matrix)
    assert np.allclose(view(image, params)[0].numpy(), image[0].numpy() * np.exp(field), rtol=1e-5)


def test_bias_field_is_a_factor_of_the_drawn_strength_and_none_at_zero() -> None:
    x = torch.rand(400, 1, 6, 7)
    none = BiasField(strength=0.0, probability=1.0)
    assert torch.equal(none(x, none.draw(keys(400))), x)
    view = BiasField(1, 0.3, 1.0)
    field = (view(x, view.draw(keys(400))) / x).log()
    corner = field[:, 0, -1, -1]  # at order 1 the sum of two coefficients: triangular on -0.6..0.6
    assert abs(corner.std() - 0.6 / 6**0.5) < 0.02
    assert field.mean(dim=(2, 3)).abs().max() < 1e-6  # no change of brightness on the whole
    with pytest.raises(MedsslError, match="order from 1"):
        BiasField(order=0)
