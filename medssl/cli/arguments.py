"""The options of a command: its function's parameters, explained by the function's docstring.

    parse_arguments(pretrain, "medssl pretrain", words=["--data", "cache", "--out", "runs/a", "--steps", "500"])

A parameter whose type is a dataclass (TrainConfig, SplitSpec) has no option of its own: its fields are options without a
prefix, or with the dataclass's `option_prefix`. Encoders and methods are named by their class, their arguments follow as
`--encoder.depth 10`. jsonargparse does the parsing. This file converts the words that people type to its syntax: dashes
in names, lists as separate words, first words without an option.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import takewhile
from typing import Any

from docstring_parser import DocstringStyle, parse
from jsonargparse import ArgumentParser, set_parsing_settings

from medssl.cli.config_files import resolve_configs
from medssl.cli.messages import dashed, readable_error, root_cause
from medssl.core.errors import MedsslError, nearest
from medssl.core.registry import ENCODERS, METHODS, Registry

HELP = ("-h", "--help")
AUTO = ["auto"]  # in place of the name of a method
ALWAYS = ("config", "help", "print-config")
CLASS_OPTIONS: dict[str, Registry] = {"encoder": ENCODERS, "encoders": ENCODERS, "method": METHODS, "methods": METHODS}
LIST_TYPE = re.compile(r"(list|tuple|Sequence)\[")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

set_parsing_settings(docstring_parse_style=DocstringStyle.GOOGLE)


def parse_arguments(
    function: Any, program: str, purpose: str = "", positional: Sequence[str] = (), words: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The keyword arguments of a command's function from the words of its command line.

    Args:
        function: The command's function.
        program: The command as it is called, for the help.
        purpose: One line on what it does, for the help.
        positional: Parameters whose values may come first, without their option.
        words: The words after the command.

    Returns:
        The arguments, or None if the help or the configuration was printed instead.

    Raises:
        MedsslError: An option or a value is wrong; the message says what to write.
    """
    words = _name_positionals(function, positional, _split_assignments(words))
    words = _python_names(function, words)
    check_option_names(function, words)
    words = resolve_configs(function, words, CLASS_OPTIONS)
    _import_named_classes(words)
    if any(word in HELP for word in words):
        print(" ".join([program, *(name.upper() for name in positional), f"[options]: {purpose}\n"]))
    parser = build_parser(function, program)
    try:
        parsed = parser.parse_args(_join_lists(function, words))
        settings = vars(parser.instantiate_classes(parsed))
        settings.pop("config", None)
        if "keep" in settings:
            given = vars(parser.parse_args(_join_lists(function, words), defaults=False))
            settings["keep"] = tuple(dict.fromkeys([*settings["keep"], *given]))
        return settings | {name: group.take_from(settings) for name, group in option_groups(function).items()}
    except SystemExit:
        return None
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, MedsslError):
            raise cause from error
        raise MedsslError(readable_error(str(error), parser)) from error


@dataclass(frozen=True)
class OptionGroup:
    """A parameter whose type is a dataclass: its fields are options of the command."""

    kind: type
    default: Any

    @property
    def prefix(self) -> str:
        return getattr(self.kind, "option_prefix", "")

    def types(self) -> dict[str, Any]:
        """The type of each option, by its name."""
        hints = typing.get_type_hints(self.kind)
        return {self.prefix + field.name: hints[field.name] for field in fields(typing.cast(Any, self.kind))}

    def add_to(self, parser: ArgumentParser) -> None:
        """Add the options, below the first sentence of the dataclass's docstring."""
        explanations: dict[str, str | None] = {}
        for base in reversed(self.kind.__mro__):
            explanations |= {p.arg_name: p.description for p in parse(inspect.getdoc(base) or "").params}
        section = parser.add_argument_group(str(parse(inspect.getdoc(self.kind) or "").short_description).rstrip("."))
        for option, hint in self.types().items():
            name = option.removeprefix(self.prefix)
            section.add_argument(
                f"--{option}", type=hint, default=getattr(self.default, name), help=explanations.get(name)
            )

    def take_from(self, settings: dict[str, Any]) -> Any:
        """The dataclass made from its options, which are removed from the settings."""
        return self.kind(**{option.removeprefix(self.prefix): settings.pop(option) for option in self.types()})


def option_groups(function: Any) -> dict[str, OptionGroup]:
    """The parameters of a command whose type is a dataclass."""
    hints, parameters = typing.get_type_hints(function), inspect.signature(function).parameters
    return {n: OptionGroup(hints[n], p.default) for n, p in parameters.items() if is_dataclass(hints.get(n))}


def option_types(function: Any) -> dict[str, str]:
    """The type of every option of a command as text, by its name in Python."""
    groups = option_groups(function)
    plain = {n: str(p.annotation) for n, p in inspect.signature(function).parameters.items() if n not in groups}
    return plain | {n: str(hint) for group in groups.values() for n, hint in group.types().items()}


class _Parser(ArgumentParser):
    """A parser whose help shows option names with dashes, as the documentation does, and which methods are experimental."""

    def format_help(self, *args: Any) -> str:
        text = re.sub(r"--[a-z]\w*", lambda match: dashed(match[0]).rstrip("-"), super().format_help(*args))
        return re.sub(r"\bmedssl\.methods\.(\w+)", lambda match: match[0] + _remark(match[1]), text)


def _remark(method: str) -> str:
    """What follows the name of a method in the help."""
    is_experimental = method in METHODS.names() and getattr(METHODS.load(method), "experimental", False)
    return " (experimental)" if is_experimental else ""


def build_parser(function: Any, program: str) -> ArgumentParser:
    """The parser of a command's options, in jsonargparse's syntax: a list is one word, as [1,2]."""
    groups = option_groups(function)
    parser = _Parser(prog=program, exit_on_error=False)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these options, or the name of a config that medssl carries.",
    )
    parser.add_function_arguments(function, as_positional=False, fail_untyped=False, skip=set(groups))
    for group in groups.values():
        group.add_to(parser)
    return parser


def _split_assignments(words: Sequence[str]) -> list[str]:
    """`--steps=3` -> `--steps 3`; the flags of --print-config stay attached, as jsonargparse expects."""
    return [part for word in words for part in (word.split("=", 1) if re.match("--(?!print)", word) else [word])]


def _python_names(function: Any, words: Sequence[str]) -> list[str]:
    """`--as timm` -> `--as_ timm`: a parameter whose name is a word of Python's own ends in an underscore."""
    taken = {f"--{name[:-1]}": f"--{name}" for name in option_types(function) if name.endswith("_")}
    return [taken.get(word, word) for word in words]


def _name_positionals(function: Any, names: Sequence[str], words: list[str]) -> list[str]:
    """`A B --out M` -> `--sources A B --out M`: the first words are the values of the positional parameters."""
    leading = list(takewhile(lambda word: not word.startswith("-"), words))
    rest = words[len(leading) :]
    if not leading:
        return words
    if not names:
        raise MedsslError(
            f"{' '.join(leading)} comes without an option: expected options with their values, as --out FOLDER; see --help"
        )
    if len(names) == 1 and LIST_TYPE.search(option_types(function)[names[0]]):
        return [f"--{names[0]}", *leading, *rest]
    if len(leading) > len(names):
        expected = ", ".join(name.upper() for name in names)
        raise MedsslError(
            f"{len(leading)} words come before the options: expected {expected}; give every other value after its option"
        )
    return [word for name, value in zip(names, leading) for word in (f"--{name}", value)] + rest


def _values_of(words: Sequence[str]) -> list[str]:
    """The words up to the next option."""
    return list(takewhile(lambda word: not re.match(r"--[A-Za-z]", word), words))


def _join_lists(function: Any, words: Sequence[str]) -> list[str]:
    """`--crop 32 32 32` -> `--crop [32,32,32]`, and `--audit` -> `--audit true`, as jsonargparse expects."""
    types, joined, i = option_types(function), list[str](), 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--") or word.startswith("--print"):
            joined.append(word.replace("--print-config", "--print_config"))
            continue
        values = _values_of(words[i:])
        i += len(values)
        option = word[2:].replace("-", "_")
        joined += [f"--{option}", *_one_value(values, types.get(option, ""))]
    return joined


def _one_value(values: list[str], type_name: str) -> list[str]:
    """The values of an option as one word; none stays none, but for true or false."""
    if not values and type_name in ("bool", str(bool)):
        return ["true"]
    is_list = LIST_TYPE.search(type_name) and values and not values[0].startswith(("[", "{"))
    if len(values) < 2 and not is_list:
        return values
    is_text = any(name in type_name for name in ("str", "Path", "Literal", "Kind", "Mode"))
    return ["[" + ",".join(v if NUMBER.fullmatch(v) and not is_text else json.dumps(v) for v in values) + "]"]


def check_option_names(function: Any, words: Sequence[str]) -> None:
    """Check the names of options, encoders and methods.

    Raises:
        MedsslError: One does not exist; the message has the nearest names.
    """
    names = [dashed(name) for name in option_types(function)]
    for i, word in enumerate(words):
        if not word.startswith("--") or word in HELP:
            continue
        option = word[2:].partition("=")[0].replace("-", "_")
        head, _, inner = option.partition(".")
        if dashed(head) not in (*names, *ALWAYS):
            if head == "recipe":
                raise MedsslError(f"--{option} was renamed: use --{dashed(inner)}")
            raise MedsslError(f"there is no option --{word[2:].partition('=')[0]}{nearest(dashed(head), names, '--')}")
        if inner:
            _check_argument(head, inner, words)
        _check_class_names(option, _values_of(words[i + 1 :]))


def _check_class_names(option: str, values: Sequence[str]) -> None:
    nested = {"method.parts": METHODS, "encoder.encoder": ENCODERS}
    registry = nested[option] if option in nested else CLASS_OPTIONS.get(option)
    for value in values if registry and values != AUTO else []:
        is_name = re.fullmatch(r"\w+", value) is not None
        if is_name and value not in (*registry.names(), "null"):  # type: ignore[union-attr]
            raise MedsslError(
                f"there is no {option} {value!r}{nearest(value, registry.names())}; a class of your own needs its path, as "  # type: ignore[union-attr]
                f"mypackage.{value}"
            )


def _check_argument(head: str, inner: str, words: Sequence[str]) -> None:
    """Raise MedsslError for `--method.temprature`, with the nearest argument of the class that --method names."""
    registry = CLASS_OPTIONS.get(head)
    chosen = words[words.index(f"--{head}") + 1] if f"--{head}" in words[:-1] else ""
    if registry is None or inner == "help" or chosen not in registry.names():
        return
    known = [
        name for name in inspect.signature(registry.load(chosen)).parameters if name != "encoder" or head != "method"
    ]
    if inner.partition(".")[0] not in known:
        raise MedsslError(f"{chosen} has no option --{head}.{inner}{nearest(inner, known)}")


def _import_named_classes(words: Sequence[str]) -> None:
    """Import the encoders and methods that the command line names, or all of them for --help, which lists them.

    jsonargparse finds a class by its bare name only after its file is imported. Importing all of them takes a fraction of
    a second, since the command's own function has imported torch already.
    """
    named = set(re.findall(r"\w+", " ".join(words)))
    for registry in (ENCODERS, METHODS):
        for name in registry.names():
            if name in named or not named.isdisjoint(("h", "help")):
                registry.load(name)
