"""A month's days: those that are stored, and those that are worked out from the facts up to the watermark."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from msgspec.structs import replace
from sqlalchemy import Connection, func, select

from gpugrant.meter.day_tables import cells, day_pools, days, months
from gpugrant.meter.facts import Condition, Contracted, Placed, Seated
from gpugrant.meter.histories import Histories
from gpugrant.meter.months import Day, Month, day_from, first_second
from gpugrant.meter.reading import State, facts_of, read_stays
from gpugrant.meter.rows import Accounts
from gpugrant.meter.tables import accounts as account_rows
from gpugrant.meter.tables import holdings
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Cell, PoolOf


class MonthSums:
    """A month's cells by day, and what they must add up to by pool."""

    def __init__(self) -> None:
        self.days: dict[str, dict[Cell, int]] = defaultdict(dict)
        self.expected: Counter[PoolOf] = Counter()
        self.held: Counter[PoolOf] = Counter()
        self.shortfall: Counter[PoolOf] = Counter()

    def counted(self) -> Counter[PoolOf]:
        """Return what the cells of each pool add up to."""
        found: Counter[PoolOf] = Counter()
        for of_day in self.days.values():
            for cell, amount in of_day.items():
                found[cell.account.provider, cell.account.pool] += amount
        return found


def read_days(
    connection: Connection, accounts: Accounts, programme: str, month: str, sums: MonthSums
) -> int | None:
    """Read the stored days of a month; return where the first one starts, None where there is none."""
    mine = (days.c.programme == programme) & (days.c.month == month)
    columns = (cells.c.account_id, cells.c.fabric, cells.c.condition, cells.c.reason, cells.c.gpu_seconds)
    query = select(days.c.name, *columns).join(days, days.c.id == cells.c.day_id).where(mine)
    for day, number, fabric, condition, reason, amount in connection.execute(query):
        sums.days[day][Cell(accounts.by_id(number), fabric, Condition(condition), reason)] = amount
    pools = select(day_pools).join(days, days.c.id == day_pools.c.day_id).where(mine)
    for row in connection.execute(pools):
        sums.expected[row.provider, row.pool] += row.expected
        sums.held[row.provider, row.pool] += row.held
        sums.shortfall[row.provider, row.pool] += row.shortfall
    first = connection.execute(select(func.min(days.c.start_at)).where(mine)).scalar()
    return None if first is None else int(first)


def open_days(connection: Connection, state: State, histories: Histories, programme: str) -> Iterator[Day]:
    """Yield a programme's days that are not stored, the last one up to the watermark."""
    calendar = state.calendars.of(programme)
    until = select(func.max(days.c.end_at)).where(days.c.programme == programme)
    at = connection.execute(until).scalar()
    if at is None:
        begin = _begin(connection, histories, programme)
        if begin is None:
            return
        at = first_second(calendar, begin, state.opened_at)
    last = select(months.c.name, months.c.end_at).where(months.c.programme == programme)
    closed = connection.execute(last.order_by(months.c.end_at.desc()).limit(1)).first() or ("", 0)
    while at < state.watermark:
        day = day_from(calendar, at, *closed)
        yield replace(day, end=min(day.end, state.watermark))
        at = day.end


def _begin(connection: Connection, histories: Histories, programme: str) -> int | None:
    """Return the first moment of a programme of which no day is stored."""
    moments = [
        one.since
        for one in histories.all_of(Placed, Seated, Contracted)
        if isinstance(one, Placed | Seated | Contracted) and one.programme == programme
    ]
    mine = (account_rows.c.programme == programme) & (account_rows.c.pool != "")
    first = (
        select(func.min(holdings.c.held_from))
        .join(account_rows, account_rows.c.id == holdings.c.account_id)
        .where(mine)
    )
    bound = connection.execute(first).scalar()
    return min([*moments, *([] if bound is None else [int(bound)])], default=None)


def build_days(
    connection: Connection,
    accounts: Accounts,
    histories: Histories,
    state: State,
    programme: str,
    month: Month,
    sums: MonthSums,
) -> int | None:
    """Add the month's days that are not stored; return where the first one starts, None where there is none."""
    wanted = [day for day in open_days(connection, state, histories, programme) if day.month == month.name]
    if not wanted:
        return None
    stays = read_stays(connection, accounts, wanted[0].start, wanted[-1].end)
    facts = facts_of(histories, stays)
    for day in wanted:
        built = build(facts, programme, day.start, day.end)
        sums.days[day.name] = dict(built.cells)
        sums.expected.update(built.expected)
        sums.held.update(built.held)
        sums.shortfall.update(built.shortfall)
    return wanted[0].start
