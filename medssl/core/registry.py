"""Classes by their names: encoders, methods, views and datasets.

    ENCODERS.names()          # ("ResNet", "ResidualUNet", "ViT"), read from the text of the files
    ENCODERS.load("ViT")      # imports medssl.encoders.vit alone

A class is registered by being in a file of its room, with a public name, if it derives from the room's base class and
defines every abstract method. So a new class needs one file and no list.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.errors import MedsslError, nearest

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Registry:
    """The registered classes of one room.

    Attributes:
        room: Folder of the package, such as "encoders" or "studies/selection".
        base: Name of the base class, which is in the room's `base.py`, such as "Encoder".
    """

    room: str
    base: str

    @property
    def package(self) -> str:
        """The room as Python imports it, such as "medssl.encoders"."""
        return f"medssl.{self.room.replace('/', '.')}"

    def names(self) -> tuple[str, ...]:
        """The names of all classes, sorted; no file is imported."""
        return tuple(sorted(_modules(self)))

    def load(self, name: str) -> type:
        """The class called `name`; its file is imported.

        Raises:
            MedsslError: There is no such class; the message has the nearest names.
        """
        modules = _modules(self)
        if name not in modules:
            raise MedsslError(f"there is no {self.base.lower()} {name!r}{nearest(name, modules)}")
        cls = getattr(importlib.import_module(modules[name]), name)
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        if not (inspect.isclass(cls) and issubclass(cls, base)) or inspect.isabstract(cls):
            raise MedsslError(
                f"{modules[name]}.{name} cannot be built: expected a subclass of {self.base} that defines all abstract "
                f"methods; define them"
            )
        return cls

    def classes(self) -> dict[str, type]:
        """All classes by name; every file is imported."""
        return {name: self.load(name) for name in self.names()}

    def files(self) -> dict[str, str]:
        """The names of the classes by the names of their files; no file is imported."""
        return {
            module.rpartition(".")[2]: name for name, module in sorted(_modules(self).items(), key=lambda item: item[1])
        }

    def attribute(self, name: str) -> Any:
        """What a package's `__getattr__` returns for `name`.

        Raises:
            AttributeError: There is no such class.
        """
        if name not in _modules(self):
            raise AttributeError(f"module {self.package!r} has no attribute {name!r}")
        return self.load(name)


ENCODERS = Registry("encoders", "Encoder")
METHODS = Registry("methods", "Method")
VIEWS = Registry("views", "View")
DATASETS = Registry("datasets", "Dataset")
SELECTORS = Registry("studies/selection", "Selector")
SEMI_SUPERVISED = Registry("training/semi_supervised", "SemiSupervised")
TARGETS = Registry("exports/targets", "Target")
WEIGHTS = Registry("weights/sources", "Source")
ALL = (ENCODERS, METHODS, VIEWS)  # a record may name the classes of these


def is_in_registered_room(module: str) -> bool:
    """Whether a module, such as "medssl.encoders.vit", is a file of one of the rooms in `ALL`."""
    return module.rpartition(".")[0] in {registry.package for registry in ALL}


def is_registered(name: str) -> bool:
    """Whether an encoder, method or view is called `name`."""
    return any(name in registry.names() for registry in ALL)


def find(name: str) -> type:
    """The encoder, method or view called `name`, which a record names.

    Raises:
        MedsslError: There is no such class; the message has the nearest names.
    """
    for registry in ALL:
        if name in registry.names():
            return registry.load(name)
    known = [other for registry in ALL for other in registry.names()]
    raise MedsslError(
        f"the record names {name!r}, which is not an encoder, method or view of medssl{nearest(name, known)}"
    )


@dataclass(frozen=True)
class _Source:
    """A class as the text of its file shows it."""

    module: str
    bases: tuple[str, ...]
    defines: frozenset[str]
    abstract: frozenset[str]


@functools.cache
def _modules(registry: Registry) -> dict[str, str]:
    """Class name -> module, for the registered classes."""
    folder = PACKAGE / registry.room
    classes: dict[str, _Source] = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(("medssl", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, _source(module, node))
    return {name: source.module for name, source in classes.items() if _qualifies(name, registry, classes)}


def _source(module: str, node: ast.ClassDef) -> _Source:
    bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    abstract = {m.name for m in methods if any("abstractmethod" in ast.unparse(d) for d in m.decorator_list)}
    targets = [target for item in node.body if isinstance(item, ast.Assign) for target in item.targets]
    assigned = {target.id for target in targets if isinstance(target, ast.Name)}
    return _Source(module, bases, frozenset(({m.name for m in methods} | assigned) - abstract), frozenset(abstract))


def _with_ancestors(name: str, classes: dict[str, _Source]) -> set[str]:
    """The class and its bases, as far as the files of the room show them."""
    bases = classes[name].bases if name in classes else ()
    return {name}.union(*(_with_ancestors(base, classes) for base in bases))


def _qualifies(name: str, registry: Registry, classes: dict[str, _Source]) -> bool:
    ancestors = _with_ancestors(name, classes)
    sources = [classes[ancestor] for ancestor in ancestors if ancestor in classes]
    undefined = set().union(*(s.abstract for s in sources)) - set().union(*(s.defines for s in sources))
    public = not name.startswith("_") and classes[name].module.rpartition(".")[0] == registry.package
    return public and registry.base in ancestors and not undefined
