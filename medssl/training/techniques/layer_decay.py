"""A learning rate that falls from the last layer of a pretrained encoder to its first (Clark et al. 2020; Bao et al.,
BEiT, arXiv 2106.08254): early layers are general, and few labels should not move them far.

    groups(encoder, share=1.0, decay=0.65)     # the last layer at 0.65 of the rate, the one before at 0.42, ...
"""

from __future__ import annotations

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.training.engine import Group


def groups(encoder: Encoder, share: float, decay: float, start: int = 0) -> list[Group]:
    """Return the encoder's layers with their learning rates, the last layer first.

    Args:
        encoder: Its `layers()` are the units of the decay.
        share: The encoder's learning rate as a share of the head's.
        decay: Factor from each layer to the one before it; 1 for the same rate in all.
        start: Step at which the encoder begins to learn.

    Raises:
        MedsslError: The encoder has one layer only, and a decay below 1.
    """
    if decay == 1:
        return [Group(encoder, share, start)]
    layers = encoder.layers()
    if len(layers) < 2:
        raise MedsslError(
            f"layer_decay is {decay}, but {type(encoder).__name__} has one layer only: expected layer_decay 1, or an encoder "
            "that defines layers()"
        )
    decayed = [Group(layer, share * decay ** (len(layers) - i), start) for i, layer in enumerate(layers)]
    return [*reversed(decayed), Group(encoder, share, start)]  # the last: weights outside of every layer
