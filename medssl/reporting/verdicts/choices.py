"""Decisions on a list of scans to label: accept, skip or defer, with a class; undone one after the other.

save(engine, Choice("Ann", "9c41", "finding", "4f1c", "p1", "accept", "cyst"))
latest(choices(engine, "9c41", "finding"))     # scan -> the decision that counts: the last one of any reader
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, select

from medssl.reporting.verdicts.database import transaction
from medssl.reporting.verdicts.schema import ChoiceRow

DECISIONS = ("accept", "skip", "defer")


@dataclass(frozen=True)
class Choice:
    """A decision about a scan.

    Attributes:
        reader: Who.
        list_id: Which list of scans, by its content.
        label: The label that is to be completed.
        scan: Id of the scan.
        patient: Pseudonym of its patient.
        decision: One of `DECISIONS`.
        value: The class; None where none was given.
        at: When, in UTC; None before it is saved.
        undone_at: When it was undone.
    """

    reader: str
    list_id: str
    label: str
    scan: str
    patient: str
    decision: str
    value: str | None = None
    at: datetime | None = None
    undone_at: datetime | None = None


def save(engine: Engine, choice: Choice) -> None:
    """Add a decision."""
    about = {name: value for name, value in choice.__dict__.items() if name not in ("at", "undone_at")}
    with transaction(engine) as session:
        session.add(ChoiceRow(**about, at=datetime.now(UTC)))


def undo(engine: Engine, reader: str, list_id: str, label: str) -> Choice | None:
    """Mark the last decision of a reader about a list as undone and return it; None where there is none left."""
    last = (
        select(ChoiceRow)
        .where(ChoiceRow.reader == reader, ChoiceRow.list_id == list_id, ChoiceRow.label == label)
        .where(ChoiceRow.undone_at.is_(None))
        .order_by(ChoiceRow.id.desc())
        .limit(1)
        .with_for_update()
    )
    with transaction(engine) as session:
        row = session.scalars(last).first()
        if row is None:
            return None
        row.undone_at = datetime.now(UTC)
        return _choice(row)


def choices(engine: Engine, list_id: str, label: str) -> list[Choice]:
    """All decisions about a list and a label in the order in which they were saved, the undone ones too."""
    wanted = select(ChoiceRow).where(ChoiceRow.list_id == list_id, ChoiceRow.label == label).order_by(ChoiceRow.id)
    with transaction(engine) as session:
        return [_choice(row) for row in session.scalars(wanted)]


def latest(all_choices: Sequence[Choice]) -> dict[str, Choice]:
    """Return scan -> the last decision that was not undone, whoever took it."""
    return {choice.scan: choice for choice in all_choices if choice.undone_at is None}


def _choice(row: ChoiceRow) -> Choice:
    return Choice(
        row.reader,
        row.list_id,
        row.label,
        row.scan,
        row.patient,
        row.decision,
        row.value,
        row.at,
        row.undone_at,
    )
