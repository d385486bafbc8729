"""Every recipe parses against the signature of its command, and the pins cover what the package needs."""

import re
import tomllib
from pathlib import Path

import pytest

from medssl.cli import COMMANDS, _parse

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_recipe_parses_and_its_own_command_is_the_one_it_states(path: Path) -> None:
    import importlib

    stated = re.search(r"# medssl (\w+) --config configs/(\S+)", path.read_text())
    assert stated, "a recipe says on its second line how it is run"
    assert stated[2] == path.name
    command = COMMANDS[stated[1]]
    module, _, name = command.target.partition(":")
    function = getattr(importlib.import_module(module), name)
    settings = _parse(stated[1], command, function, ["--config", str(path), "--data", "cache", "--out", "out"])
    assert settings is not None
    if stated[1] == "pretrain":
        assert settings["encoder"].dims == len(settings["crop"])
        settings["method"](settings["encoder"]).check(settings["crop"], settings["batch_size"])


def test_every_dependency_is_pinned_with_a_hash_and_no_host_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for group in project["optional-dependencies"].values() for d in group]
    lock = (ROOT / "docker" / "requirements.lock").read_text()
    for dependency in [*project["dependencies"], *extras]:
        name = re.match(r"[A-Za-z0-9_.-]+", dependency)
        assert name
        assert re.search(rf"^{re.escape(name[0].lower())}==\S+.*\\\n\s+--hash=sha256:", lock, re.M), dependency
    assert "://" not in lock
    assert "--index" not in lock
