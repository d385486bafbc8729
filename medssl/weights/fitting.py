"""A converted file fitted to its encoder: tensor by tensor, with the receipt, and nothing silently left random.

state, receipt = fit(converted)
check_share(receipt)                               # MedsslError under 95%
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.weights.adapt import inflated, with_channels
from medssl.weights.receipt import Part, Receipt
from medssl.weights.sources.base import Converted, Tensors, with_in_channels

LEAST_SHARE = 0.95
INFLATED = "kernels of images inflated to volumes"


def for_channels(converted: Converted, channels: int) -> Converted:
    """The same for scans of another number of channels: the first convolution is fitted where repeating a grey scan does not do.

    Args:
        converted: The file, as its encoder takes it.
        channels: Channels of the scans.
    """
    own = converted.encoder.in_channels
    if channels in (1, own):
        return converted
    mean, std = (
        (sum(values) / len(values),) for values in (converted.mean, converted.std)
    )  # one scale for all channels
    encoder = with_in_channels(converted.encoder, channels)
    tensors, fitted = dict(converted.tensors), []
    for name, value in encoder.state_dict().items():
        given = tensors.get(name)
        if given is not None and given.ndim > 3 and given.shape[1] == own != value.shape[1] == channels:
            tensors[name] = with_channels(given, channels)
            fitted.append(name)
    how = f"first convolution summed over {own} channel(s) and shared out over {channels}"
    adapted = {**converted.adapted, how: fitted}
    return replace(converted, encoder=encoder, tensors=tensors, adapted=adapted, mean=mean, std=std)


def fit(converted: Converted) -> tuple[Tensors, Receipt]:
    """The encoder's state with the file's tensors in it, and the receipt.

    Args:
        converted: The file, as its encoder takes it.

    Raises:
        MedsslError: A tensor has another shape than the encoder's, so that it is another architecture, or none fits by its name.
    """
    state, tensors, adapted = converted.encoder.state_dict(), dict(converted.tensors), dict(converted.adapted)
    kernels = [name for name in tensors.keys() & state.keys() if (tensors[name].ndim, state[name].ndim) == (4, 5)]
    if kernels:
        tensors |= {name: inflated(tensors[name], state[name].shape[4]) for name in kernels}
        adapted[INFLATED] = kernels
    _check_shapes(tensors, state)
    new = {name: tensors.get(name, value) for name, value in state.items()}
    aliases = _aliases(converted.encoder)
    given = {first for first, names in aliases.items() if any(name in tensors for name in names)}
    for first in given:
        value = next(tensors[name] for name in aliases[first] if name in tensors)
        new |= dict.fromkeys(aliases[first], value)
    return new, _receipt(converted, new, adapted, aliases, given, state)


def _aliases(encoder: Encoder) -> dict[str, list[str]]:
    """Each of the encoder's tensors of numbers by its first name -> all names of it; nnU-Net's blocks have two for each weight."""
    by_place: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and value.numel():
            by_place.setdefault((value.data_ptr(), tuple(value.shape)), []).append(name)
    return {names[0]: names for names in by_place.values()}


def _receipt(
    converted: Converted,
    state: Tensors,
    adapted: dict[str, list[str]],
    aliases: dict[str, list[str]],
    given: set[str],
    expected: Tensors,
) -> Receipt:
    first_of = {name: first for first, names in aliases.items() for name in names}
    changed = {
        how: sorted({first_of[name] for name in names if name in first_of} & given) for how, names in adapted.items()
    }
    untouched = given - {name for names in changed.values() for name in names}
    extra = {name: value for name, value in converted.tensors.items() if name not in expected}
    left_out = {**converted.left_out, **({"not in this encoder": extra} if extra else {})}
    total = sum(state[name].numel() for name in aliases)
    return Receipt(
        Part.of(state, sorted(untouched)),
        {how: Part.of(state, names) for how, names in changed.items() if names},
        {why: Part.of(tensors, tensors) for why, tensors in left_out.items()},
        Part.of(state, sorted(aliases.keys() - given)),
        sum(state[name].numel() for name in given) / total,
        tuple(converted.notes),
    )


def _check_shapes(tensors: Tensors, state: Tensors) -> None:
    shared = [name for name in state if name in tensors]
    if not shared:
        raise MedsslError(
            f"no tensor of the file fits the encoder by its name: the file has {', '.join(list(tensors)[:5])}, the encoder "
            f"{', '.join(list(state)[:5])}; name the layout with --as, or the architecture with --encoder"
        )
    misfits = [name for name in shared if tensors[name].shape != state[name].shape]
    if misfits:
        raise MedsslError(
            f"{len(misfits)} of {len(shared)} tensors have other shapes than the encoder's, the first is {misfits[0]}: "
            f"{_shape(tensors[misfits[0]])} in the file, {_shape(state[misfits[0]])} in the encoder; it is another architecture: name "
            "the file's with --encoder"
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def check_share(receipt: Receipt, allow_partial: bool = False) -> None:
    """Raise MedsslError where too little of the encoder is the file's.

    Args:
        receipt: The receipt of an import.
        allow_partial: Whether to accept it.
    """
    if receipt.share >= LEAST_SHARE or allow_partial:
        return
    raise MedsslError(
        f"{100 * receipt.share:.1f}% of the encoder's parameters are the file's: expected {100 * LEAST_SHARE:.0f}% or more, or the rest "
        f"starts random ({receipt.random}); name the file's own architecture with --encoder, or accept it with --allow-partial"
    )
