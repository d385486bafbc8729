"""The database of verdicts: a file beside the study, or PostgreSQL by its address; several readers write at once.

    engine = open_file(Path("studies/hippo"))                        # studies/hippo/verdicts.sqlite, its owner's alone
    engine = open_url("postgresql://reader@server/verdicts")
    with transaction(engine) as session: session.add(row)

SQLite writes ahead (WAL) and takes its lock when a transaction begins, so that a second writer waits and none is refused
half-way. No value enters a log: the engine does not echo, and hides the parameters of statements that fail.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from medssl.core.atomic import PRIVATE
from medssl.core.errors import MedsslError
from medssl.reporting.verdicts.schema import VERSION, Base, SchemaVersion

FILE = "verdicts.sqlite"
WAIT_S = 30  # for another writer
CONNECT_S = 5
SCHEMA_LOCK = 0x6D656473  # PostgreSQL's number for "one process makes the tables"
POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def open_file(folder: Path) -> Engine:
    """Open the database in a folder, and make it where there is none; only the owner can read the file.

    Raises:
        MedsslError: The folder cannot be written to, or the file is no database of verdicts of this version.
    """
    path = folder / FILE
    if path.is_symlink():
        raise MedsslError(f"{FILE} is a link: expected a file that the dashboard made; remove the link")
    return _open_sqlite(path)


def open_url(address: str) -> Engine:
    """Open a database by its address, and make its tables where there are none.

    Args:
        address: As SQLAlchemy has it: postgresql://user:password@host/name, or sqlite:///file.

    Raises:
        MedsslError: It cannot be reached, or has tables of another version.
    """
    try:
        url = make_url(address)
    except ArgumentError:
        raise MedsslError(
            "the address of the database of verdicts cannot be read: expected postgresql://user:password@host/name"
        ) from None
    if url.drivername in POSTGRES:
        if importlib.util.find_spec("psycopg") is None:
            raise MedsslError("verdicts in PostgreSQL need psycopg: pip install 'medssl[postgres]'")
        return _opened(url.set(drivername="postgresql+psycopg"))
    if url.get_backend_name() == "sqlite" and url.database:
        return _open_sqlite(Path(url.database))
    raise MedsslError(
        f"the address of the database of verdicts begins with {url.drivername!r}: expected postgresql or sqlite:///file"
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose work is saved as a whole when the block ends, or not at all.

    Raises:
        MedsslError: The database does not answer, or refuses.
    """
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except SQLAlchemyError as error:
        raise _plain_error(error) from None


def _open_sqlite(path: Path) -> Engine:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
    except OSError as error:
        raise MedsslError(
            f"verdicts cannot be kept there (error {error.errno}): expected a folder that the dashboard may write to; change "
            "its permissions, or start the dashboard with --verdicts and the address of a database"
        ) from None
    return _opened(URL.create("sqlite+pysqlite", database=str(path.resolve())))


def _opened(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": WAIT_S} if sqlite else {"connect_timeout": CONNECT_S}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True)
    if sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.begin() as connection:
            if not sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
            _make_or_check(connection)
    except SQLAlchemyError as error:
        engine.dispose()
        raise _plain_error(error) from None
    except MedsslError:
        engine.dispose()
        raise
    return engine


def _make_or_check(connection: Connection) -> None:
    if not inspect(connection).has_table(SchemaVersion.__tablename__):
        Base.metadata.create_all(connection)
        connection.execute(insert(SchemaVersion).values(version=VERSION))
        return
    found = list(connection.scalars(select(SchemaVersion.version)))
    if found != [VERSION]:
        shown = ", ".join(map(str, found)) or "none"
        raise MedsslError(
            f"the database of verdicts has tables of version {shown}, this medssl has version {VERSION}: expected the same; "
            "open it with the medssl that wrote it, or give another with --verdicts"
        )


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _plain_error(error: SQLAlchemyError) -> MedsslError:
    """A message without the address, the statement and its values."""
    kind = type(getattr(error, "orig", None) or error).__name__
    if isinstance(error, OperationalError):
        return MedsslError(
            f"the database of verdicts cannot be reached, or is busy ({kind}): expected it to answer; nothing was saved; start "
            "it, check its address and password, and try again"
        )
    if isinstance(error, DatabaseError):
        return MedsslError(
            f"the database of verdicts refused ({kind}): expected one that medssl made; nothing was saved; give another with "
            "--verdicts"
        )
    return MedsslError(f"the database of verdicts failed ({kind}): nothing was saved; try again")
