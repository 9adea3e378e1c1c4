"""A month's GPU-seconds read off the ledger beside the operator that writes it: what ``gpugrant usage`` sums."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from msgspec import Struct
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gpugrant.meter.database import check_shape, reading_engine
from gpugrant.meter.day_tables import cells, corrections, days, months
from gpugrant.meter.days import day_row, read_cells
from gpugrant.meter.facts import Account, Condition, Contracted, Placed, Seated
from gpugrant.meter.histories import Histories
from gpugrant.meter.month_days import open_days
from gpugrant.meter.months import Day
from gpugrant.meter.reading import State, facts_of, histories_of, read_state, read_stays
from gpugrant.meter.rows import Accounts
from gpugrant.meter.store import StoreAwayError
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Cell


class Use(Struct, frozen=True):
    """GPU-seconds of one day, account and condition."""

    day: str
    account: Account
    condition: Condition
    gpu_seconds: int


class MonthUse(Struct, frozen=True):
    """A month as it stands. ``until`` is the watermark, in epoch seconds.

    ``corrected``: GPU-seconds that corrections of earlier months move, counted in none of ``uses``. ``accounts`` are
    all the ledger has ever had, ``closed`` says for how many of the month's reports it is final.
    """

    months: Mapping[str, str]  # by programme: which month it is
    until: int
    zone: str
    is_over: bool
    closed: int
    uses: Sequence[Use]
    corrected: int
    accounts: Sequence[Account]


def read_month(url: str, month: str = "") -> MonthUse:
    """Return a month of all programmes; '' is the running one of each.

    Raises StoreAwayError where the ledger cannot be read, LookupError where it does not have that month.
    """
    with _reading(url) as connection:
        state = read_state(connection)
        accounts = Accounts()
        accounts.load(connection)
        histories = histories_of(connection)
        programmes = sorted(_programmes(connection, accounts, histories))
        wanted = {
            programme: month or state.calendars.of(programme).month_of(state.watermark).name
            for programme in programmes
        }
        uses = [
            use
            for programme, name in wanted.items()
            for use in _uses(connection, accounts, histories, state, programme, name)
        ]
        if month and not uses:
            raise LookupError(_no_such_month(connection, state, programmes, month))
        names = set(wanted.values())
        final = connection.execute(
            select(func.count()).select_from(months).where(months.c.name.in_(names))
        ).scalar()
        moved = select(func.sum(func.abs(corrections.c.gpu_seconds))).where(
            corrections.c.booked_in.in_(names)
        )
        zones = {state.calendars.of(programme).zone for programme in programmes} or {"UTC"}
        return MonthUse(
            months=wanted,
            until=state.watermark,
            zone=zones.pop() if len(zones) == 1 else "UTC",
            is_over=_is_over(state, wanted),
            closed=int(final or 0),
            uses=uses,
            corrected=int(connection.execute(moved).scalar() or 0) // 2,
            accounts=accounts.all(),
        )


def _programmes(connection: Connection, accounts: Accounts, histories: Histories) -> set[str]:
    found = {account.programme for account in accounts.all() if account.pool}
    found.update(connection.execute(select(days.c.programme).distinct()).scalars())
    for one in histories.all_of(Placed, Seated, Contracted):
        if isinstance(one, Placed | Seated | Contracted):
            found.add(one.programme)
    return found - {""}


def _uses(
    connection: Connection,
    accounts: Accounts,
    histories: Histories,
    state: State,
    programme: str,
    month: str,
) -> Iterator[Use]:
    stored = select(days).where(days.c.programme == programme, days.c.month == month)
    for row in connection.execute(stored.order_by(days.c.start_at)).all():
        day = day_row(row)
        yield from _of_cells(day.day, read_cells(connection, accounts, cells, day.id))
    wanted = [day for day in open_days(connection, state, histories, programme) if day.month == month]
    if not wanted:
        return
    facts = facts_of(histories, read_stays(connection, accounts, wanted[0].start, wanted[-1].end))
    for one in wanted:
        yield from _of_cells(one, build(facts, programme, one.start, one.end).cells)


def _of_cells(day: Day, found: Mapping[Cell, int]) -> Iterator[Use]:
    for cell, amount in found.items():
        if cell.account.pool:
            yield Use(day.name, cell.account, cell.condition, amount)


def _is_over(state: State, wanted: Mapping[str, str]) -> bool:
    return all(
        month < state.calendars.of(programme).month_of(state.watermark).name
        for programme, month in wanted.items()
    )


def _no_such_month(connection: Connection, state: State, programmes: Sequence[str], month: str) -> str:
    known = set(connection.execute(select(days.c.month).distinct()).scalars())
    running = {state.calendars.of(programme).month_of(state.watermark).name for programme in programmes}
    there = ", ".join(
        f"{name} (running)" if name in running else name for name in sorted(known | running, reverse=True)
    )
    if running and month > max(running):
        return f"{month} has not begun by the ledger, which is in {max(running)}; it has {there}"
    return f"the ledger has nothing of {month}; it has {there or 'no month yet'}"


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    """Yield a connection that sees one moment and writes nothing; errors come in words."""
    engine = reading_engine(url)
    try:
        with engine.begin() as connection:
            check_shape(connection)
            yield connection
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise StoreAwayError(" ".join(str(cause).split()) or type(error).__name__) from error
    finally:
        engine.dispose()
