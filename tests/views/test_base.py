"""What all views share: parameters that can be recorded, chunks, probabilities, random numbers, rejected input."""

import json

import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.views.base import Compose, from_plain, take, to_plain
from medssl.views.intensity import Gamma, Noise
from medssl.views.random import make_keys, normal_like
from medssl.views.spatial import Resample


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def test_parameters_written_down_come_back_bit_for_bit() -> None:
    view = Compose([Resample.examples(3)[0], Gamma(), Compose([Noise(probability=1.0)])])
    params = view.draw(keys(3))
    text = json.dumps(to_plain(params), allow_nan=False)

    def same(a: dict, b: dict) -> bool:
        return a.keys() == b.keys() and all(
            same(v, b[k]) if isinstance(v, dict) else v.dtype == b[k].dtype and torch.equal(v, b[k])
            for k, v in a.items()
        )

    assert same(params, from_plain(json.loads(text)))
    x = torch.rand(3, 1, 20, 20, 20)
    second = from_plain(json.loads(json.dumps(to_plain(take(params, slice(1, 2))))))
    assert torch.allclose(view(x[1:2], second), view(x, params)[1:2], atol=1e-5)


def test_a_large_batch_in_chunks_is_the_same_as_one_after_the_other() -> None:
    """Chunks on a CPU hold about a million numbers; 20 images of 300 squared are two of them."""
    view = Compose([Resample((200, 200), (0.8, 1.2), flip=(0.5, 0.5)), Gamma(), Noise()])
    x, mask = torch.rand(20, 1, 300, 300), torch.rand(20, 1, 300, 300) > 0.5
    params = view.draw(keys(20))
    whole = view(x, params)
    single = torch.cat([view(x[i : i + 1], take(params, slice(i, i + 1))) for i in range(20)])
    assert torch.allclose(whole, single, atol=1e-5)
    image, moved = view.with_mask(x, mask, params)
    assert torch.allclose(image, whole, atol=1e-6)
    assert torch.equal(moved, view.mask(mask, params))


def test_only_samples_that_are_on_are_changed() -> None:
    x = torch.rand(50, 1, 6, 6)
    view = Noise(probability=0.4)
    params = view.draw(keys(50))
    changed = (view(x, params) != x).flatten(1).any(1)
    assert torch.equal(changed, params["on"])
    assert 5 < changed.sum() < 45


def test_noise_is_normal_independent_and_of_any_size() -> None:
    """Moments of a million numbers, correlation with the neighbour and with another key."""
    noise = normal_like(torch.empty(4, 1, 500_001), keys(4))
    flat = noise.flatten(1)
    assert flat.mean(1).abs().max() < 0.005
    assert (flat.std(1) - 1).abs().max() < 0.005
    assert ((flat**4).mean(1) - 3).abs().max() < 0.05
    assert ((flat**3).mean(1)).abs().max() < 0.03
    for lag in (1, 2, 4, 250_000):
        assert (flat[:, lag:] * flat[:, :-lag]).mean(1).abs().max() < 0.006
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.006
    for size in (1, 2, 3, 5, 8):
        assert torch.isfinite(normal_like(torch.empty(2, 1, size), keys(2))).all()


def test_the_gradient_of_a_resample_is_that_of_its_finite_difference() -> None:
    view = Resample((8, 8, 8), (0.7, 1.2), rotate_degrees=(20,) * 3, elastic_mm=0.7)
    params = view.draw(keys(1))
    x, way = torch.rand(1, 1, 10, 10, 10, requires_grad=True), torch.randn(1, 1, 10, 10, 10)
    weight = torch.randn(1, 1, 8, 8, 8)
    (gradient,) = torch.autograd.grad((view(x, params) * weight).sum(), x)
    step = ((view(x + 0.1 * way, params) - view(x - 0.1 * way, params)) * weight).sum() / 0.2
    assert torch.allclose((gradient * way).sum(), step, rtol=1e-3)


def test_keys_and_probabilities_that_mean_nothing_are_refused() -> None:
    for wrong in (torch.zeros(0, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(MedsslError, match="one int64 key per sample"):
            Gamma().draw(wrong)
    with pytest.raises(MedsslError, match="probability"):
        Gamma(probability=1.5).draw(keys(2))
    broken = torch.rand(3, 1, 8, 8)
    broken[1, 0, 2, 2] = torch.nan
    with pytest.raises(MedsslError, match=r"samples \[1\]"):
        Gamma()(broken, Gamma().draw(keys(3)))
