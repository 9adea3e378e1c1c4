"""The days of a ledger as rows: written when they close, made anew when facts come late, corrected for ever after."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Table, delete, func, insert, select, update

from gpugrant.meter.books import DIGEST, Entry
from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months
from gpugrant.meter.digests import day_digest
from gpugrant.meter.facts import Account, Condition
from gpugrant.meter.floors import Sums
from gpugrant.meter.month import FACTS_CAME_LATE, FEWER_SEATS, Line
from gpugrant.meter.months import Calendar, Day
from gpugrant.meter.rows import Accounts
from gpugrant.meter.tables import contracts
from gpugrant.meter.tally import DayEnds
from gpugrant.meter.window import Built, Cell


class DayRow(Struct, frozen=True):
    """A stored day."""

    id: int
    programme: str
    day: Day


class Closed(Struct, frozen=True):
    """The months of a programme that are closed, by provider."""

    months: frozenset[tuple[str, str]] = frozenset()  # provider, month
    until: Mapping[str, int] = {}  # by provider, the end of the last one

    def has(self, account: Account, month: str) -> bool:
        """Say whether what is on this account in a month is final."""
        return (account.provider, month) in self.months

    def next_open(self, provider: str, calendar: Calendar) -> str:
        """Return the month that corrections of a provider's closed months are booked in: the first open one after."""
        month = calendar.month_of(self.until[provider])
        while (
            provider,
            month.name,
        ) in self.months:  # where the zone was changed since, one may go on after its end
            month = calendar.month_of(month.end)
        return month.name


# -- from cells to lines ---------------------------------------------------------------------------------


def line_of(cell: Cell, day: str, amount: int, names: Mapping[str, str]) -> Line:
    """Return a cell as a row of the report; ``names``: tenants' display names."""
    account = cell.account
    return Line(
        programme=account.programme,
        provider=account.provider,
        pool=account.pool,
        fabric=cell.fabric,
        gpu_type=account.gpu_type,
        share=account.share,
        owner=str(account.owner),
        tenant=account.tenant,
        tenant_display_name=names.get(account.tenant, ""),
        award=account.award,
        grant=account.grant,
        condition=str(cell.condition),
        reason=cell.reason,
        day=day,
        gpu_seconds=amount,
    )


def digests_of(found: Mapping[Cell, int], day: str) -> dict[str, str]:
    """Return the digest of a day's cells, by provider."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for cell, amount in found.items():
        lines[cell.account.provider].append(line_of(cell, day, amount, {}))
    return {provider: day_digest(of_provider) for provider, of_provider in lines.items()}


# -- reading ---------------------------------------------------------------------------------------------


def read_ends(connection: Connection) -> dict[str, DayEnds]:
    """Return, by programme, from when and until when its days are stored."""
    query = select(days.c.programme, func.min(days.c.start_at), func.max(days.c.end_at))
    closed: dict[str, tuple[str, int]] = {}
    for row in connection.execute(select(months).order_by(months.c.end_at)):
        closed[row.programme] = (row.name, row.end_at)
    return {
        programme: DayEnds(first, until, *closed.get(programme, ("", 0)))
        for programme, first, until in connection.execute(query.group_by(days.c.programme))
    }


def read_closed(connection: Connection, programme: str) -> Closed:
    """Return which months of a programme are closed."""
    columns = (months.c.provider, months.c.name, months.c.end_at)
    query = select(*columns).where(months.c.programme == programme).order_by(months.c.end_at)
    found = connection.execute(query).all()
    return Closed(
        frozenset((row.provider, row.name) for row in found), {row.provider: row.end_at for row in found}
    )


def day_row(row: Any) -> DayRow:
    """Return the day in a row."""
    return DayRow(row.id, row.programme, Day(row.name, row.month, row.start_at, row.end_at))


def stale_day(connection: Connection) -> DayRow | None:
    """Return a day whose cells are to be made anew, if there is one."""
    row = connection.execute(
        select(days).where(days.c.stale.is_(True)).order_by(days.c.start_at).limit(1)
    ).first()
    return None if row is None else day_row(row)


def read_cells(connection: Connection, accounts: Accounts, table: Table, day: int) -> dict[Cell, int]:
    """Return a day's cells, or what corrections have added to them; none of 0."""
    columns = (table.c.account_id, table.c.fabric, table.c.condition, table.c.reason)
    query = select(*columns, func.sum(table.c.gpu_seconds)).where(table.c.day_id == day).group_by(*columns)
    return {
        Cell(accounts.by_id(number), fabric, Condition(condition), reason): int(amount)
        for number, fabric, condition, reason, amount in connection.execute(query)
        if amount
    }


def contracted_pools(connection: Connection, programme: str) -> dict[str, set[str]]:
    """Return, by provider, the pools that it has or had a contract for: they count where nothing is installed too."""
    columns = (contracts.c.provider, contracts.c.pool)
    found: dict[str, set[str]] = defaultdict(set)
    for provider, pool in connection.execute(select(*columns).where(contracts.c.programme == programme).distinct()):
        found[provider].add(pool)
    return found


# -- writing ---------------------------------------------------------------------------------------------


def mark_stale(connection: Connection, since: int, until: int) -> list[tuple[str, Day]]:
    """Note that what happened in [since, until) is otherwise than the stored days say; return those newly marked."""
    touched = (days.c.start_at < until) & (days.c.end_at > since) & days.c.stale.is_(False)
    found = [day_row(row) for row in connection.execute(select(days).where(touched).order_by(days.c.start_at))]
    if found:
        connection.execute(update(days).where(touched).values(stale=True))
    return [(row.programme, row.day) for row in found]


def add_day(connection: Connection, programme: str, day: Day, *, stale: bool = False) -> int:
    """Write a day without cells; return its id."""
    values = {"name": day.name, "month": day.month, "start_at": day.start, "end_at": day.end}
    written = connection.execute(insert(days).values(programme=programme, stale=stale, **values))
    return int((written.inserted_primary_key or (0,))[0])


class Rewrite:
    """Brings a stored day to what its facts say; a new one from nothing. ``moved`` is by how much sums change."""

    def __init__(self, connection: Connection, row: DayRow, closed: Closed, calendar: Calendar) -> None:
        self._connection = connection
        self._row = row
        self._closed = closed
        self._calendar = calendar
        self._corrections: list[tuple[Cell, str, int]] = []  # and the month that they are booked in
        self._gone: list[Cell] = []
        self._new: dict[Cell, int] = {}
        self._final: set[tuple[str, str]] = set()  # pools, with their provider, of providers whose month is closed
        self.moved: dict[Account, Sums] = {}
        self.shortfall: dict[tuple[str, str, str], int] = {}  # by how much it changes; programme, provider, pool
        self.digests: list[tuple[str, str, str, str]] = []  # programme, provider, day, sha256
        self.revisions: list[Entry] = []  # of these digests, for the journal

    def compare(self, stored: Mapping[Cell, int], corrected: Mapping[Cell, int], built: Built) -> None:
        """Find what is otherwise."""
        month = self._row.day.month
        for cell in sorted(stored.keys() | corrected.keys() | built.cells.keys(), key=_order):
            if self._closed.has(cell.account, month):
                self._final.add((cell.account.provider, cell.account.pool))
            was, now = stored.get(cell, 0) + corrected.get(cell, 0), built.cells.get(cell, 0)
            if was == now:
                continue
            if self._closed.has(cell.account, month):
                booked_in = self._closed.next_open(cell.account.provider, self._calendar)
                self._corrections += [(cell, booked_in, amount) for amount in (-was, now) if amount]
                self._move(cell, booked_in, now - was)
            else:
                if was:
                    self._gone.append(cell)
                if now:
                    self._new[cell] = now
                self._move(cell, month, now - was)

    def _move(self, cell: Cell, month: str, amount: int) -> None:
        sums = self.moved.setdefault(cell.account, {})
        sums[month, cell.condition] = sums.get((month, cell.condition), 0) + amount

    def write(self, ids: Mapping[Account, int], built: Built) -> None:
        """Write it; ``ids`` has every account of ``moved``."""
        connection, number = self._connection, self._row.id
        for cell in self._gone:
            connection.execute(delete(cells).filter_by(day_id=number, **_key(cell, ids)))
        new = [
            {"day_id": number, **_key(cell, ids), "gpu_seconds": amount} for cell, amount in self._new.items()
        ]
        if new:
            connection.execute(insert(cells), new)
        fewer: Counter[tuple[str, str]] = Counter()
        for cell, _, amount in self._corrections:
            fewer[cell.account.provider, cell.account.pool] += amount
        booked = [
            {
                "day_id": number,
                "booked_in": booked_in,
                "why": FEWER_SEATS if fewer[cell.account.provider, cell.account.pool] < 0 else FACTS_CAME_LATE,
                **_key(cell, ids),
                "gpu_seconds": amount,
            }
            for cell, booked_in, amount in self._corrections
        ]
        if booked:
            connection.execute(insert(corrections), booked)
        self._write_pools(built)
        connection.execute(update(days).where(days.c.id == number).values(stale=False))

    def _write_pools(self, built: Built) -> None:
        """Write what pools must add up to, but for those of a provider whose month is closed."""
        for provider, pools in contracted_pools(self._connection, self._row.programme).items():
            if (provider, self._row.day.month) in self._closed.months:
                self._final |= {(provider, pool) for pool in pools}
        there = select(day_pools).where(day_pools.c.day_id == self._row.id)
        known = {(row.provider, row.pool): row.shortfall for row in self._connection.execute(there)}
        for pool in sorted((known.keys() | built.expected.keys()) - self._final):
            values = {
                "expected": built.expected.get(pool, 0),
                "shortfall": built.shortfall.get(pool, 0),
                "held": built.held.get(pool, 0),
            }
            more = values["shortfall"] - known.get(pool, 0)
            if more:
                self.shortfall[self._row.programme, *pool] = more
            put(
                self._connection,
                day_pools,
                {"day_id": self._row.id, "provider": pool[0], "pool": pool[1]},
                values,
                there=pool in known,
            )

    def write_digests(self, stored: Mapping[Cell, int], built: Built) -> None:
        """Write the digests that changed, each as a revision of the one before; those of closed months stay."""
        month, name = self._row.day.month, self._row.day.name
        now = digests_of(built.cells, name)
        query = select(day_digests).where(day_digests.c.day_id == self._row.id)
        known = {row.provider: row for row in self._connection.execute(query)}
        for provider in sorted(known.keys() | now.keys() | {cell.account.provider for cell in stored}):
            sha256 = now.get(provider) or day_digest(())
            was = known.get(provider)
            if (provider, month) in self._closed.months or (was is not None and was.sha256 == sha256):
                continue
            values: dict[str, Any] = {
                "sha256": sha256,
                "revision": was.revision + 1 if was is not None else 0,
            }
            key = {"day_id": self._row.id, "provider": provider}
            put(self._connection, day_digests, key, values, there=was is not None)
            self.digests.append((self._row.programme, provider, name, sha256))
            about = (self._row.programme, provider, name, self._row.day.start)
            self.revisions.append(Entry(DIGEST, *about, values["revision"], sha256))


def put(
    connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any], *, there: bool
) -> None:
    """Write a row, or write it anew where it is there."""
    if there:
        connection.execute(update(table).filter_by(**key).values(values))
    else:
        connection.execute(insert(table).values(key | values))


def _key(cell: Cell, ids: Mapping[Account, int]) -> dict[str, Any]:
    return {
        "account_id": ids[cell.account],
        "fabric": cell.fabric,
        "condition": cell.condition.value,
        "reason": cell.reason,
    }


def _order(cell: Cell) -> tuple[Any, ...]:
    account = cell.account
    place = (account.provider, account.pool, account.gpu_type, account.share, str(account.owner))
    return (
        *place,
        account.tenant,
        account.grant,
        account.grant_uid,
        cell.fabric,
        cell.condition,
        cell.reason,
    )
