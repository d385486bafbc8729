"""Messages of the command line: errors of the argument parser in plain English, tracebacks without private text."""

from __future__ import annotations

import re
import traceback
import typing
from pathlib import Path
from typing import Any

from medssl.core.errors import MedsslError, nearest

EXAMPLES = {"spacing_mm": "1 1 1", "size": "224 224", "crop": "32 32 32"}
KINDS = {
    "tuple[int": "whole numbers",
    "tuple[float": "numbers",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
}


def dashed(name: str) -> str:
    """`batch_size` -> `batch-size`; the underscore after a word of Python's own, as in `as_`, is left out."""
    return name.removesuffix("_").replace("_", "-")


def root_cause(error: BaseException) -> BaseException:
    """The error at the end of the chain of causes."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or typing.cast(BaseException, error.__context__)
    return error


def readable_error(message: str, parser: Any) -> str:
    """An error of jsonargparse in the form of all messages: what came in, what was expected, what to do."""
    for explain in (_unknown_option, _missing_module, _wrong_value, _missing_option):
        if (explanation := explain(message, parser)) is not None:
            return explanation
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:3])


def _unknown_option(message: str, parser: Any) -> str | None:
    match = re.search(r"[Uu]nrecognized arguments: --([\w.-]+)|Key '([\w.-]+)' is not expected", message)
    if match is None:
        return None
    option = match[1] or match[2]
    options = {o.lstrip("-") for action in parser._actions for o in action.option_strings if o.startswith("--")}
    of_the_class = sorted(set(re.findall(r"--([\w.]+)", message)) - {option})
    return f"there is no option --{option}{nearest(option, of_the_class or sorted(options))}"


def _missing_module(message: str, parser: Any) -> str | None:
    match = re.search(r"No module named '([\w.]+)'", message)
    if match is None:
        return None
    return (
        f"there is no module {match[1]}: expected {match[1]}.py in this folder, or an installed package; check the name, or "
        f"change to the folder of the file"
    )


def _wrong_value(message: str, parser: Any) -> str | None:
    match = re.search(r'Parser key "([\w.]+)":', message)
    if match is None:
        return None
    option = f"--{dashed(match[1])}"
    value = re.search(r"Got value: (.+)", message)
    kind = next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == match[1]), None)
    expected = next((words for name, words in KINDS.items() if name in str(kind)), "another kind of value")
    if typing.get_origin(kind) is typing.Literal:
        expected = f"one of {', '.join(map(str, typing.get_args(kind)))}"
    example = EXAMPLES.get(match[1].partition(".")[0])
    hint = f", for example {option} {example}" if example else "; see --help"
    return f"{option} cannot be {value[1].strip() if value else 'read'}: expected {expected}{hint}"


def _missing_option(message: str, parser: Any) -> str | None:
    match = re.search(r"(?:required: |Key ')([\w, ]+)", message)
    if match is None or "required" not in message:
        return None
    return f"missing: {', '.join(f'--{dashed(name.strip())}' for name in match[1].split(','))}; see --help"


def traceback_without_texts(error: BaseException) -> str:
    """The traceback of an error and of its causes, without their messages, which may quote a header or a path."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [traceback_without_texts(cause), "which led to"] if cause else []
    for frame in traceback.extract_tb(error.__traceback__):
        module = "/".join(Path(frame.filename).parts[-2:])
        lines.append(f"  {module}:{frame.lineno} in {frame.name}: {frame.line}")
    text = f": {error}" if isinstance(error, MedsslError) else ""
    return "\n".join([*lines, f"{type(error).__name__}{text}"])
