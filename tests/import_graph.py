"""The import graph of a package, read from its files: boxes, arrows, arrows upward, circles.

    python -m tests.import_graph                      # of medssl as it stands
    python -m tests.import_graph /some/tree/medssl    # of another tree, for example one of git worktree's

A box is a folder, or a file that lies directly in the package. An arrow leads from a box to one it imports from. It is
upward where the other box comes later in the reading order that the package's docstring lists. A circle is a group of
files, or of boxes, that import each other, also by imports inside functions.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import networkx

PACKAGE = Path(__file__).resolve().parents[1] / "medssl"


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a folder's `__init__.py` has the folder's name."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(package: Path) -> networkx.DiGraph:
    """A node for each file, an edge from each file to every file of the package that it imports, wherever the import stands."""
    files = modules(package)
    graph = networkx.DiGraph()
    graph.add_nodes_from(files)
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            for target in _targets(node, name, path, package.name):
                module = _longest(target, files)
                if module not in (None, name):
                    graph.add_edge(name, module)
    return graph


def _targets(node: ast.AST, name: str, path: Path, package: str) -> list[str]:
    """The dotted names below the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        own = [package, *(part for part in name.split(".") if part)]
        inside = own if path.name == "__init__.py" else own[:-1]
        base = [*inside[: len(inside) - node.level + 1]] if node.level else []
        stem = ".".join([*base, *([node.module] if node.module else [])])
        names = [f"{stem}.{alias.name}" for alias in node.names]
    else:
        return []
    return [target.removeprefix(f"{package}.") for target in names if target.startswith(f"{package}.")]


def _longest(target: str, files: dict[str, Path]) -> str | None:
    """The file that a dotted name leads to: the longest part of it that is a file."""
    while target and target not in files:
        target = target.rpartition(".")[0]
    return target or None


def boxes(graph: networkx.DiGraph, depth: int = 1, within: str = "") -> networkx.DiGraph:
    """The graph with its files merged into the boxes of one folder (of the whole package by default)."""
    prefix = f"{within}." if within else ""
    nodes = [node for node in graph if node.startswith(prefix) and node not in ("", within)]
    merged = networkx.DiGraph()
    merged.add_nodes_from(_box(node, prefix, depth) for node in nodes)
    for a, b in graph.subgraph(nodes).edges:
        if _box(a, prefix, depth) != _box(b, prefix, depth):
            merged.add_edge(_box(a, prefix, depth), _box(b, prefix, depth))
    return merged


def _box(node: str, prefix: str, depth: int) -> str:
    return ".".join(node.removeprefix(prefix).split(".")[:depth])


def reading_order(package: Path) -> list[str]:
    """The boxes in the order in which the package's docstring lists them."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or ""
    return re.findall(r"^ {4}(\w+\*?)(?:/|\.py)\s", text, re.MULTILINE)


def upward(graph: networkx.DiGraph, order: list[str]) -> list[tuple[str, str]]:
    """The arrows between boxes that lead to a box which comes later, or that the order does not list."""

    def place(box: str, unlisted: int) -> int:
        return next((number for number, name in enumerate(order) if fnmatch(box, name)), unlisted)

    return [(a, b) for a, b in boxes(graph).edges if place(b, len(order)) > place(a, -1)]


def circles(graph: networkx.DiGraph) -> list[list[str]]:
    """Groups of files, and of boxes at any depth, that import each other."""
    folders = sorted({node.rpartition(".")[0] for node in graph})
    graphs = [graph, *(boxes(graph, within=folder) for folder in folders)]
    return [sorted(group) for one in graphs for group in networkx.strongly_connected_components(one) if len(group) > 1]


def counts(package: Path) -> dict[str, int]:
    graph = imports(package)
    rooms = boxes(graph)
    return {
        "files": len(modules(package)),
        "boxes": len(rooms),
        "arrows": rooms.number_of_edges(),
        "upward": len(upward(graph, reading_order(package))),
        "circles": len(circles(graph)),
    }


if __name__ == "__main__":
    print(json.dumps(counts(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)))
