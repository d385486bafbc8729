"""What encoders built from another library's networks share: whether a network takes a crop, and its parts by name.

try_size(encoder, (64, 64))                            # MedsslError, with the network's own words
stem = part_of(net, ["conv1.weight", "bn1.weight"])    # a module with these weights, for `layers()`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder

REFUSALS = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, AttributeError)


def try_size(encoder: Encoder, size: Sequence[int]) -> None:
    """Run one empty crop without gradients, since the limits of a network made elsewhere are not known.

    Args:
        encoder: The encoder; its mode is as it was afterwards.
        size: Voxels of the crop along each axis.

    Raises:
        MedsslError: The network fails, or a level has another shape than the encoder's channels and strides promise.
    """
    modes = {module: module.training for module in encoder.modules()}
    weight = next(encoder.parameters())
    empty = torch.zeros(1, encoder.in_channels, *size, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            pyramid = encoder.eval().features(empty)
    except REFUSALS as error:
        raise MedsslError(
            f"{type(encoder).__name__} does not take the crop {tuple(size)} ({first_line(error)}): expected one that its "
            f"network takes; pass another --crop"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = [tuple(level.shape[1:]) for level in pyramid]
    promised = [(c, *(n // s for n, s in zip(size, stride))) for c, stride in zip(encoder.channels, encoder.strides)]
    if found != promised:
        raise MedsslError(
            f"the network of {type(encoder).__name__} makes levels of {found} from the crop {tuple(size)}: expected {promised}, "
            f"each the crop divided by a stride; use another network"
        )


def part_of(net: nn.Module, names: Iterable[str]) -> nn.Module:
    """A module that holds some parameters of a network, the same objects under the same names.

    Args:
        net: The network.
        names: Names of parameters, as `net.named_parameters()` has them.
    """
    part = nn.Module()
    for name in names:
        *path, leaf = name.split(".")
        place = part
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        place.register_parameter(leaf, net.get_parameter(name))
    return part


def first_line(error: Exception) -> str:
    """What an error says, in one line.

    Args:
        error: What a network raised.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
