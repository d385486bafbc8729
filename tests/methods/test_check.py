"""Every method of the registry with every encoder of the registry: it keeps the contract, or says what it expected.

New files are covered at once: methods and encoders, their choices (`Literal` and `bool` arguments) and their dimensions are
read from the registries and the signatures.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.core.registry import METHODS
from medssl.encoders import Encoder
from medssl.methods import Method, check_method
from tests.encoders.small import families, small_encoder

EDGES = (16, 32)  # of the crop: the first one that the method takes
BATCH = 2
CHANNELS = 2  # also frames, of which some methods need several
OWN = ("ResNet", "ResidualUNet", "ViT")  # the families that the methods were made with


def other_choices(kind: type) -> Iterator[dict[str, Any]]:
    """Settings of a method that differ from the default in one choice."""
    types = typing.get_type_hints(kind.__init__)
    for name, parameter in inspect.signature(kind).parameters.items():
        choices = typing.get_args(types[name]) if typing.get_origin(types[name]) is Literal else ()
        for choice in (True, False) if types[name] is bool else choices:
            if choice != parameter.default:
                yield {name: choice}


def examples() -> Iterator[Any]:
    for name, kind in METHODS.classes().items():
        for number, settings in enumerate(kind.examples()):
            yield pytest.param(name, settings, id=f"{name} {number}" if number else name)


def choices() -> Iterator[Any]:
    for name, kind in METHODS.classes().items():
        for choice in other_choices(kind):
            yield pytest.param(name, kind.examples()[0] | choice, id=f"{name} {choice}")


def accepted(name: str, settings: dict[str, Any], encoder: Encoder) -> tuple[Method, tuple[int, ...]] | str:
    """The method and the smallest crop that it takes, or the message with which it rejects the encoder or all crops."""
    message = ""
    for edge in EDGES:
        try:
            method = METHODS.load(name)(encoder, **settings)
            method.check((edge,) * encoder.dims, BATCH)
        except MedsslError as error:
            message = str(error)
        else:
            return method, (edge,) * encoder.dims
    return message


def check_pairs(
    name: str, settings: dict[str, Any], dims: int, channels: int, every_encoder: bool, encoders: Sequence[str] = ()
) -> dict[str, str]:
    """Check a method with all encoders, or with the first one that it takes; returns why it rejects the others."""
    rejections = {}
    for encoder in encoders or families(dims):
        torch.manual_seed(0)
        answer = accepted(name, settings, small_encoder(encoder, dims, channels))
        if isinstance(answer, str):
            assert "expected" in answer or "--" in answer, f"this message does not say what to do: {answer}"
            rejections[encoder] = answer
            continue
        check_method(*answer, BATCH)
        if not every_encoder:
            break
    return rejections


def check_accepts_one(name: str, dims: int, rejections: dict[str, str]) -> None:
    assert len(rejections) < len(families(dims)), f"{name} takes no encoder: {rejections}"


def own_and_one_more(method: str) -> list[str]:
    """The encoders of the fast test: over all methods, every family has its turn."""
    others = [family for family in families(2) if family not in OWN]
    return [*OWN, others[METHODS.names().index(method) % len(others)]]


@pytest.mark.parametrize(("name", "settings"), list(examples()))
def test_every_method_with_our_own_encoders_and_one_more_in_2d(name: str, settings: dict[str, Any]) -> None:
    rejections = check_pairs(name, settings, 2, CHANNELS, every_encoder=True, encoders=own_and_one_more(name))
    check_accepts_one(name, 2, rejections)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), list(examples()))
def test_every_method_with_every_encoder_in_2d(name: str, settings: dict[str, Any]) -> None:
    check_accepts_one(name, 2, check_pairs(name, settings, 2, CHANNELS, every_encoder=True))


@pytest.mark.parametrize(("name", "settings"), list(examples()))
def test_every_method_in_3d(name: str, settings: dict[str, Any]) -> None:
    check_accepts_one(name, 3, check_pairs(name, settings, 3, CHANNELS, every_encoder=False))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), list(examples()))
def test_every_method_with_every_encoder_in_3d(name: str, settings: dict[str, Any]) -> None:
    check_accepts_one(name, 3, check_pairs(name, settings, 3, CHANNELS, every_encoder=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), list(choices()))
def test_every_method_with_its_other_choices(name: str, settings: dict[str, Any]) -> None:
    """A choice may be for 2D or for 3D alone, such as tubes."""
    rejections = [check_pairs(name, settings, dims, channels=6, every_encoder=False) for dims in (2, 3)]
    assert any(len(found) < len(families(dims)) for dims, found in zip((2, 3), rejections)), f"no encoder: {rejections}"


@pytest.mark.parametrize("name", METHODS.names())
def test_a_batch_that_is_too_small_is_rejected(name: str) -> None:
    kind = METHODS.load(name)
    answers = (accepted(name, kind.examples()[0], small_encoder(encoder, 2, CHANNELS)) for encoder in families(2))
    method, crop = next(answer for answer in answers if not isinstance(answer, str))
    for batch_size in range(method.min_batch_size):
        with pytest.raises(MedsslError, match=f"--batch-size {batch_size} is too small for {name}"):
            method.check(crop, batch_size)
