"""Progress on a terminal and in a log, and durations in words."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from medssl.core.progress import PlainConsole, ProgressBar, format_duration, track


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


def test_names_from_data_are_shown_as_they_are_and_control_characters_spelled_out() -> None:
    hostile = "[link=http://foreign.example]x[/link] [/] :smile: \x1b[2J\x1b]8;;http://foreign.example\x07y\rz\u202e"
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=400)
    for shown in (hostile, table):
        console.print(shown)
    written = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # colours
    assert written.count("[/link] [/] :smile:") == 4
    assert not re.search(r"[\x1b\x07\r\u202e]", written)
