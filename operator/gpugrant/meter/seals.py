"""What days and months are sealed with: a SHA-256 over all their rows, as they were written."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Select, or_, select, update

from gpugrant.meter.books import (
    ADOPTED,
    CUT,
    DAY,
    LATE,
    MONTH,
    SETTINGS,
    SUMMED,
    Books,
    Entry,
    sum_of,
    write_contents,
)
from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months
from gpugrant.meter.tables import journal, ledger, settings_versions

_CELL = ("account_id", "fabric", "condition", "reason", "gpu_seconds")
_OF_A_DAY = (
    (cells, _CELL),
    (day_pools, ("provider", "pool", "expected", "shortfall", "held")),
    (day_digests, ("provider", "sha256", "revision")),
    (corrections, ("booked_in", "why", *_CELL)),
)


def seal_of_day(connection: Connection, day: int) -> str:
    """Return the SHA-256 (hex) over a stored day: its bounds, cells, pools, digests and corrections, sorted."""
    bounds = select(days.c.programme, days.c.name, days.c.month, days.c.start_at, days.c.end_at)
    lines = [("days", *connection.execute(bounds.where(days.c.id == day)).one())]
    for table, names in _OF_A_DAY:
        query: Select[Any] = select(*(table.c[name] for name in names)).where(table.c.day_id == day)
        lines += [(str(table.name), *row) for row in connection.execute(query)]
    digest = hashlib.sha256()
    for line in sorted(map(msgspec.json.encode, lines)):
        digest.update(line + b"\n")
    return digest.hexdigest()


def seal_of_month(row: Mapping[str, Any] | RowMapping, previous: str) -> str:
    """Return the SHA-256 (hex) over a closed month's row and the seal of the provider's month closed before it."""
    names = ("programme", "provider", "name", "start_at", "end_at", "manifest", "closed_at", "account")
    return hashlib.sha256(msgspec.json.encode([*(row[name] for name in names), previous])).hexdigest()


def last_seal(connection: Connection, programme: str, provider: str) -> str:
    """Return the seal of the month of a provider that was closed last; '' where none is."""
    query = select(months.c.seal).where(months.c.programme == programme, months.c.provider == provider)
    return connection.execute(query.order_by(months.c.id.desc()).limit(1)).scalar() or ""


def entered_seal(connection: Connection, programme: str, start: int) -> str:
    """Return the seal that the journal has of a stored day; '' where it was never written."""
    mine = journal.c.programme == programme
    written = mine & (journal.c.kind == DAY) & (journal.c.start_at == start)
    let_go = mine & (journal.c.kind == CUT) & (journal.c.start_at <= start)
    query = select(journal.c.kind, journal.c.sha256).where(or_(written, let_go))
    row = connection.execute(query.order_by(journal.c.id.desc()).limit(1)).first()
    return row.sha256 if row is not None and row.kind == DAY else ""


# -- what was there before -------------------------------------------------------------------------------


def adopt(connection: Connection) -> None:
    """Sum, enter and seal all that is in the ledger, as it is now: it had no journal, or was filled in bulk."""
    row = connection.execute(select(ledger)).mappings().first()
    if row is None:
        return
    connection.execute(journal.delete())
    sums = {str(table.name): sum_of(connection, table) for table in SUMMED}
    contents = write_contents(sums, 0, "")
    books = Books({**row, "contents": contents})
    for entry in _adopted(connection):
        books.enter(entry)
    books.close(connection)


def _adopted(connection: Connection) -> Iterator[Entry]:
    columns = [days.c[name] for name in ("id", "programme", "name", "start_at", "stale")]
    for day in connection.execute(select(*columns).order_by(days.c.start_at, days.c.id)).all():
        about = {"programme": day.programme, "name": day.name, "start": day.start_at}
        query = select(day_digests).where(day_digests.c.day_id == day.id).order_by(day_digests.c.provider)
        for one in connection.execute(query).all():
            yield Entry(ADOPTED, provider=one.provider, revision=one.revision, sha256=one.sha256, **about)
        yield Entry(DAY, sha256=seal_of_day(connection, day.id), **about)
        if day.stale:
            yield Entry(LATE, **about)
    last: dict[tuple[str, str], str] = {}
    for month in connection.execute(select(months).order_by(months.c.id)).mappings().all():
        who = (month["programme"], month["provider"])
        last[who] = seal = seal_of_month(month, last.get(who, ""))
        connection.execute(update(months).where(months.c.id == month["id"]).values(seal=seal))
        yield Entry(MONTH, *who, month["name"], month["start_at"], sha256=seal)
    for version in connection.execute(select(settings_versions).order_by(settings_versions.c.id)).all():
        yield settings_entry(version.digest, version.since, version.text)


def settings_entry(digest: str, since: int, text: str) -> Entry:
    """Return the journal's line about a version of the settings."""
    return Entry(SETTINGS, name=digest, start=since, sha256=hashlib.sha256(text.encode()).hexdigest())
