"""How a ledger stands, in lines for people."""

from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from gpugrant.meter.closing import closed_month
from gpugrant.meter.day_tables import corrections, days
from gpugrant.meter.reading import read_state
from gpugrant.meter.reported import name_of, reported
from gpugrant.meter.tables import gaps, holdings, journal, settings_versions


def overview(connection: Connection) -> Iterator[str]:
    """Yield a few lines: how far it is, what is in it, which months are closed."""
    state = read_state(connection)
    yield f"opened     {_time(state.opened_at)}"
    yield f"exact to   {_time(state.watermark)}"
    for name, table in (("pods", holdings), ("settings", settings_versions), ("gaps", gaps)):
        yield f"{name:<10} {connection.execute(select(func.count()).select_from(table)).scalar():,}"
    last = connection.execute(
        select(journal.c.id, journal.c.chain).order_by(journal.c.id.desc()).limit(1)
    ).first()
    yield f"journal    {last.id:,} entries, chain {last.chain}" if last else "journal    0 entries"
    held = select(func.count()).where(holdings.c.own_until.is_(None))
    yield f"held now   {connection.execute(held).scalar():,} pods"
    query = select(days.c.programme, func.count(), func.max(days.c.end_at)).group_by(days.c.programme)
    for programme, count, until in connection.execute(query.order_by(days.c.programme)):
        yield f"programme  {programme}: {count:,} days closed, to {_time(until)}"
    yield f"corrected  {connection.execute(select(func.count()).select_from(corrections)).scalar():,} lines"
    for programme, provider, month in reported(connection):
        name = name_of(programme, provider, month)
        closed = closed_month(connection, name)
        yield f"month      {name}: {f'closed {_time(closed.closed_at)}' if closed else 'open'}"


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
