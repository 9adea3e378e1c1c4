"""Engines for the ledger's database: SQLite on a volume, or PostgreSQL."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url


def writing_engine(url: str, lock_wait: float) -> Engine:
    """Return an engine for the one who writes; ``lock_wait``: seconds that another's lock is waited for."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, connect_args=_postgres(lock_wait))
    engine = create_engine(parsed)
    pragmas = (_waiting(lock_wait), "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, pragmas))
    # The write lock from the start: a transaction that reads first could not get it later.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(url: str, lock_wait: float = 5.0) -> Engine:
    """Return an engine whose transactions see one moment of the ledger, and hold nobody up who writes."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed,
            connect_args=_postgres(lock_wait),
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )
    engine = create_engine(parsed)
    event.listen(engine, "do_connect", lambda *_: _must_be_there(parsed.database))
    pragmas = (_waiting(lock_wait), "query_only=ON")
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, pragmas))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _parsed(url: str) -> URL:
    parsed = make_url(url)
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _must_be_there(path: str | None) -> None:
    """Keep SQLite from making a new file where there is none, such as for a mistyped path. Raises OSError."""
    if path and path != ":memory:" and Path(path).parent.is_dir() and not Path(path).exists():
        raise FileNotFoundError(f"there is no ledger in {path}: check --ledger")


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


def _prepare_sqlite(connection: Any, pragmas: Iterable[str]) -> None:
    """Set what makes SQLite durable, and readable while it is written."""
    connection.isolation_level = None  # BEGIN is ours, so that changes of shape are in the transaction too
    cursor = connection.cursor()
    try:
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()
