"""Which months there are to report, and their names."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, select

from gpugrant.meter.day_tables import months, totals
from gpugrant.meter.facts import Contracted, Placed
from gpugrant.meter.histories import Histories
from gpugrant.meter.months import Month
from gpugrant.meter.reading import State, read_state
from gpugrant.meter.tables import accounts as account_rows


def reported(connection: Connection) -> list[tuple[str, str, Month]]:
    """Return every programme, provider and month in which it had servers, a contract or GPU-seconds."""
    state = read_state(connection)
    found: dict[tuple[str, str, str], Month] = {}
    for programme, provider, start, end in _presence(connection, state):
        calendar = state.calendars.of(programme)
        month = calendar.month_of(start)
        while month.start < end:
            found[programme, provider, month.name] = month
            month = calendar.month_of(month.end)
    for row in connection.execute(select(months)):
        found[row.programme, row.provider, row.name] = Month(row.name, row.start_at, row.end_at)
    return [(programme, provider, month) for (programme, provider, _), month in sorted(found.items())]


def _presence(connection: Connection, state: State) -> Iterable[tuple[str, str, int, int]]:
    """Yield programme, provider and [start, end) in which there is something to report."""
    histories = Histories()
    histories.read(connection, [Placed, Contracted])
    spans: set[tuple[str, str, int, int]] = set()
    for kind in (Placed, Contracted):
        for history in histories.of(kind).values():
            spans.update(_spans(history, state.watermark))
    query = select(account_rows.c.programme, account_rows.c.provider, totals.c.month).join(
        totals, totals.c.account_id == account_rows.c.id
    )
    for programme, provider, name in connection.execute(query.distinct()):
        with suppress(ValueError):  # cut by a calendar that was another one
            month = state.calendars.of(programme).month_named(name)
            spans.add((programme, provider, month.start, month.end))
    return sorted(one for one in spans if one[0] and one[1])


def _spans(history: Sequence[Any], watermark: int) -> Iterator[tuple[str, str, int, int]]:
    for number, one in enumerate(history):
        is_there = one.seats if isinstance(one, Placed) else one.instalments
        end = history[number + 1].since if number + 1 < len(history) else watermark
        if is_there and one.since < min(end, watermark):
            yield one.programme, one.provider, one.since, min(end, watermark)


def name_of(programme: str, provider: str, month: Month) -> str:
    """Return the name of a month's report."""
    return f"{programme}-{provider}-{month.name}"


def find_month(connection: Connection, name: str) -> tuple[str, str, Month]:
    """Return the programme, provider and month of a report's name; raises LookupError."""
    for programme, provider, month in reported(connection):
        if name_of(programme, provider, month) == name:
            return programme, provider, month
    raise LookupError(f"the ledger knows no month {name}; `gpugrant report list` shows those it knows")
