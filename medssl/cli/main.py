"""The command line: each command is a function of medssl, its signature is its options.

    medssl COMMAND --help
    medssl pretrain --data CACHE --out runs/a --encoder ResNet --encoder.depth 10 --method SimCLR --steps 500

Exit codes: 0 done, 2 a problem that the message says how to mend, 3 done but some scans were rejected, 1 a fault of
medssl's own (run again with --debug for the traceback), 130 stopped by hand.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from medssl.core.atomic import FULL, told
from medssl.core.errors import MedsslError, Stopped, nearest
from medssl.core.registry import ENCODERS, METHODS
from medssl.core.resources import resource


@dataclass(frozen=True)
class Command:
    """Where a command's function lies, what it is for, and which of its parameters stand without a --name."""

    target: str
    help: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "demo": Command("medssl.cli.demo:demo", "the whole path on an embedded phantom cohort, ends with a report"),
    "index": Command(
        "medssl.datasets.index:index", "walk folders of scans into a manifest and a table of rejects", ("sources",)
    ),
    "prepare": Command(
        "medssl.preprocessing.cache:prepare", "orient, resample and cache the scans of a manifest", ("manifest",)
    ),
    "plan": Command(
        "medssl.preprocessing.plan:plan",
        "what prepare would make of a manifest, and why; writes nothing",
        ("manifest",),
    ),
    "views": Command("medssl.views.preview:preview", "pictures of what a recipe's views do to scans of a cache"),
    "pretrain": Command("medssl.training.pretrain:pretrain", "pretrain an encoder on scans without labels"),
    "study": Command("medssl.studies.study:study", "what the pretraining is worth: arms x label budgets x draws"),
    "compare": Command(
        "medssl.studies.compare:compare", "every method under one budget, probed frozen: which is worth it here?"
    ),
    "finetune": Command("medssl.training.finetune:finetune", "train one classifier or segmenter"),
    "predict": Command(
        "medssl.training.predict:predict", "masks on each scan's own grid, or class probabilities", ("run", "scans")
    ),
    "embed": Command("medssl.training.predict:embed", "feature vectors of scans", ("run", "scans")),
    "probe": Command(
        "medssl.studies.probe:probe",
        "frozen features against a random encoder: knn, clusters, anomaly, regression, ...",
        ("run",),
    ),
    "sample": Command("medssl.training.sample:sample", "new scans drawn from a VAE, marked as synthetic", ("run",)),
    "report": Command("medssl.reporting.html.report:report", "one self-contained HTML file about a study", ("runs",)),
    "review": Command(
        "medssl.reporting.dashboard.server:review",
        "the dashboard: curves, runs and cases on a page of this machine",
        ("runs",),
    ),
    "where": Command(
        "medssl.datasets.manifest:source_files",
        "which files a scan's pseudonym stands for (on the terminal only)",
        ("out", "scan"),
    ),
    "doctor": Command("medssl.cli.doctor:doctor", "what this machine has, what is missing, what to do"),
}
HELP = ("-h", "--help")
REGISTRIES = {"encoder": ENCODERS, "method": METHODS}
EXAMPLES = {"spacing_mm": "1 1 1", "size": "224 224", "crop": "32 32 32"}
LISTED = re.compile(r"(list|tuple|Sequence)\[")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class of your own lies in a file beside you; last, so that it hides nothing
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        return _run(words)
    except Stopped as error:
        return _told(str(error), 130, debug)
    except MedsslError as error:
        return _told(f"error: {error}", 2, debug)
    except KeyboardInterrupt:
        return _told("stopped", 130, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return _told(f"error: {told(error)}", 2, debug)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return _told(
            f"error: {type(error).__name__} in {place}, a fault of medssl's own; run again with --debug", 1, debug
        )


def _told(message: str, code: int, debug: bool) -> int:
    if debug:
        print("Traceback, without the texts of errors:", file=sys.stderr)
        print(_frames(typing.cast(BaseException, sys.exception())), file=sys.stderr)
    print(message, file=sys.stderr)
    return code


def _frames(error: BaseException) -> str:
    """A traceback of class names, files of code and lines, causes first: the text of an error may quote a header or a
    path, and a traceback is what people mail around."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [_frames(cause), "which led to"] if cause else []
    for frame in traceback.extract_tb(error.__traceback__):
        module = "/".join(Path(frame.filename).parts[-2:])
        lines.append(f"  {module}:{frame.lineno} in {frame.name}: {frame.line}")
    return "\n".join([*lines, f"{type(error).__name__}{f': {error}' if isinstance(error, MedsslError) else ''}"])


def _run(words: list[str]) -> int:
    if not words or words[0] in HELP:
        print(_overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"medssl {version('medssl')}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise MedsslError(f"there is no command {name!r}{nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    module, _, function_name = command.target.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    settings = _parse(name, command, function, rest)
    if settings is None:
        return 0
    return _show(name, function(**settings), settings)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    start = "medssl: self-supervised pretraining for medical scans, and an honest account of what it was worth\n"
    return "\n".join([start, "usage: medssl COMMAND [--help] [--debug] ...\n", *lines])


def _parse(name: str, command: Command, function: Any, words: list[str]) -> dict[str, Any] | None:
    """The function's arguments from the command line and --config files; None when help was shown."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self, *given: Any) -> str:
            return re.sub(r"--[a-z]\w*", lambda option: _dashed(option[0]), super().format_help(*given))

    parser = Parser(prog=f"medssl {name}", exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    groups = option_groups(function)
    parser.add_function_arguments(function, as_positional=False, fail_untyped=False, skip=set(groups))
    _explain(parser, function)
    for group in groups.values():
        group.add_to(parser)
    words = _recipes(_positionals(function, command.positional, words))
    if any(w in HELP for w in words):
        print(_usage(name, command), file=sys.stdout)
    _import_named_classes(words)
    _check_names(parser, function, words)
    if _dataclass_explained(function, words):
        return None
    try:
        parsed = parser.parse_args(_lists(function, words))
        built = parser.instantiate_classes(parsed)
    except SystemExit:
        return None
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, MedsslError):
            raise cause from error
        raise MedsslError(_plain(str(error), parser)) from error
    settings = {k: v for k, v in vars(built).items() if k != "config"}
    return settings | {name: group.take_from(settings) for name, group in groups.items()}


@dataclass(frozen=True)
class OptionGroup:
    """A parameter whose type is a dataclass: its fields are options of their own, without a prefix."""

    kind: type
    default: Any

    @property
    def prefix(self) -> str:
        return getattr(self.kind, "option_prefix", "")

    def types(self) -> dict[str, Any]:
        """The type of each option, by its name."""
        hints = typing.get_type_hints(self.kind)
        return {self.prefix + item.name: hints[item.name] for item in fields(typing.cast(Any, self.kind))}

    def add_to(self, parser: Any) -> None:
        from docstring_parser import parse

        explained = {p.arg_name: p.description for base in self.kind.__mro__ for p in parse(base.__doc__ or "").params}
        for option, hint in self.types().items():
            name = option.removeprefix(self.prefix)
            parser.add_argument(f"--{option}", type=hint, default=getattr(self.default, name), help=explained[name])

    def take_from(self, settings: dict[str, Any]) -> Any:
        """The dataclass, with its options taken out of the settings."""
        return self.kind(**{option.removeprefix(self.prefix): settings.pop(option) for option in self.types()})


def option_groups(function: Any) -> dict[str, OptionGroup]:
    """The parameters of a command whose type is a dataclass."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return {n: OptionGroup(hints[n], p.default) for n, p in parameters.items() if is_dataclass(hints.get(n))}


def option_types(function: Any) -> dict[str, str]:
    """The type of every option of a command as text, by its name in Python."""
    groups = option_groups(function)
    plain = {n: str(p.annotation) for n, p in inspect.signature(function).parameters.items() if n not in groups}
    return plain | {n: getattr(t, "__name__", str(t)) for g in groups.values() for n, t in g.types().items()}


def _dataclass_explained(function: Any, words: list[str]) -> bool:
    """`--recipe.help` lists the fields of the dataclass with their defaults; True when it did."""
    for word in words:
        head, _, inner = word.removeprefix("--").partition(".")
        hints = typing.get_type_hints(function).get(head)
        kind = next((k for k in typing.get_args(hints) if is_dataclass(k)), None)
        if inner == "help" and kind is not None:
            print(inspect.getdoc(kind), "\n")
            for item in fields(typing.cast(Any, kind)):
                print(f"  --{head}.{item.name} {item.default}")
            return True
    return False


def _explain(parser: Any, function: Any) -> None:
    """Give each option what the docstring says of its parameter: `name: text.` up to the next name."""
    text = " ".join((inspect.getdoc(function) or "").split())
    names = "|".join(inspect.signature(function).parameters)
    for action in parser._actions:
        said = re.search(
            rf"(?:[.;,]|^) (?:\w+, )*{action.dest}(?:, \w+)*: (.+?)(?=[.;] (?:\w+, )*(?:{names})(?:, \w+)*: | Raises | >>>|$)",
            text,
        )
        if said:
            action.help = said[1].rstrip(".")


def _recipes(words: list[str]) -> list[str]:
    """`--config hippocampus_simmim` names a recipe that medssl carries; `--config my.yaml` is a file."""
    carried = {path.stem: path for path in resource("configs").glob("*.yaml")}
    chosen = list(words)
    for i, (word, value) in enumerate(pairwise(words)):
        if word == "--config" and not Path(value).exists():
            if value not in carried:
                raise MedsslError(f"--config {value} is no file and no recipe of medssl's{nearest(value, carried)}")
            chosen[i + 1] = str(carried[value])
    return chosen


def _usage(name: str, command: Command) -> str:
    places = " ".join(p.upper() for p in command.positional)
    return (
        f"medssl {name} {places} [options]: {command.help}\n"
        if places
        else f"medssl {name} [options]: {command.help}\n"
    )


def _positionals(function: Any, names: Sequence[str], words: list[str]) -> list[str]:
    """`index A B --out M` -> `--sources A B --out M`: leading words without a -- belong to the positional parameters."""
    count = next((i for i, w in enumerate(words) if w.startswith("-")), len(words))
    leading, rest = words[:count], words[count:]
    if not names or not leading:
        if leading:
            raise MedsslError(f"{' '.join(leading)} stands without an option: expected --name value pairs; see --help")
        return words
    if len(names) == 1 and LISTED.search(str(inspect.signature(function).parameters[names[0]].annotation)):
        return [f"--{names[0]}", *leading, *rest]
    if len(leading) > len(names):
        raise MedsslError(
            f"{len(leading)} words came before the options: expected {', '.join(n.upper() for n in names)}"
        )
    return [w for n, v in zip(names, leading) for w in (f"--{n}", v)] + rest


def _lists(function: Any, words: list[str]) -> list[str]:
    """`--crop 32 32 32` -> `--crop [32,32,32]`, as jsonargparse wants its lists."""
    types, result, i = option_types(function), [], 0
    words = [part for w in words for part in (w.split("=", 1) if re.match("--(?!print)", w) else [w])]
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--") or "=" in word:
            result.append(word.replace("--print-config", "--print_config"))
            continue
        values = []
        while i < len(words) and not re.match(r"--[A-Za-z]", words[i]):
            values.append(words[i])
            i += 1
        option = word[2:].replace("-", "_")
        kind = types.get(option, "")
        if not values and kind == "bool":
            values = ["true"]
        listed = LISTED.search(kind) and not (values and values[0].startswith("["))
        if len(values) > 1 or (values and listed):
            text = "str" in kind or "Path" in kind or "Mode" in kind
            values = ["[" + ",".join(json.dumps(v) if text or not _is_number(v) else v for v in values) + "]"]
        result += [f"--{option}", *values]
    return result


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None


def _check_names(parser: Any, function: Any, words: list[str]) -> None:
    """A misspelt option, method or encoder is answered with the nearest names there are."""
    names = [_dashed(n) for n in option_types(function)]
    for word, value in zip(words, [*words[1:], ""]):
        if not word.startswith("--") or word in HELP:
            continue
        option = word[2:].partition("=")[0].replace("-", "_")
        head = option.partition(".")[0]
        if _dashed(head) not in (*names, "config", "print-config", "help"):
            guess = nearest(_dashed(head), names, "--")
            raise MedsslError(f"there is no option --{word[2:].partition('=')[0]}{guess}")
        if "." in option:
            _check_inner(function, option, words)
        known = _classes_of(head)
        several = _classes_of("method" if option == "method.parts" else head.removesuffix("s"))
        if option in ("method.parts", "methods", "encoders") and (
            wrong := _unknown_part(words[words.index(word) + 1 :], several)
        ):
            raise MedsslError(f"there is no {option} {wrong!r}{nearest(wrong, several)}")
        if known and "." not in option and value and "." not in value and value not in known and value != "null":
            raise MedsslError(
                f"there is no {head} {value!r}{nearest(value, known)}; or give the class path of your own, as mypackage.{value}"
            )


def _unknown_part(words: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of `SimMIM Rotation ...` that is no method's name, nor a class path or JSON of one."""
    parts = takewhile(lambda w: not w.startswith("--"), words)
    return next((w for w in parts if re.fullmatch(r"\w+", w) and w not in known), None)


def _check_inner(function: Any, option: str, words: list[str]) -> None:
    """`--method.temprature`: the nearest parameter of the class named by --method (or of the dataclass an option is)."""
    head, _, inner = option.partition(".")
    chosen = next((v for w, v in pairwise(words) if w == f"--{head}"), "")
    if head in ("encoder", "method") and chosen in _classes_of(head):
        kind = getattr(importlib.import_module(f"medssl.{head}s"), chosen)
    else:
        kind = next((k for k in typing.get_args(typing.get_type_hints(function).get(head)) if is_dataclass(k)), None)
    if kind is None:
        return
    known = [n for n in inspect.signature(kind).parameters if head != "method" or n != "encoder"]
    if inner == "help":
        return
    if inner.partition(".")[0] not in known:
        raise MedsslError(f"{kind.__name__} has no option --{head}.{inner}{nearest(inner, known)}")


def _classes_of(option: str) -> list[str]:
    return list(REGISTRIES[option].names()) if option in REGISTRIES else []


def _import_named_classes(words: Sequence[str]) -> None:
    """Import the files of the encoders and methods that the command line or its YAML files name; for --help, of all.

    jsonargparse finds a class by its bare name only if its file has been imported.
    """
    values = [word.rpartition("=")[2] for word in words]
    files = [Path(value) for value in values if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()]
    named = set(re.findall(r"\w+", " ".join([*words, *(file.read_text() for file in files)])))
    for registry in REGISTRIES.values():
        for name in registry.names():
            if name in named or not named.isdisjoint(("h", "help")):
                registry.load(name)


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or typing.cast(BaseException, error.__context__)
    return error


def _plain(message: str, parser: Any) -> str:
    """jsonargparse's message without its frames, with the nearest option where one is unknown."""
    known = sorted({o.lstrip("-") for action in parser._actions for o in action.option_strings if o.startswith("--")})
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.-]+)", message) or re.search(
        r"Key '([\w.-]+)' is not expected", message
    )
    if unknown:
        word = unknown[1]
        inner = sorted(set(re.findall(r"--([\w.]+)", message)) - {word})
        return f"there is no option --{word}{nearest(word, inner or known)}"
    absent = re.search(r"No module named '([\w.]+)'", message)
    if absent:
        return f"there is no module {absent[1]}: expected {absent[1]}.py in this folder, or a package that is installed"
    value = re.search(r'Parser key "([\w.]+)":', message)
    if value:
        given = re.search(r"Got value: (.+)", message)
        example = EXAMPLES.get(value[1].partition(".")[0], "")
        kind = next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == value[1]), None)
        wanted = f"expected {_kind_name(kind)}" + (f", for example --{_dashed(value[1])} {example}" if example else "")
        return f"--{_dashed(value[1])} cannot be {given[1].strip() if given else 'read'}: {wanted}"
    needed = re.search(r"(?:required: |Key ')([\w, ]+)", message)
    if needed and "required" in message:
        return f"missing: {', '.join(f'--{_dashed(n.strip())}' for n in needed[1].split(','))}; see --help"
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:3])


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _kind_name(kind: Any) -> str:
    """A type as a person would say it."""
    text = str(kind)
    for sign, said in (
        ("tuple[int", "whole numbers"),
        ("tuple[float", "numbers"),
        ("bool", "true or false"),
        ("float", "a number"),
        ("int", "a whole number"),
    ):
        if sign in text:
            return said
    return "another kind of value"


def _show(name: str, result: Any, settings: dict[str, Any]) -> int:
    """Print what a command returned; 3 when scans were rejected."""
    from medssl.cli import terminal as show

    return show.result(name, result, settings)


if __name__ == "__main__":
    sys.exit(main())
