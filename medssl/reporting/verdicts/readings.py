"""Readings of cases: saved as a whole, undone one after the other, read back with who said what when.

    save(engine, Reading("Ann", "study1", "4f1c", "p1", "5%", 0, a, b, (Answer("prefer", "A"), Answer("grade", "4", "A", 1))))
    undo(engine, "Ann", "study1")                  # the last one of this reader; it stays in the table, marked as undone
    latest(readings(engine, "study1"))             # of each reader and case, the one that counts

A reader who reads a case again adds a reading; the later one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import Engine, select

from medssl.reporting.verdicts.database import transaction
from medssl.reporting.verdicts.schema import AnswerRow, ReadingRow

COLUMNS = [
    *("at", "reader", "study", "budget", "draw", "scan", "patient", "question", "structure", "value"),
    *("side", "run", "arm", "mode", "run_a", "arm_a", "mode_a", "run_b", "arm_b", "mode_b", "counts", "undone_at"),
]


@dataclass(frozen=True)
class Side:
    """What stood on one side of the page: the run of a cell, its arm and its mode."""

    run: str
    arm: str
    mode: str


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: grade, fit, prefer, class or comment.
        value: What was said; of `prefer` A, B or equal.
        side: A or B; empty where it is about the case.
        structure: The structure of a mask; 0 where it is about all.
    """

    question: str
    value: str
    side: str = ""
    structure: int = 0


@dataclass(frozen=True)
class Reading:
    """One reading of a case.

    Attributes:
        reader: Who.
        study: Id of the study's run.
        scan: Id of the scan.
        patient: Pseudonym of its patient.
        budget: Label budget of the cells.
        draw: Their draw.
        a: What stood on side A.
        b: What stood on side B; None where there was one arm.
        answers: What was said.
        at: When, in UTC; None before it is saved.
        undone_at: When it was undone.
    """

    reader: str
    study: str
    scan: str
    patient: str
    budget: str
    draw: int
    a: Side
    b: Side | None
    answers: tuple[Answer, ...]
    at: datetime | None = None
    undone_at: datetime | None = None

    @property
    def pair(self) -> frozenset[str]:
        """The runs that were compared, whichever side each stood on."""
        return frozenset(side.run for side in (self.a, self.b) if side)

    def side(self, letter: str) -> Side | None:
        """What stood on a side; None where the answer is about the case."""
        return {"A": self.a, "B": self.b}.get(letter)


def save(engine: Engine, reading: Reading) -> None:
    """Add a reading with its answers, all of it or nothing."""
    answers = [AnswerRow(**answer.__dict__) for answer in reading.answers]
    row = ReadingRow(
        reader=reading.reader,
        at=datetime.now(UTC),
        study=reading.study,
        budget=reading.budget,
        draw=reading.draw,
        scan=reading.scan,
        patient=reading.patient,
        run_a=reading.a.run,
        arm_a=reading.a.arm,
        mode_a=reading.a.mode,
        run_b=reading.b.run if reading.b else None,
        arm_b=reading.b.arm if reading.b else None,
        mode_b=reading.b.mode if reading.b else None,
        answers=answers,
    )
    with transaction(engine) as session:
        session.add(row)


def undo(engine: Engine, reader: str, study: str) -> Reading | None:
    """Mark the last reading of a reader as undone and return it; None where there is none left."""
    last = (
        select(ReadingRow)
        .where(ReadingRow.reader == reader, ReadingRow.study == study, ReadingRow.undone_at.is_(None))
        .order_by(ReadingRow.id.desc())
        .limit(1)
        .with_for_update()
    )
    with transaction(engine) as session:
        row = session.scalars(last).first()
        if row is None:
            return None
        row.undone_at = datetime.now(UTC)
        return _reading(row)


def readings(engine: Engine, study: str, reader: str | None = None) -> list[Reading]:
    """All readings of a study, or those of one reader, in the order in which they were saved, the undone ones too."""
    wanted = select(ReadingRow).where(ReadingRow.study == study).order_by(ReadingRow.id)
    if reader is not None:
        wanted = wanted.where(ReadingRow.reader == reader)
    with transaction(engine) as session:
        return [_reading(row) for row in session.scalars(wanted)]


def latest(all_readings: Sequence[Reading]) -> list[Reading]:
    """Of each reader, case and pair of runs the last reading that was not undone."""
    kept = {(r.reader, r.scan, r.pair): r for r in all_readings if r.undone_at is None}
    return list(kept.values())


def as_table(all_readings: Sequence[Reading]) -> pd.DataFrame:
    """Return one row an answer with columns `COLUMNS`.

    Side, run, arm and mode are those that the answer is about, or that it prefers; empty where it is about the case. Counts:
    whether it was neither undone nor replaced by a later one.
    """
    counted = {id(reading) for reading in latest(all_readings)}
    rows = [
        _about_reading(reading) | _about_answer(reading, answer) | {"counts": id(reading) in counted}
        for reading in all_readings
        for answer in reading.answers
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _about_reading(reading: Reading) -> dict[str, object]:
    names = ("at", "reader", "study", "budget", "draw", "scan", "patient", "undone_at")
    return (
        {name: getattr(reading, name) for name in names} | _about_side(reading.a, "_a") | _about_side(reading.b, "_b")
    )


def _about_answer(reading: Reading, answer: Answer) -> dict[str, object]:
    side = answer.value if answer.question == "prefer" and answer.value in ("A", "B") else answer.side
    said = {"question": answer.question, "structure": answer.structure, "value": answer.value, "side": side}
    return said | _about_side(reading.side(side))


def _about_side(side: Side | None, suffix: str = "") -> dict[str, object]:
    return {f"{name}{suffix}": getattr(side, name) if side else "" for name in ("run", "arm", "mode")}


def _reading(row: ReadingRow) -> Reading:
    b = Side(row.run_b, row.arm_b or "", row.mode_b or "") if row.run_b is not None else None
    answers = tuple(Answer(answer.question, answer.value, answer.side, answer.structure) for answer in row.answers)
    return Reading(
        row.reader,
        row.study,
        row.scan,
        row.patient,
        row.budget,
        row.draw,
        Side(row.run_a, row.arm_a, row.mode_a),
        b,
        answers,
        row.at,
        row.undone_at,
    )
