"""The ledger as one file, and back: every row of every table as of one moment, for SQLite and PostgreSQL alike.

Lines of JSON, compressed. The last line counts the rows and has the SHA-256 of all lines before it.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text

import gpugrant.meter.day_tables  # noqa: F401 (its tables are in the metadata)
from gpugrant.meter.migrations import revision_of, upgrade
from gpugrant.meter.reading import STREAMED
from gpugrant.meter.tables import ledger, metadata

FORMAT = "gpugrant ledger"
_ROWS = 1000  # in one insert

Told = Callable[[str, int, int], None]  # the table, how many rows are done, of how many


class BackupError(ValueError):
    """A backup that cannot be written or taken; the words say why and what to do."""


def back_up(connection: Connection, file: Path, told: Told = lambda *_: None) -> int:
    """Write all rows that the connection's transaction sees; return how many. Writes to FILE only when complete."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as raw:
            os.fchmod(raw.fileno(), 0o600)
            # No time and no name in its head: the same rows make the same bytes.
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed:
                count = _write(connection, packed, told)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return count


def _write(connection: Connection, packed: gzip.GzipFile, told: Told) -> int:
    digest, count = hashlib.sha256(), 0

    def line(value: Any) -> None:
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        digest.update(data)
        packed.write(data)

    line({"format": FORMAT, "revision": revision_of(connection)})
    for table in metadata.sorted_tables:
        columns = [column.name for column in table.columns]
        whole = connection.execute(select(func.count()).select_from(table)).scalar() or 0
        line({"table": table.name, "columns": columns})
        query = select(table).order_by(*table.primary_key.columns)
        with connection.execute(query, execution_options=STREAMED) as rows:
            for number, row in enumerate(rows):
                line(list(row))
                count += 1
                if not number % 5000:
                    told(table.name, number, whole)
    packed.write(json.dumps({"rows": count, "sha256": digest.hexdigest()}).encode() + b"\n")
    return count


def check(file: Path) -> str:
    """Return the revision of a backup that is whole. Raises BackupError, OSError."""
    digest, last, first, count = hashlib.sha256(), b"", b"", 0
    try:
        with gzip.open(file, "rb") as lines:
            for line in lines:
                if last:
                    digest.update(last)
                    count += last.startswith(b"[")
                last, first = line, first or line
        head, tail = json.loads(first or b"null"), json.loads(last or b"null")
    except (EOFError, gzip.BadGzipFile, ValueError) as error:
        raise BackupError(
            f"{file} is no whole backup of a ledger ({error}): take another copy of it"
        ) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(tail, dict):
        raise BackupError(f"{file} is no backup of a ledger: give a file that `gpugrant ledger backup` wrote")
    if tail.get("sha256") != digest.hexdigest() or tail.get("rows") != count:
        raise BackupError(f"{file} was cut short or changed since it was written: take another copy of it")
    return str(head["revision"])


def restore(connection: Connection, file: Path, told: Told = lambda *_: None) -> int:
    """Fill an empty database with a backup's rows and bring it to today's shape; return how many rows there were.

    Raises BackupError where the backup is not whole or the ledger not empty; nothing is written then.
    """
    revision = check(file)
    if inspect(connection).has_table(ledger.name) and connection.execute(select(ledger.c.id)).first():
        raise BackupError(
            "there is a ledger in this database already, and it is never written over: restore into an empty one, and "
            "point the operator's --ledger at that"
        )
    upgrade(connection, revision)
    shape = MetaData()
    shape.reflect(connection)
    count = 0
    for table, rows in _tables(file, shape):
        connection.execute(insert(table), rows)
        count += len(rows)
        told(table.name, count, count)
    if connection.dialect.name == "postgresql":
        _go_on_counting(connection, shape)
    upgrade(connection)
    return count


def _tables(file: Path, shape: MetaData) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Yield the rows of a backup, some at a time."""
    table: Table | None = None
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    with gzip.open(file, "rb") as lines:
        for line in lines:
            value = json.loads(line)
            if isinstance(value, list):
                rows.append(dict(zip(columns, value, strict=True)))
            if rows and table is not None and (isinstance(value, dict) or len(rows) == _ROWS):
                yield table, rows
                rows = []
            if isinstance(value, dict) and "table" in value:
                table, columns = shape.tables[value["table"]], value["columns"]


def _go_on_counting(connection: Connection, shape: MetaData) -> None:
    """Let PostgreSQL give ids after those that were restored."""
    for table in shape.sorted_tables:
        if "id" in table.columns:
            sequence = connection.execute(
                text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": table.name}
            ).scalar()
            last = connection.execute(select(func.max(table.c.id))).scalar()
            if sequence and last:
                connection.execute(
                    text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last}
                )
