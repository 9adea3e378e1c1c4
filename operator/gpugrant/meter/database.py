"""Engines for the ledger's database: SQLite on a volume, or PostgreSQL."""

import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_NAMED_BY = "--ledger or $GPUGRANT_LEDGER"
_FORMS = "sqlite:////var/lib/gpugrant/ledger.db or postgresql://USER@HOST/DATABASE"
_SQLITE_MAGIC = b"SQLite format 3\0"


class LedgerUrlError(ValueError):
    """A URL that can never name a ledger. The message shows no URL: it may have a password in it."""


class NoLedgerError(OSError):
    """What a URL names is no ledger that this version can read."""


def check_ledger(url: str) -> None:
    """See that a URL can name a ledger, without asking a server. Raises LedgerUrlError, NoLedgerError.

    A database that is merely away passes, and so does a file that is not there yet. Only for a process that has no
    connection to it yet: this opens the file.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        _must_begin_as_sqlites(parsed.database)
        return
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError:
        raise _without_driver() from None


def check_shape(connection: Connection) -> None:
    """See that the connected database holds a ledger of a shape that is known. Raises NoLedgerError."""
    from gpugrant.meter.migrations import known_revisions, revision_of

    revision = revision_of(connection)
    if not revision:
        raise NoLedgerError(f"there is no ledger in this database: check {_NAMED_BY}")
    if revision not in known_revisions():
        raise newer_shape(revision)


def newer_shape(revision: str) -> NoLedgerError:
    """Return what to say of a ledger whose shape this version does not know."""
    return NoLedgerError(
        f"the ledger has the shape {revision}, which a newer gpugrant gave it: use that version or a later one"
    )


def writing_engine(url: str, lock_wait: float) -> Engine:
    """Return an engine for the one who writes; ``lock_wait``: seconds that another's lock is waited for."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return _engine(parsed, connect_args=_postgres(lock_wait))
    engine = create_engine(parsed)
    event.listen(engine, "do_connect", lambda *_: _must_be_no_folder(parsed.database))
    pragmas = (_waiting(lock_wait), "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, parsed.database, pragmas))
    # The write lock from the start: a transaction that reads first could not get it later.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(url: str, lock_wait: float = 5.0) -> Engine:
    """Return an engine whose transactions see one moment of the ledger, and hold nobody up who writes."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return _engine(
            parsed,
            connect_args=_postgres(lock_wait),
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )
    engine = create_engine(parsed)
    event.listen(engine, "do_connect", lambda *_: _must_be_there(parsed.database))
    pragmas = (_waiting(lock_wait), "query_only=ON")
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, parsed.database, pragmas))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise LedgerUrlError(f"{_NAMED_BY} is no URL of a database: write it as {_FORMS}") from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or driver not in ("", "pysqlite"):
        raise LedgerUrlError(
            f"{_NAMED_BY}: a ledger is kept in SQLite or PostgreSQL, not in {parsed.drivername!r}: write {_FORMS}"
        )
    if parsed.host:
        raise LedgerUrlError(
            f"{_NAMED_BY}: a URL of SQLite has no host: write sqlite:/// before a path, and a fourth slash where it "
            "begins at the root, as in sqlite:////var/lib/gpugrant/ledger.db"
        )
    return parsed


def _engine(parsed: URL, **options: Any) -> Engine:
    try:
        return create_engine(parsed, **options)
    except ImportError:
        raise _without_driver() from None


def _without_driver() -> LedgerUrlError:
    return LedgerUrlError(
        f"{_NAMED_BY} names PostgreSQL, and its driver psycopg is not installed: install the extra postgres"
    )


def _must_be_there(path: str | None) -> None:
    """Keep SQLite from making a new file where there is none, such as for a mistyped path. Raises NoLedgerError."""
    if not path or path == ":memory:" or path.startswith("file:"):
        return
    if not Path(path).exists():
        raise NoLedgerError(f"there is no ledger in {path}: no such file; check {_NAMED_BY}")
    _must_be_no_folder(path)
    if not Path(path).stat().st_size:
        raise NoLedgerError(f"there is no ledger in {path}: the file is empty; check {_NAMED_BY}")


def _must_be_no_folder(path: str | None) -> None:
    if path and Path(path).is_dir():
        raise NoLedgerError(f"{path} is a folder: name the ledger's file in it, with {_NAMED_BY}")


def _must_begin_as_sqlites(path: str | None) -> None:
    """See that a file, if it is there, is a database of SQLite's or still empty. Raises NoLedgerError, OSError.

    Never while this process has it open in SQLite: to close the file here would drop SQLite's locks on it (POSIX), and
    the next reader to go would take the write-ahead log of a running writer away.
    See https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    if not path or path == ":memory:" or path.startswith("file:") or not Path(path).exists():
        return
    _must_be_no_folder(path)
    with Path(path).open("rb") as file:
        start = file.read(len(_SQLITE_MAGIC))
    if start and start != _SQLITE_MAGIC:
        raise _no_database(path)


def _no_database(path: str) -> NoLedgerError:
    return NoLedgerError(f"{path} is no database of SQLite's: check {_NAMED_BY}")


def _postgres(lock_wait: float) -> dict[str, Any]:
    """Return how to connect so that a server that hangs is noticed as one that is away."""
    return {
        "connect_timeout": max(2, math.ceil(lock_wait)),
        "options": f"-c lock_timeout={max(1, int(lock_wait * 1000))}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def _waiting(lock_wait: float) -> str:
    return f"busy_timeout={int(lock_wait * 1000)}"


def _prepare_sqlite(connection: Any, path: str | None, pragmas: Iterable[str]) -> None:
    """Set what makes SQLite durable, and readable while it is written. Raises NoLedgerError."""
    connection.isolation_level = None  # BEGIN is ours, so that changes of shape are in the transaction too
    cursor = connection.cursor()
    try:
        for pragma in (*pragmas, "schema_version"):  # the last one reads the file
            cursor.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise _no_database(path or "") from None
        raise
    finally:
        cursor.close()
