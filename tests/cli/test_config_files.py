"""A file given with --config names a configuration or a file, and never imports a class that nobody typed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medssl.cli.arguments import parse_arguments
from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.training.finetune import finetune
from medssl.training.pretrain import pretrain

CODE = """
from pathlib import Path
from medssl.encoders import ResNet
Path(__file__).with_suffix(".ran").touch()

class Mine(ResNet):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module that leaves a file beside itself when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("sent.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("sent", None)


def parse(content: str, *words: str, function=pretrain) -> dict:
    Path("c.yaml").write_text(content)
    settings = parse_arguments(function, "medssl", words=["--config", "c.yaml", "--data", "d", "--out", "o", *words])
    assert settings is not None
    return settings


@pytest.mark.parametrize(
    "content",
    [
        "encoder: sent.Mine",
        "encoder: {class_path: sent.Mine}",
        "encoder: {class_path: sent.Mine, init_args: {depth: 10}}",
        'encoder: \'{"class_path": "sent.Mine"}\'',
        "encoder: inner.yaml",
        "encoder: {init_args: {depth: 10}}",
        "encoder.class_path: sent.Mine",
        "method: sent.Mine",
        "method: os.system",
        "method: {class_path: Joint, init_args: {parts: [SimMIM, sent.Mine]}}",
        "method: {class_path: Joint, init_args: {parts: [{class_path: sent.Mine}]}}",
        'method: {class_path: Joint, init_args: {parts: [\'{"class_path": "sent.Mine"}\']}}',
        "method: medssl.cli.main.main",
        "method: {class_path: medssl.core.spec.rebuild}",
        "config: inner.yaml",
        "steps: {class_path: sent.Mine}",
        "label: '{class_path: sent.Mine}'",
    ],
)
def test_a_file_that_names_a_class_outside_medssl_is_refused_and_nothing_is_imported(
    folder: Path, content: str
) -> None:
    Path("inner.yaml").write_text("class_path: sent.Mine")
    with pytest.raises(MedsslError, match=r"c\.yaml"):
        parse(content)
    assert not Path("sent.ran").exists()
    assert "sent" not in sys.modules


@pytest.mark.parametrize("words", [("--split-column", "sent.Mine"), ("--encoder", "ResNet", "--label", "sent.Mine")])
def test_a_word_that_is_no_class_on_the_command_line_does_not_let_a_file_name_it(folder: Path, words: tuple) -> None:
    with pytest.raises(MedsslError, match=r"c\.yaml names the class 'sent\.Mine'"):
        parse("encoder: sent.Mine", *words)
    assert "sent" not in sys.modules


@pytest.mark.parametrize(("words", "expected"), [(["--help"], False), (["--encoder", "sent.Mine", "--help"], True)])
def test_the_current_folder_is_searched_only_for_a_class_that_the_command_line_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    main(["pretrain", *words])
    assert (str(tmp_path) in sys.path) is expected


def test_a_class_that_the_command_line_names_may_stand_in_the_file_too(folder: Path) -> None:
    content = "encoder: {class_path: sent.Mine, init_args: {dims: 2, depth: 10}}"
    encoder = parse(content, "--encoder", "sent.Mine")["encoder"]
    assert (type(encoder).__name__, encoder.dims, encoder.depth) == ("Mine", 2, 10)


def test_classes_of_medssl_are_named_as_they_are_or_by_their_path(folder: Path) -> None:
    for path in ("ResNet", "medssl.encoders.ResNet", "medssl.encoders.resnet.ResNet"):
        assert parse(f"encoder: {{class_path: {path}, init_args: {{depth: 10}}}}")["encoder"].depth == 10
    method = parse("method: {class_path: Joint, init_args: {parts: [SimMIM, Rotation]}}")["method"]
    assert len(method(parse("encoder: ResidualUNet")["encoder"]).methods) == 2


def test_the_fields_of_a_config_are_plain_options_in_a_file(folder: Path) -> None:
    content = "{steps: 5, lr: 2e-3, precision: bf16-mixed, devices: 2, split_seed: 3, label: finding}"
    settings = parse(content, "--steps", "6", "--split-column", "site")
    assert (settings["train"].steps, settings["train"].lr, settings["train"].precision) == (6, 2e-3, "bf16-mixed")
    assert settings["hardware"].devices == 2
    assert (settings["split"].seed, settings["split"].column) == (3, "site")
    assert settings["monitoring"].label == "finding"


def test_settings_below_recipe_are_refused_with_what_to_write_instead(folder: Path) -> None:
    words = {"function": finetune}
    with pytest.raises(MedsslError, match=r"key recipe.*steps: 3, lr: 0.1"):
        parse("recipe: {steps: 3, lr: 0.1}", "--task", "segmentation", **words)
    with pytest.raises(MedsslError, match=r"--recipe.batch_size was renamed: use --batch-size"):
        parse("lr: 0.1", "--task", "segmentation", "--recipe.batch_size", "3", **words)


@pytest.mark.parametrize(
    ("content", "message"), [("{steps: [", "not valid YAML"), ("- 5", "no options"), ("", "no opt")]
)
def test_a_broken_file_is_refused(folder: Path, content: str, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        parse(content)


ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ALIASES, r"the alias \*a0 in line 2"),
        ("label: " + "[" * 20_000 + "]" * 20_000, "values more than 30 levels deep in line 1"),
        ("label: " + "{a: " * 20_000 + "}" * 20_000, "values more than 30 levels deep in line 1"),
        ("steps: 5\nlr: 2e-3\nsteps: 500", "the key steps in line 1 and again in line 3"),
        (
            "encoder:\n  class_path: ResNet\n  init_args:\n    depth: 10\n    depth: 18",
            "the key depth in line 4 and again in line 5",
        ),
        ("label: " + "x" * 2**20, "more than 1048576 bytes"),
    ],
)
def test_a_file_that_would_hang_or_say_two_things_is_refused_in_words(folder: Path, content: str, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        parse(content)
