"""YAML files of options: which file --config means, and which classes it may name.

    medssl pretrain --config hippocampus_simmim --data CACHE --out runs/a      # a config that medssl carries
    medssl pretrain --config mine.yaml --method mypackage.Mine --data CACHE --out runs/a

A file from somebody else must not run code. It may name the encoders and methods of medssl, and any class that the
command line names too; no other class is imported.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medssl.core.errors import MedsslError, nearest
from medssl.core.registry import Registry
from medssl.core.resources import resource

MOST_BYTES, MOST_LEVELS = 2**20, 30  # of a file of options
PLAIN = (str, int, float, bool, type(None), Path)


def resolve_configs(function: Any, words: Sequence[str], class_options: Mapping[str, Registry]) -> list[str]:
    """Find and check the files after --config, and import the classes that they name.

    Args:
        function: The command's function.
        words: The words after the command.
        class_options: The options that take a class, each with the registry of its classes.

    Returns:
        The words with the path of a file after every --config.

    Raises:
        MedsslError: There is no such file, it cannot be read, or it names a class that it must not name.
    """
    resolved = list(words)
    for i, word in enumerate(words):
        if word == "--config":
            path = _find(words[i + 1] if i + 1 < len(words) else "")
            resolved[i + 1] = str(path)
            _Check(path.name, function, typed_classes(words, class_options), class_options).check_file(_load(path))
    return resolved


def typed_classes(words: Sequence[str], class_options: Collection[str]) -> frozenset[str]:
    """The values of the options that take a class: what the command line itself names, and nothing else is imported.

    >>> sorted(typed_classes(["--method", "mine.A", "--data", "mine.B", "--method.parts", "mine.C", "MAE"], ["method"]))
    ['MAE', 'mine.A', 'mine.C']
    """
    typed, takes_class = set(), False
    for word in words:
        if word.startswith("--"):
            name, _, argument = word[2:].partition(".")
            takes_class = name in class_options and argument in ("", "help", "parts", "encoder")
        elif takes_class:
            typed.add(word)
    return frozenset(typed)


def _find(name: str) -> Path:
    """The file that --config names: `hippocampus_simmim` is a config that medssl carries, `mine.yaml` the user's own."""
    carried = {path.stem: path for path in resource("configs").glob("*.yaml")}
    if Path(name).is_file():
        return Path(name)
    if name not in carried:
        raise MedsslError(f"--config {name} is neither a file nor a config that medssl carries{nearest(name, carried)}")
    return carried[name]


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= MOST_BYTES else ""
        fault = _fault_of(text) if text or not path.stat().st_size else f"more than {MOST_BYTES} bytes"
        content = None if fault else yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MedsslError(f"--config {path.name} is not valid YAML: expected lines such as steps: 500") from error
    if fault:
        raise MedsslError(
            f"--config {path.name} has {fault}: expected each option once, such as steps: 500, with its value written out"
        )
    if not isinstance(content, dict):
        raise MedsslError(f"--config {path.name} holds no options: expected lines such as steps: 500")
    return content


def _fault_of(text: str) -> str:
    """What is wrong with the form of a YAML text, found before anything is built from it; empty where nothing is."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few lines of them can stand for billions of values
            return f"the alias *{event.anchor} in line {event.start_mark.line + 1}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            return f"values more than {MOST_LEVELS} levels deep in line {event.start_mark.line + 1}"
    return _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))


def _repeated_key(node: yaml.Node | None) -> str:
    """The first key that stands twice in one mapping, of which YAML would keep the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and seen.setdefault(key.value, line) != line:
                return f"the key {key.value} in line {seen[key.value]} and again in line {line}"
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
    inner = node.value if isinstance(node, yaml.SequenceNode) else inner
    return next((fault for part in inner if (fault := _repeated_key(part))), "")


@dataclass(frozen=True)
class _Check:
    """The check of one file against the signature of the command's function."""

    file: str
    function: Any
    typed: frozenset[str]  # the classes that the command line names; others outside medssl are refused
    class_options: Mapping[str, Registry]

    def check_file(self, content: dict[str, Any]) -> None:
        """Raise MedsslError for a key that is not an option, and for a class that the file must not name."""
        hints = typing.get_type_hints(self.function)
        for key, value in content.items():
            if key == "recipe" and key not in hints:
                raise MedsslError(
                    f"{self.file} has the key recipe, which is no longer used: expected its settings as options of their own; "
                    f"write {_as_lines(value)}"
                )
            if key == "config" or "." in str(key):
                raise MedsslError(
                    f"{self.file} has the key {key}: expected the name of one option; write arguments of a class below "
                    "class_path and init_args"
                )
            self.check(value, hints.get(key, str))

    def check(self, value: Any, hint: Any) -> None:
        """Raise MedsslError for a class in the value that the file must not name."""
        if isinstance(value, list):
            for item in value:
                self.check(item, hint)
        elif isinstance(value, dict):
            self._check_mapping(value, hint)
        elif isinstance(value, str) and ("class_path" in value or names_classes(hint)) and value not in literals(hint):
            self._resolve(value)

    def _check_mapping(self, value: dict[Any, Any], hint: Any) -> None:
        if "class_path" not in value:
            if names_classes(hint):
                raise MedsslError(
                    f"{self.file} describes a class by {', '.join(map(str, value))}: expected class_path and init_args"
                )
            for item in value.values():
                self.check(item, hint)
            return
        hints = typing.get_type_hints(self._resolve(str(value["class_path"])).__init__)
        for part, arguments in value.items():
            if part != "class_path":
                for name, item in arguments.items() if isinstance(arguments, dict) else ():
                    self.check(item, hints.get(name, Any))

    def _resolve(self, path: str) -> Any:
        """The class of medssl with this name or path, or the one that the command line names too."""
        for registry in self.class_options.values():
            package, _, name = path.rpartition(".")
            if name in registry.names() and package in ("", registry.package, registry.load(name).__module__):
                return registry.load(name)
        if path not in self.typed:
            known = [name for registry in self.class_options.values() for name in registry.names()]
            raise MedsslError(
                f"{self.file} names the class {path!r}: a file may name only the encoders and methods of medssl"
                f"{nearest(path, known)}. If the class is your own, name it on the command line too, as --method {path}"
            )
        return _import(path)


def _import(path: str) -> Any:
    import importlib

    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise MedsslError(
            f"there is no class {path}: expected one in this folder or in an installed package; check its name"
        ) from error


def literals(hint: Any) -> list[Any]:
    """The values that a type names one by one, such as "auto"."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [value for part in typing.get_args(hint) for value in (literals(part) if not isinstance(part, list) else ())]


def names_classes(hint: Any) -> bool:
    """Whether a value of this type is a class or a function, so that jsonargparse would import what a text names."""
    return any(part is not Any and part not in PLAIN and not is_dataclass(part) for part in _leaves(hint))


def _leaves(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of, without the containers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal or hint in (list, tuple, dict, Ellipsis):
        return
    if not arguments or "Callable" in str(origin):
        yield hint
        return
    for argument in arguments:
        yield from _leaves(argument)


def _as_lines(value: Any) -> str:
    return ", ".join(f"{name}: {item}" for name, item in value.items()) if isinstance(value, dict) else "steps: 500"
