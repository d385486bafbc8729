"""What `index` reports to the person at the terminal once its tables are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medssl.core.progress import console

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Notice:
    """A warning for the terminal: `text` holds counts only; `names` quote the user's own files and go nowhere else."""

    text: str
    names: tuple[str, ...] = ()
    names_shown: int = NAMES_SHOWN

    def __str__(self) -> str:
        shown = ", ".join(self.names[: self.names_shown]) + (", ..." if len(self.names) > self.names_shown else "")
        return f"{self.text}: {shown}" if self.names else self.text


def print_notices(notices: Iterable[Notice]) -> None:
    """Print each as a warning on stderr."""
    for notice in notices:
        console.print(f"warning: {notice}", highlight=False, soft_wrap=True)


def print_reports(reports: Sequence[str]) -> None:
    """Print reports, for review, on the terminal of `index` and nowhere else."""
    console.print(f"{len(reports)} reports as they are kept, those with the most words that may be names first:")
    for number, report in enumerate(reports, 1):
        console.print(f"{number:3d}  {report}", highlight=False, soft_wrap=True)
