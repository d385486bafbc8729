"""The database of verdicts: nothing is lost when two write at once, undoing keeps the trail, errors are plain."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'medssl[app]'")

from sqlalchemy import Engine, text

from medssl.core.errors import MedsslError
from medssl.reporting.verdicts import choices, database, readings
from medssl.reporting.verdicts.choices import Choice
from medssl.reporting.verdicts.readings import Answer, Reading, Side

SCRATCH, SIMMIM = Side("run1", "scratch", "finetune"), Side("run2", "simmim", "finetune")
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
WRITER = """
import sys
from pathlib import Path
from medssl.reporting.verdicts import database, readings
from medssl.reporting.verdicts.readings import Answer, Reading, Side
where, reader, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = database.open_url(where) if "://" in where else database.open_file(Path(where))
a, b = Side("run1", "scratch", "finetune"), Side("run2", "simmim", "finetune")
for i in range(count):
    readings.save(engine, Reading(reader, "study", f"s{i}", f"p{i}", "1%", 0, a, b, (Answer("prefer", "A"), Answer("comment", "x" * 500))))
"""


def reading(reader: str = "Ann", scan: str = "s1", preferred: str = "B") -> Reading:
    answers = (Answer("prefer", preferred), Answer("grade", "4", "A", 1), Answer("comment", "<b>näher</b> 🫀\n![x](h)"))
    return Reading(reader, "study", scan, "p1", "1%", 0, SIMMIM, SCRATCH, answers)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = database.open_file(tmp_path)
    yield opened
    opened.dispose()


def test_a_reading_is_kept_with_who_when_and_run_and_survives_a_restart(tmp_path: Path) -> None:
    before, engine = datetime.now(UTC), database.open_file(tmp_path)
    readings.save(engine, reading())
    engine.dispose()
    (kept,) = readings.readings(database.open_file(tmp_path), "study")
    assert (kept.reader, kept.scan, kept.a, kept.b, kept.answers) == ("Ann", "s1", SIMMIM, SCRATCH, reading().answers)
    assert before <= kept.at <= datetime.now(UTC)
    assert kept.at.utcoffset().total_seconds() == 0
    preferred = readings.as_table([kept]).query("question == 'prefer'").iloc[0]
    assert preferred[["side", "arm", "arm_a", "arm_b"]].tolist() == ["B", "scratch", "simmim", "scratch"]


def test_the_file_is_its_owners_alone(engine: Engine, tmp_path: Path) -> None:
    readings.save(engine, reading())
    files = list(tmp_path.glob(f"{database.FILE}*"))
    assert len(files) == 3  # with what is written ahead, and its index
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_undoing_goes_back_one_by_one_and_keeps_the_trail(engine: Engine) -> None:
    for scan in ("s1", "s2", "s1"):
        readings.save(engine, reading(scan=scan, preferred="A" if scan == "s2" else "B"))
    readings.save(engine, reading("Bob", "s3"))
    assert len(readings.latest(readings.readings(engine, "study", "Ann"))) == 2
    undone = [readings.undo(engine, "Ann", "study") for _ in range(4)]
    assert [each.scan if each else None for each in undone] == ["s1", "s2", "s1", None]
    all_of_it = readings.readings(engine, "study")
    assert [r.undone_at is None for r in all_of_it] == [False, False, False, True]
    assert readings.as_table(all_of_it).groupby("reader")["counts"].sum().to_dict() == {"Ann": 0, "Bob": 3}


def test_of_two_tabs_of_one_reader_the_later_reading_counts(engine: Engine) -> None:
    readings.save(engine, reading(preferred="A"))
    readings.save(engine, reading(preferred="equal"))
    (counted,) = readings.latest(readings.readings(engine, "study"))
    assert counted.answers[0].value == "equal"


def test_decisions_on_a_list_are_kept_and_undone(engine: Engine) -> None:
    choices.save(engine, Choice("Ann", "list", "finding", "s1", "p1", "defer"))
    choices.save(engine, Choice("Bob", "list", "finding", "s1", "p1", "accept", "cyst"))
    choices.save(engine, Choice("Bob", "list", "other", "s1", "p1", "skip"))
    counted = choices.latest(choices.choices(engine, "list", "finding"))
    assert (counted["s1"].decision, counted["s1"].value, counted["s1"].reader) == ("accept", "cyst", "Bob")
    assert choices.undo(engine, "Bob", "list", "finding").value == "cyst"
    assert choices.undo(engine, "Bob", "list", "finding") is None
    assert choices.latest(choices.choices(engine, "list", "finding"))["s1"].decision == "defer"


def write_at_once(where: str, count: int) -> None:
    """Two processes that write as fast as they can."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", "-c", WRITER, where]
    writers = [subprocess.Popen([*command, reader, str(count)], env=environment) for reader in ("Ann", "Bob")]
    assert [writer.wait(120) for writer in writers] == [0, 0]


@pytest.mark.long
def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    write_at_once(str(tmp_path), 60)
    kept = readings.readings(database.open_file(tmp_path), "study")
    assert {(r.reader, r.scan) for r in kept} == {(who, f"s{i}") for who in ("Ann", "Bob") for i in range(60)}
    assert len(kept) == 120
    assert all(len(r.answers) == 2 for r in kept)


def test_a_reading_is_saved_as_a_whole_or_not_at_all(engine: Engine) -> None:
    with pytest.raises(MedsslError, match="nothing was saved"):
        readings.save(engine, Reading("Ann", "study", "s1", "p1", "1%", 0, SCRATCH, None, (Answer("fit", None),)))
    assert readings.readings(engine, "study") == []


def test_a_database_of_another_version_is_refused_in_words(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE medssl_verdicts SET version = 7"))
    with pytest.raises(MedsslError, match="has tables of version 7, this medssl has version 1"):
        database.open_file(tmp_path)


def test_what_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / database.FILE).write_bytes(b"not a database at all, but long enough to be one" * 100)
    with pytest.raises(MedsslError, match=r"the database of verdicts refused \(DatabaseError\)"):
        database.open_file(tmp_path)
    (tmp_path / database.FILE).unlink()
    (tmp_path / "elsewhere").touch()
    (tmp_path / database.FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MedsslError, match="is a link"):
        database.open_file(tmp_path)
    with pytest.raises(MedsslError, match="verdicts cannot be kept there") as refused:
        database.open_file(tmp_path / "missing")
    assert str(tmp_path) not in str(refused.value)


def test_a_writer_that_holds_the_lock_is_waited_for_and_then_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    engine = database.open_file(tmp_path)
    other = sqlite3.connect(tmp_path / database.FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MedsslError, match="cannot be reached, or is busy"):
        readings.save(engine, reading())
    other.execute("ROLLBACK")
    readings.save(engine, reading())
    assert len(readings.readings(engine, "study")) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://u:secret@h/d", "begins with 'mysql'"),
        ("sqlite://", "begins with 'sqlite'"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(address: str, message: str) -> None:
    with pytest.raises(MedsslError, match=message) as refused:
        database.open_url(address)
    assert "secret" not in str(refused.value)


def test_no_name_and_no_comment_enters_a_log(engine: Engine, caplog: pytest.LogCaptureFixture, capsys) -> None:
    with caplog.at_level(logging.DEBUG):
        readings.save(engine, reading("Ann Author"))
        with pytest.raises(MedsslError) as refused:
            readings.save(
                engine, Reading("Ann Author", "s", "s", "p", "1", 0, SCRATCH, None, (Answer("comment", None),))
            )
    told = caplog.text + "".join(capsys.readouterr()) + str(refused.value)
    assert "Ann" not in told
    assert "näher" not in told


needs_psycopg = pytest.mark.skipif(
    importlib.util.find_spec("psycopg") is None, reason="needs psycopg: pip install 'medssl[postgres]'"
)


@needs_psycopg
def test_a_server_that_is_away_is_a_plain_message() -> None:
    with pytest.raises(MedsslError, match=r"cannot be reached, or is busy \(.*\)") as refused:
        database.open_url("postgresql://ann:secret@127.0.0.1:1/verdicts")
    assert "secret" not in str(refused.value)
    assert "127.0.0.1" not in str(refused.value)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A real server that listens on a socket in a folder alone: its address, and the command that stops it."""
    if POSTGRES is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL and psycopg: apt-get install postgresql; pip install 'medssl[postgres]'")
    place = Path("/tmp") / f"pg{os.getpid()}"  # a socket's path is short
    place.mkdir(mode=0o700)
    user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(place, "postgres", "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    control = [*user, str(POSTGRES / "pg_ctl"), "-D", str(place / "data")]
    start = [*control, "-w", "-o", f"-c listen_addresses='' -k {place} -c fsync=off", "-l", str(place / "log"), "start"]
    try:
        subprocess.run([*control, "-o", "-A trust -U reader", "initdb"], check=True, capture_output=True, cwd="/")
        subprocess.run(start, check=True, capture_output=True, cwd="/")
        yield f"postgresql://reader@/postgres?host={place}", [*control, "-m", "fast", "-w", "stop"]
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd="/")
        shutil.rmtree(place)


@pytest.mark.slow
def test_a_real_postgresql_keeps_what_two_processes_write_and_its_absence_is_told(postgres) -> None:
    address, stop = postgres
    write_at_once(address, 30)
    engine = database.open_url(address)
    kept = readings.readings(engine, "study")
    assert len(kept) == 60
    assert kept[0].at.utcoffset().total_seconds() == 0
    readings.save(engine, reading())
    assert readings.undo(engine, "Ann", "study").answers == reading().answers
    choices.save(engine, Choice("Ann", "list", "finding", "s1", "p1", "accept", "cyst"))
    assert choices.latest(choices.choices(engine, "list", "finding"))["s1"].value == "cyst"
    with engine.begin() as connection:
        connection.execute(text("UPDATE medssl_verdicts SET version = 0"))
    with pytest.raises(MedsslError, match="tables of version 0"):
        database.open_url(address)
    subprocess.run(stop, check=True, capture_output=True, cwd="/")
    time.sleep(0.1)
    with pytest.raises(MedsslError, match="cannot be reached"):
        readings.save(engine, reading())
    engine.dispose()
