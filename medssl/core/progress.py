"""What a person at the terminal, or in a cluster's log, sees of work that takes a while.

    for scan in track(scans, "masks"): ...
    with ProgressBar() as bar: task = bar.add_task("cells", total=40); bar.update(task, completed=3)
    format_duration(75)                     # "1 min 15 s"
    console.print("measuring the time of a step ...")

All of it goes to standard error, so that what a command prints can be piped. Messages hold no path and no patient's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich import progress
from rich.console import Console
from rich.text import Text

from medssl.core.errors import visible

T = TypeVar("T")


class PlainConsole(Console):
    """A console that shows each text as it is: a name in brackets is no markup, a control character is spelled out."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


console = PlainConsole(stderr=True)


class ProgressBar(progress.Progress):
    """A bar with the count, the time taken and the time left.

    Where no bar can move, as in a cluster's log, it prints a line at every tenth of the work.
    """

    def __init__(self, console: Console = console):
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, speed_estimate_period=24 * 3600)

    def update(self, task_id: progress.TaskID, **changes: Any) -> None:
        task = self.tasks[self.task_ids.index(task_id)]
        tenths_before = int(task.percentage / 10)
        super().update(task_id, **changes)
        if not self.console.is_terminal and not task.finished and int(task.percentage / 10) > tenths_before:
            left = "" if task.time_remaining is None else f", about {format_duration(task.time_remaining)} to go"
            self.console.print(
                f"{task.description}: {task.completed:.0f} of {task.total:.0f} after "
                f"{format_duration(task.elapsed or 0)}{left}"
            )


def track(items: Iterable[T], title: str, total: float | None = None) -> Iterator[T]:
    """The items one by one, with a bar that goes away at the end; without one where it could not move."""
    yield from progress.track(items, title, total, console=console, transient=True, disable=not console.is_terminal)


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> format_duration(75)
    '1 min 15 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
