"""The vector of every level at once, for encoders whose coarsest level alone says too little."""

from __future__ import annotations

import torch

from medssl.core.spec import twin
from medssl.encoders import Decoder, PooledLevels, ResNet, check_encoder


def parameters(layer: torch.nn.Module) -> list[int]:
    return [id(weight) for weight in layer.parameters()]


def test_the_vector_is_the_mean_of_each_level_fine_to_coarse() -> None:
    inner = ResNet(2, 1, depth=10, width=4).eval()
    encoder, x = PooledLevels(inner).eval(), torch.rand(3, 1, 32, 64)
    levels = [level.mean((2, 3)) for level in inner.features(x)]
    assert encoder.out_dim == sum(inner.channels)
    assert torch.allclose(encoder(x), torch.cat(levels, 1), atol=1e-6)
    assert torch.allclose(encoder(x)[:, -inner.out_dim :], inner(x), atol=1e-6)


def test_it_is_an_encoder_like_any_other_with_the_layers_of_the_one_inside() -> None:
    inner = ResNet(3, 2, depth=10, width=4)
    encoder = PooledLevels(inner)
    check_encoder(encoder)
    assert [*map(parameters, encoder.layers())] == [*map(parameters, inner.layers())]
    assert set(twin(encoder).state_dict()) == {f"encoder.{name}" for name in inner.state_dict()}
    x = torch.rand(2, 2, 32, 32, 32)
    assert Decoder(encoder, 3)(encoder.features(x)).shape == (2, 3, 32, 32, 32)
