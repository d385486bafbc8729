"""The documentation: the site builds without a warning or an outside request, and every tutorial runs as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medssl.cli.arguments import parse_arguments
from medssl.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "medssl" / "docs"
PAGES = [ROOT / "README.md", *sorted((SITE / "pages").rglob("*.md"))]
TUTORIALS = sorted((SITE / "pages" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(language or "", file name or "", text) of each fenced block of a page."""
    yield from BLOCK.findall(page.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "tutorial"}
    ran = 0
    for language, name, text in blocks(page):
        if name:
            Path(name).write_text(text)
        elif language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language == "console":
            for line in text.splitlines():
                command, *words = shlex.split(line)
                assert command == "medssl", f"{line!r}: expected a medssl command in a console block"
                assert main(words) == 0, line
        ran += language != ""
    assert ran >= 3


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each medssl command in the fenced blocks of a page that name no language."""
    for language, _, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if not language else ():
            if line.startswith("medssl "):
                yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.stem)
def test_every_command_of_a_page_has_options_that_exist(page: Path) -> None:
    for name, *words in commands(page):
        command = COMMANDS[name]
        assert parse_arguments(command.load(), f"medssl {name}", command.help, command.positional, words)


def test_the_start_page_lists_every_command() -> None:
    assert set(re.findall(r"`medssl (\w+)`", (SITE / "pages" / "index.md").read_text())) == set(COMMANDS)


def test_every_tutorial_is_found() -> None:
    assert [page.stem for page in TUTORIALS] == [
        "classification_2d",
        "hospital_machine",
        "own_method",
        "segmentation_3d",
    ]


def test_the_site_builds_without_warnings_and_asks_no_other_machine(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(SITE / "mkdocs.yml"), "-d", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for page in tmp_path.rglob("*.html"):
        loads = re.findall(
            r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]+)|<link[^>]*\shref="(https?:[^"]+)', page.read_text()
        )
        assert not loads, f"{page.name} loads {loads[0]}"
    pages = {path.relative_to(SITE / "pages").with_suffix(".html") for path in (SITE / "pages").rglob("*.md")}
    assert all((tmp_path / page).exists() for page in pages)
