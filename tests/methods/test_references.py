"""No method without a reference for its loss: a new one fails here until a test compares it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.methods.learning import method_names
from tests.methods.references import FORMULAE, compare, rows


def test_every_method_has_a_reference() -> None:
    assert sorted(FORMULAE) == method_names()
    assert all(FORMULAE.values()), "a method without any part"


def test_a_deviation_is_refused_and_an_unknown_part_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.methods.references.MEASURED", {})
    compare("BYOL", "both ways", 1.0, 1.0 + 9e-6)
    compare("BYOL", "both ways", 100.0, 100.0009, relative=True)
    with pytest.raises(AssertionError, match="BYOL, both ways"):
        compare("BYOL", "both ways", 1.0, 1.0 + 2e-5)
    with pytest.raises(AssertionError, match="no 'one way'"):
        compare("BYOL", "one way", 1.0, 1.0)
    with pytest.raises(AssertionError):
        compare("BYOL", "both ways", float("nan"), 1.0)
    assert sum("not measured" in row for row in rows()) == sum(map(len, FORMULAE.values())) - 1


@pytest.mark.slow
def test_a_test_measures_every_part() -> None:
    """The command that prints the table ends well only if every comparison agrees and no part is without one."""
    command = [sys.executable, "-m", "tests.methods.references"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 1 + sum(map(len, FORMULAE.values()))
