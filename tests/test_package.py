"""The public names, and the rule that reading order is import order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medssl

ROOT = Path(medssl.__file__).parent


def test_public_names_are_functions_whatever_was_imported_before() -> None:
    code = "import medssl, medssl.study, medssl.report; print([callable(getattr(medssl, n)) for n in medssl.__all__])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "False" not in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medssl.nothing


def test_every_file_imports_only_from_above_it_in_the_map() -> None:
    lines = [line.split()[0] for line in (medssl.__doc__ or "").splitlines() if line.startswith("    ")]
    order = {name.rstrip("/").removesuffix(".py").rstrip("*"): place for place, name in enumerate(lines)}
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        own = _place(path.relative_to(ROOT).with_suffix("").parts[0], order)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medssl."):
                other = _place((node.module or "").split(".")[1], order)
                if own is not None and (other is None or other > own):
                    wrong.append(f"{path.relative_to(ROOT)} imports {node.module}")
    assert not wrong


def _place(name: str, order: dict[str, int]) -> int | None:
    if name.startswith("_"):
        return -1
    return next(
        (
            place
            for known, place in order.items()
            if name == known or (name.startswith(known) and known in ("report", "review"))
        ),
        None,
    )
