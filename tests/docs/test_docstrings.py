"""What the reference pages show says what each parameter is: Google's Args section names exactly the parameters. Examples run.

The public interface is what `medssl/docs/pages/reference` lists: a module stands for its public functions and classes, and
for its submodules where the page shows them.
"""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import docstring_parser
import pytest

import medssl

PAGES = sorted((Path(__file__).resolve().parents[2] / "medssl" / "docs" / "pages" / "reference").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)(\n    options:\n      show_submodules: true)?", re.MULTILINE)
ROOMS = ("core", "scans", "datasets", "preprocessing", "views", "encoders", "methods", "evaluation", "exports")


def listed(page: Path) -> Iterator[Any]:
    """The modules, functions and classes that a reference page lists."""
    for name, with_submodules in ENTRY.findall(page.read_text()):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            room, _, attribute = name.rpartition(".")
            yield getattr(importlib.import_module(room), attribute)
            continue
        yield module
        for submodule in pkgutil.walk_packages(module.__path__, f"{name}.") if with_submodules else ():
            yield importlib.import_module(submodule.name)


def members(thing: Any) -> Iterator[Any]:
    """The public functions and classes that a module defines; a function or class stands for itself."""
    if not isinstance(thing, ModuleType):
        yield thing
        return
    for name, member in vars(thing).items():
        own = getattr(member, "__module__", None) == thing.__name__
        if own and not name.startswith("_") and (inspect.isclass(member) or inspect.isfunction(member)):
            yield member


def methods(cls: type) -> Iterator[Callable[..., Any]]:
    """The public methods of a class, without those that override one that medssl documents."""
    for name, member in vars(cls).items():
        method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("medssl.")]
        overrides = any(getattr(vars(base).get(name), "__doc__", None) for base in bases)
        if not name.startswith("_") and inspect.isfunction(method) and not overrides:
            yield method


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters, without self and cls."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def documented(thing: Any) -> list[str]:
    """The names in the Args section of a docstring, or in the Attributes section of a dataclass."""
    kind = "attribute" if dataclasses.is_dataclass(thing) else "param"
    parsed = docstring_parser.parse(inspect.getdoc(thing) or "", docstring_parser.DocstringStyle.GOOGLE)
    return [entry.arg_name.lstrip("*") for entry in parsed.params if entry.args[0] == kind]


def problems(member: Any) -> Iterator[str]:
    """What the docstrings of a function, or of a class and its methods, leave out."""
    name = f"{member.__module__}.{member.__qualname__}"
    if inspect.isfunction(member):
        wanted = parameters(member)
        if len(wanted) > 1 and documented(member) != wanted:
            yield f"{name} has the parameters {wanted}, its docstring {documented(member)}"
        return
    if "__init__" in vars(member) and not getattr(member, "_is_protocol", False):
        wanted = parameters(member.__init__)
        inherited = [entry for base in member.__mro__[1:] for entry in documented(base)]
        own = documented(member)
        if len(wanted) > 1 and own != [entry for entry in wanted if entry in own or entry not in inherited]:
            yield f"{name} has the parameters {wanted}, its docstring {own}"
    for method in methods(member):
        yield from problems(method)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_reference_says_what_each_parameter_is(page: Path) -> None:
    shown = [member for thing in listed(page) for member in members(thing)]
    assert shown
    assert [problem for member in shown for problem in problems(member)] == []


def test_every_room_has_a_reference() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [room for room in ROOMS if f"::: medssl.{room}" not in text] == []


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_example_in_a_docstring_gives_what_it_shows() -> None:
    names = [module.name for module in pkgutil.walk_packages(medssl.__path__, "medssl.")]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names if not name.endswith("__main__")}
    assert sum(result.attempted for result in results.values()) > 50
    assert [name for name, result in results.items() if result.failed] == []
