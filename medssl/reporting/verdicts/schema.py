"""The tables of the database of verdicts: nothing in them is ever changed or removed; undoing marks a row as undone.

A change of these tables takes a new `VERSION`, which the database states, so that no version of medssl writes into the tables
of another. Imports SQLAlchemy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, ForeignKey, Index, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

VERSION = 1
NAME, WORD = 200, 60  # the longest names (of readers, arms, scans) and words (questions, decisions), in characters


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, which SQLite keeps without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """To UTC, on the way into the database."""
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """With its zone, on the way out."""
        return value if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All tables."""


class SchemaVersion(Base):
    """One row: the version of these tables."""

    __tablename__ = "medssl_verdicts"

    version: Mapped[int] = mapped_column(primary_key=True)


class ReadingRow(Base):
    """One reading of one case by one reader; the side A of the page is `run_a`, the side B `run_b`."""

    __tablename__ = "medssl_readings"
    __table_args__ = (Index("ix_medssl_readings_study", "study", "reader"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    reader: Mapped[str] = mapped_column(String(NAME))
    at: Mapped[datetime] = mapped_column(UtcTime)
    undone_at: Mapped[datetime | None] = mapped_column(UtcTime)
    study: Mapped[str] = mapped_column(String(NAME))
    budget: Mapped[str] = mapped_column(String(NAME))
    draw: Mapped[int]
    scan: Mapped[str] = mapped_column(String(NAME))
    patient: Mapped[str] = mapped_column(String(NAME))
    run_a: Mapped[str] = mapped_column(String(NAME))
    arm_a: Mapped[str] = mapped_column(String(NAME))
    mode_a: Mapped[str] = mapped_column(String(WORD))
    run_b: Mapped[str | None] = mapped_column(String(NAME))
    arm_b: Mapped[str | None] = mapped_column(String(NAME))
    mode_b: Mapped[str | None] = mapped_column(String(WORD))
    answers: Mapped[list[AnswerRow]] = relationship(lazy="selectin", order_by="AnswerRow.id")


class AnswerRow(Base):
    """One answer of a reading; side: A, B, or empty where it is about the case; structure: 0 where it is about all."""

    __tablename__ = "medssl_answers"

    id: Mapped[int] = mapped_column(primary_key=True)
    reading: Mapped[int] = mapped_column(ForeignKey("medssl_readings.id"), index=True)
    question: Mapped[str] = mapped_column(String(WORD))
    side: Mapped[str] = mapped_column(String(1))
    structure: Mapped[int]
    value: Mapped[str] = mapped_column(Text)


class ChoiceRow(Base):
    """One decision about one scan of a list of scans to label: accept, skip or defer, with a class where one was given."""

    __tablename__ = "medssl_choices"
    __table_args__ = (Index("ix_medssl_choices_list", "list_id", "label"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    reader: Mapped[str] = mapped_column(String(NAME))
    at: Mapped[datetime] = mapped_column(UtcTime)
    undone_at: Mapped[datetime | None] = mapped_column(UtcTime)
    list_id: Mapped[str] = mapped_column(String(NAME))
    label: Mapped[str] = mapped_column(String(NAME))
    scan: Mapped[str] = mapped_column(String(NAME))
    patient: Mapped[str] = mapped_column(String(NAME))
    decision: Mapped[str] = mapped_column(String(WORD))
    value: Mapped[str | None] = mapped_column(String(NAME))
