"""A spec loses nothing, refuses what it cannot hold, and builds registered classes alone."""

from __future__ import annotations

import copy
import json
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.spec import Recorded, describe, describes_same, plain, rebuild, twin
from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT
from medssl.methods import Joint, SimCLR, SimMIM
from medssl.preprocessing.cache import Cache
from medssl.training.config import Hardware, TrainConfig
from medssl.training.pretrain import pretrain
from medssl.views.base import Compose
from medssl.views.intensity import Gamma, Noise
from medssl.views.interop import PerSample


class Box(Recorded):
    """Keeps what it is given under another name, so that only a capture of the arguments can record it."""

    def __init__(self, content: Any = None, *others: Any, label: str = "", **more: Any):
        self.held = (content, others, label, more)

    def __repr__(self) -> str:
        return f"Box{self.held}"


class Larger(Box):
    """A subclass that calls its base with other arguments than its own."""

    def __init__(self, content: Any):
        super().__init__([content, content], label="doubled")


class Blocks(Encoder):
    """An encoder with a dict, and with an encoder, among its arguments."""

    built: list[dict] = []  # noqa: RUF012

    def __init__(self, inner: Encoder, kwargs: dict[str, Any] | None = None, norm: type[nn.Module] = nn.BatchNorm3d):
        super().__init__(inner.dims, inner.in_channels, inner.channels, inner.strides)
        self.net, self.norm = inner, norm
        self.built.append(dict(kwargs or {}))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.net.features(x)


def through_json(thing: Recorded) -> Any:
    return rebuild(json.loads(json.dumps(describe(thing), allow_nan=False)), Recorded, external=thing)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = (
    st.text()
    | st.sampled_from(["$tuple", "$dict", "class_path", "init_args"])
    | st.integers()
    | st.tuples(st.integers())
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(Box, inner)
        | st.builds(Larger, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.lists(VALUES, max_size=2), st.text(), st.dictionaries(st.sampled_from(["kwargs", "x"]), VALUES))
@example({"drop_path": 0.3}, [], "", {})
@example(Box((1, [2, {"a": (None, math.nan)}])), [-0.0], "", {"x": -math.inf})
@example({"$tuple": [1]}, [{1: 2, "1": 3}], "", {"x": {"class_path": "medssl.cli.main.main", "init_args": {}}})
def test_every_argument_comes_back_of_its_own_type(content: Any, others: list, label: str, more: dict) -> None:
    box = Box(content, *others, label=label, **more)
    again = through_json(box)
    assert repr(again) == repr(box)
    assert describe(again) == describe(box)
    assert describe(copy.deepcopy(box)) == describe(box) == describe(pickle.loads(pickle.dumps(box)))


def test_the_capture_is_of_the_outermost_call_and_of_that_moment() -> None:
    given_list = [1]
    larger = Larger(given_list)
    given_list.append(2)
    assert describe(larger)["init_args"] == {"content": [1]}
    assert repr(through_json(larger)) == "Box([[1], [1]], (), 'doubled', {})"


def test_numbers_of_numpy_are_numbers() -> None:
    assert describe(Box([np.int64(3), np.float32(0.5), np.bool_(True)]))["init_args"]["content"] == [3, 0.5, True]


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        (lambda x: x, "builtins.function"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (torch.ones(2), "torch.Tensor"),
        (np.ones(2), "numpy.ndarray"),
        ({1, 2}, "builtins.set"),
        (Path("weights.pt"), "pathlib.PosixPath"),
        (nn.ReLU, "builtins.type"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_once_with_the_name_of_the_argument(argument: Any, kind: str) -> None:
    with pytest.raises(MedsslError, match=rf"Box got content = a {kind}, which a run record cannot hold"):
        Box(argument)
    with pytest.raises(MedsslError, match=r"Box got more\['deep'\]\[1\] = a " + kind):
        Box(deep=[0, argument])
    with pytest.raises(MedsslError, match=r"Blocks got kwargs\['act'\] = a " + kind):
        Blocks(ResNet(3, depth=10, width=2), {"act": argument})


def test_a_default_that_cannot_be_recorded_stays_the_classs_own() -> None:
    blocks = Blocks(ResNet(3, depth=10, width=2))
    assert "norm" not in describe(blocks)["init_args"]
    assert twin(blocks).norm is nn.BatchNorm3d
    with pytest.raises(MedsslError, match="Blocks got norm"):
        Blocks(ResNet(3, depth=10, width=2), norm=nn.InstanceNorm3d)


def test_a_view_may_wrap_any_function_but_is_not_recorded_then() -> None:
    views = Compose([Gamma(), PerSample(lambda x: x)])
    with pytest.raises(MedsslError, match="PerSample got transform = a builtins.function"):
        describe(views)
    assert describe(through_json(Compose([Gamma(1.3), Noise()]))) == describe(Compose([Gamma(1.3), Noise()]))


def test_an_encoder_in_an_encoder_and_its_dict_are_built_again() -> None:
    blocks = Blocks(ViT(2, patch=(8, 4), width=24, depth=1), {"drop_path": 0.3})
    again = through_json(blocks)
    assert describe(again) == describe(blocks)
    assert isinstance(again.net, ViT)
    assert Blocks.built[-1] == {"drop_path": 0.3}
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in blocks.state_dict().items()}
    with pytest.raises(MedsslError, match="Blocks, which is outside medssl, and a record is never allowed to import"):
        rebuild(describe(blocks), Encoder)


def test_a_run_trains_what_it_was_given_and_records_it(cache: Cache, tmp_path: Path) -> None:
    """A dict among an encoder's arguments was left out of the record, and the default trained in its place."""
    encoder = Blocks(ResidualUNet(3, width=2, blocks=(1, 1)), {"drop_path": 0.3})
    Blocks.built.clear()
    run = pretrain(cache.path, tmp_path, encoder, SimMIM, (16, 16, 16), TrainConfig(1, 2), Hardware("cpu"))
    assert Blocks.built == [{"drop_path": 0.3}]
    assert run.config["encoder"]["init_args"]["kwargs"] == {"drop_path": 0.3}
    assert runs.table(tmp_path)["config.encoder.init_args.inner.init_args.blocks"].tolist() == [[1, 1]]


def test_a_method_is_recorded_with_its_encoder_and_the_parts_it_made() -> None:
    def part(encoder: Encoder) -> SimCLR:
        return SimCLR(encoder, temperature=0.5)

    joint = Joint(ResidualUNet(3, width=2, blocks=(1, 1)), [partial(SimMIM, mask_block=4), part], [1, 0.1])
    spec = describe(joint)
    assert [p["class_path"] for p in spec["init_args"]["parts"]] == ["SimMIM", "SimCLR"]
    again = through_json(joint)
    assert describe(again) == spec
    assert again.methods[1].temperature == 0.5
    again.load_state_dict(joint.state_dict())


def test_two_specs_are_the_same_whether_a_list_or_a_tuple_was_given() -> None:
    listed, tupled = (describe(ResidualUNet(3, width=2, blocks=blocks)) for blocks in ([1, 1], (1, 1)))
    assert listed != tupled
    assert describes_same(listed, tupled)
    assert not describes_same(listed, describe(ResidualUNet(3, width=2, blocks=(1, 2))))
    older = describe(ViT(2, width=24))
    del older["init_args"]["positions"], older["init_args"]["registers"]  # arguments that came later
    assert describes_same(older, describe(ViT(2, width=24)))
    assert not describes_same(older, describe(ViT(2, width=24, registers=1)))
    assert plain(describe(Box(math.nan, label="a"))["init_args"]) == {"content": "nan", "label": "a"}


@pytest.mark.parametrize(
    "path",
    [
        "medssl.cli.main.main",
        "medssl.cli.main:main",
        "medssl.cli.main",
        "main",
        "main:main",
        "os.system",
        "Encoder",
        "medsslevil.Thing",
        "medssl.encoders.base.Encoder",
        "TokenEncoder",
        "medssl.core.spec.Recorded",
        "Recorded",
        "medssl.encoders.resnet.MonaiResNet",
        "MonaiResNet",
        "check_encoder",
        "",
        None,
        3,
        ["ResNet"],
        {"a": 1},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_record_names_registered_classes_only(path: Any, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    for target in ("medssl.cli.main.main", "os.system"):
        monkeypatch.setattr(target, lambda *given, **named: called.append((given, named)))
    spec = {"class_path": path, "init_args": {"arguments": ["--version"]}}
    with pytest.raises(MedsslError, match="the record names|outside medssl"):
        rebuild({"class_path": "Compose", "init_args": {"views": [spec]}} if nested else spec, Recorded)
    assert called == []


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "ResNet"},
        {"class_path": "ResNet", "init_args": []},
        "ResNet",
        None,
        {"class_path": "ResNet", "init_args": {"no_such": 1}},
        {"class_path": "ResNet", "init_args": {"width": "ten"}},
        {"class_path": "ResNet", "init_args": {"dims": {"$float": "1e3"}}},
        {"class_path": "ResNet", "init_args": {"dims": {"$dict": [[[], 1]]}}},
        {"class_path": "Joint", "init_args": {"parts": "SimMIM"}},
        {"class_path": "Joint", "init_args": {"parts": 3}},
    ],
)
def test_a_broken_spec_is_refused_with_a_message(spec: Any) -> None:
    with pytest.raises(MedsslError, match="record"):
        rebuild(spec, Recorded)


def test_a_class_of_another_kind_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(Gamma, "__init__", lambda self: built.append(self))
    with pytest.raises(MedsslError, match="the record names Gamma, which is not a kind of Encoder"):
        rebuild({"class_path": "Gamma", "init_args": {}}, Encoder)
    assert built == []
