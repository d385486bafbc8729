"""Test an encoder of your own against the contract of `Encoder`.

check_encoder(Mine(dims=3))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medssl.core.spec import twin
from medssl.encoders.base import Encoder


def check_encoder(encoder: Encoder, size: Sequence[int] | None = None) -> None:
    """Check the pyramid, the vector, that gradients reach every weight, and that the record rebuilds the encoder.

    Args:
        encoder: The encoder, left in evaluation mode.
        size: Voxels along each axis of the crop to try; twice the coarsest stride by default.

    Raises:
        AssertionError: The encoder breaks the contract.
    """
    size = tuple(size or (2 * stride for stride in encoder.strides[-1]))
    encoder.check_size(size)
    x = torch.randn(2, encoder.in_channels, *size)
    pyramid = encoder.features(x)
    assert len(pyramid) == len(encoder.channels) == len(encoder.strides)
    for level, channels, stride in zip(pyramid, encoder.channels, encoder.strides):
        expected = (2, channels, *(n // s for n, s in zip(size, stride)))
        assert tuple(level.shape) == expected, (
            f"a level has the shape {tuple(level.shape)}: expected {expected} by the encoder's channels and strides"
        )
    vector = encoder(x)
    assert tuple(vector.shape) == (2, encoder.out_dim), (
        f"forward returns the shape {tuple(vector.shape)}: expected {(2, encoder.out_dim)}"
    )
    (vector.square().mean() + sum(level.square().mean() for level in pyramid)).backward()
    idle = [name for name, weight in encoder.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle, f"no gradient reaches {idle[:3]}: distributed training would stop with an error"
    own, in_layers = set(encoder.parameters()), [weight for layer in encoder.layers() for weight in layer.parameters()]
    assert in_layers, "layers() has no weights: expected the parts of the encoder"
    assert len(set(in_layers)) == len(in_layers), "layers() has a weight twice: expected each part once"
    assert own >= set(in_layers), "layers() has a weight that is not the encoder's: expected its parts"
    rebuilt = twin(encoder)
    rebuilt.load_state_dict(encoder.state_dict())
    encoder.eval(), rebuilt.eval()
    assert torch.equal(rebuilt(x), encoder(x)), "an encoder rebuilt from its record gives another result"
