"""Progress on a terminal and in a log, and durations in words."""

import io

import pytest
from rich.console import Console

from medssl.core.progress import ProgressBar, format_duration, track


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3720, "1 h 2 min")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("terminal", "expected_lines"), [(False, 9), (True, 0)])
def test_a_log_gets_a_line_every_tenth_and_a_terminal_a_bar(terminal: bool, expected_lines: int) -> None:
    output = io.StringIO()
    with ProgressBar(Console(file=output, force_terminal=terminal, width=100)) as bar:
        task = bar.add_task("loss", total=40)
        for step in range(41):
            bar.update(task, completed=step, description=f"loss {step}")
    lines = [line for line in output.getvalue().splitlines() if " of 40 after " in line]
    assert len(lines) == expected_lines
    assert terminal or lines[4].startswith("loss 20: 20 of 40 after 0 s")


def test_tracking_takes_items_one_by_one_and_leaves_standard_output_alone(capfd: pytest.CaptureFixture[str]) -> None:
    taken = []
    tracked = track((taken.append(n) or n for n in range(3)), "numbers")
    assert next(tracked) == 0
    assert taken == [0]
    assert list(tracked) == [1, 2]
    assert capfd.readouterr().out == ""
