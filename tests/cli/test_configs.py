"""Every config parses against the signature of its command, and the lock files pin what the package needs."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from medssl.cli.arguments import parse_arguments
from medssl.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_parses_for_the_command_on_its_second_line(path: Path) -> None:
    stated = re.search(r"# medssl (\w+) --config configs/(\S+)", path.read_text())
    assert stated, "the second line of a config is the command that runs it"
    assert stated[2] == path.name
    function = COMMANDS[stated[1]].load()
    words = ["--config", str(path), "--data", "cache", "--out", "out"]
    settings = parse_arguments(function, "medssl", words=words)
    assert settings is not None
    if stated[1] == "pretrain":
        assert settings["encoder"].dims == len(settings["crop"])
        settings["method"](settings["encoder"]).check(settings["crop"], settings["train"].batch_size)


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


def test_the_image_is_pinned_to_the_same_versions_without_the_tools_of_the_tests() -> None:
    pins = {name: (ROOT / "docker" / f"{name}.lock").read_text() for name in ("requirements", "image")}
    tested, shipped = (set(re.findall(r"^([^ ]+)==(\S+)", text, re.M)) for text in pins.values())
    assert shipped <= tested
    assert {"medssl", "pytest", "playwright", "simpleitk", "mypy", "ruff"} & {name for name, _ in shipped} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for group in ("app", "cluster", "text", "build") for d in project["optional-dependencies"][group]]
    needed = {re.match(r"[A-Za-z0-9_.-]+", d)[0].lower() for d in [*project["dependencies"], *extras]}
    assert needed <= {name for name, _ in shipped}
    assert "://" not in pins["image"]
    assert "--index" not in pins["image"]


def test_the_services_are_closed_and_the_dashboard_is_seen_from_the_host_alone() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert services["train"]["network_mode"] == "none"
    assert services["train"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert "ports" not in services["train"]
    assert all(port.startswith("127.0.0.1:") for port in services["dashboard"]["ports"])
    assert all(volume.endswith(":ro") for volume in services["dashboard"]["volumes"])
