"""Checks of closed months, which are what they were when they closed, and of corrections."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, select

from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months
from gpugrant.meter.days import contracted_pools, line_of, read_closed
from gpugrant.meter.difference import JOURNAL, Difference
from gpugrant.meter.digests import day_digest
from gpugrant.meter.facts import Account, Condition, Owner
from gpugrant.meter.month import AwardRow, Correction, MonthAccount
from gpugrant.meter.monthly import HELD_IDENTITY, SEATS_IDENTITY, Frozen
from gpugrant.meter.months import Calendar
from gpugrant.meter.reading import read_state
from gpugrant.meter.rows import Accounts
from gpugrant.meter.seals import seal_of_month
from gpugrant.meter.verify_journal import Journal
from gpugrant.meter.window import Cell

DAYS = "its days say"
FROZEN = "the account that was kept as it closed says"


def check_months(connection: Connection, accounts: Accounts, journal: Journal) -> Iterator[Difference]:
    """Yield what of closed months is not what it was, or not what their days say, in the order they closed."""
    seals: dict[tuple[str, str], str] = {}
    for row in connection.execute(select(months).order_by(months.c.id)).mappings().all():
        who = (row["programme"], row["provider"])
        kept = msgspec.json.decode(row["account"], type=Frozen)
        yield from _days(connection, row, kept.account)
        yield from _heads(row, kept.account)
        yield from _sums(connection, accounts, row, kept.account)
        yield from _booked(connection, accounts, row, kept)
        where = f"table months, closed month {kept.account.name}: seal over the month and the one closed before it"
        seal = seal_of_month(row, seals.get(who, ""))
        if row["seal"] != seal:
            yield Difference(where, seal, row["seal"], "both say")
        entered = journal.months.get((*who, row["name"]), "none")
        if row["seal"] != entered:
            yield Difference(where, entered, row["seal"], JOURNAL)
        seals[who] = row["seal"]


def frozen_digest(account: str, day: str) -> str:
    """Return the digest that a day had when its month closed; ``account`` is as it is stored."""
    kept = msgspec.json.decode(account, type=Frozen).account.days
    return next((one.sha256 for one in kept if one.day == day), day_digest(()))


def _heads(row: RowMapping, account: MonthAccount) -> Iterator[Difference]:
    """Yield where a month's columns and the account kept in it differ."""
    where = f"table months, {row['programme']}-{row['provider']}-{row['name']}"
    wanted = {
        "programme": account.programme,
        "provider": account.provider,
        "name": account.month,
        "start_at": account.start,
        "end_at": account.end,
        "closed_at": account.closed_at,
    }
    for column, value in wanted.items():
        if row[column] != value:
            yield Difference(f"{where}, {column}", f"{value}", f"{row[column]}", FROZEN)


def _days(connection: Connection, row: RowMapping, account: MonthAccount) -> Iterator[Difference]:
    """Yield days whose digest or revision is not what it was when the month closed."""
    mine = (day_digests.c.day_id == days.c.id) & (day_digests.c.provider == row["provider"])
    query = (
        select(days.c.name, day_digests.c.sha256, day_digests.c.revision)
        .outerjoin(day_digests, mine)
        .where(days.c.programme == row["programme"], days.c.month == row["name"])
    )
    nothing = day_digest(())
    stored = {one.name: (one.sha256 or nothing, one.revision or 0) for one in connection.execute(query)}
    kept = {one.day: (one.sha256, one.revision) for one in account.days}
    for day in sorted(stored.keys() | kept.keys()):
        # A day that was added before the first one, for what came late, has nothing but corrections.
        found, wanted = stored.get(day, ("none", 0)), kept.get(day, (nothing, 0))
        where = f"closed month {account.name}, digest of {day}"
        if found[0] != wanted[0]:
            yield Difference(where, wanted[0], found[0], FROZEN)
        elif found[1] != wanted[1]:
            yield Difference(f"{where}, revision", f"{wanted[1]}", f"{found[1]}", FROZEN)


# -- sums ------------------------------------------------------------------------------------------------


def _sums(
    connection: Connection, accounts: Accounts, row: RowMapping, account: MonthAccount
) -> Iterator[Difference]:
    """Yield what a closed month says it adds up to and its days do not."""
    found = list(_cells(connection, accounts, row))
    pools = _pools(connection, row)
    yield from _identities(account, found, pools)
    yield from _awards(account, found)
    short = {one.pool: one.gpu_seconds for one in account.shortfall}
    for pool in sorted(short.keys() | _pools_of(connection, row)):
        where = f"closed month {account.name}, shortfall of {pool}"
        yield from _differ(where, pools[pool]["shortfall"], short.get(pool, 0))


def _identities(
    account: MonthAccount, found: Sequence[tuple[Cell, int]], pools: Mapping[str, Counter[str]]
) -> Iterator[Difference]:
    counted: Counter[str] = Counter()
    for cell, amount in found:
        counted[cell.account.pool] += amount
    kept = {(one.name, one.pool): one for one in account.identities}
    for pool in sorted(counted.keys() | {pool for _, pool in kept}):
        where = f"closed month {account.name}, {SEATS_IDENTITY} of {pool}"
        seats, held = kept.get((SEATS_IDENTITY, pool)), kept.get((HELD_IDENTITY, pool))
        yield from _differ(f"{where}, counted", counted[pool], seats.counted if seats else 0)
        yield from _differ(f"{where}, expected", pools[pool]["expected"], seats.expected if seats else 0)
        where = f"closed month {account.name}, {HELD_IDENTITY} of {pool}, counted"
        yield from _differ(where, pools[pool]["held"], held.counted if held else 0)


def _awards(account: MonthAccount, found: Sequence[tuple[Cell, int]]) -> Iterator[Difference]:
    counted: Counter[tuple[str, ...]] = Counter()
    kept: Counter[tuple[str, ...]] = Counter()
    for cell, amount in found:
        if cell.account.owner is Owner.GRANT:
            for name in _awarded(cell.condition):
                counted[*_grant(cell.account), name] += amount
    for award in account.awards:
        for name in _AWARDED:
            kept[*_grant(award), name] += getattr(award, name)
    for key in sorted(counted.keys() | kept.keys()):
        where = f"closed month {account.name}, award of {'/'.join(filter(None, key[:-1]))}, {key[-1]}"
        yield from _differ(where, counted[key], kept[key])


_AWARDED = ("granted_gpu_seconds", "held_gpu_seconds", "failed_gpu_seconds", "grace_gpu_seconds")


def _awarded(condition: Condition) -> Iterator[str]:
    """Yield the columns of an award that a condition counts in."""
    granted, held, failed, grace = _AWARDED
    yield grace if condition is Condition.GRACE else granted
    if condition is Condition.USED:
        yield held
    if condition is Condition.FAILED:
        yield failed


def _grant(one: Account | AwardRow) -> tuple[str, ...]:
    return (one.pool, one.share, one.tenant, one.award, one.grant)


def _differ(where: str, wanted: int, found: int) -> Iterator[Difference]:
    if wanted != found:
        yield Difference(where, f"{wanted}", f"{found}", DAYS)


def _cells(connection: Connection, accounts: Accounts, row: RowMapping) -> Iterator[tuple[Cell, int]]:
    columns = (cells.c.account_id, cells.c.fabric, cells.c.condition, cells.c.reason, cells.c.gpu_seconds)
    query = select(*columns).join(days, days.c.id == cells.c.day_id)
    mine = query.where(days.c.programme == row["programme"], days.c.month == row["name"])
    for number, fabric, condition, reason, amount in connection.execute(mine):
        account = accounts.by_id(number)
        if account.provider == row["provider"]:
            yield Cell(account, fabric, Condition(condition), reason), amount


def _pools(connection: Connection, row: RowMapping) -> Mapping[str, Counter[str]]:
    """Return what the days of a month have of each pool."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    query = select(day_pools).join(days, days.c.id == day_pools.c.day_id).filter(
        day_pools.c.provider == row["provider"]
    )
    for one in connection.execute(
        query.where(days.c.programme == row["programme"], days.c.month == row["name"])
    ):
        found[one.pool].update(expected=one.expected, shortfall=one.shortfall, held=one.held)
    return found


def _pools_of(connection: Connection, row: RowMapping) -> set[str]:
    """Return the pools that a provider has, or had, a contract for."""
    return contracted_pools(connection, row["programme"]).get(row["provider"], set())


# -- corrections -----------------------------------------------------------------------------------------


def _booked(
    connection: Connection, accounts: Accounts, row: RowMapping, kept: Frozen
) -> Iterator[Difference]:
    """Yield corrections that were booked in a month after it closed, or are gone from it."""
    query = (
        select(corrections, days.c.name, days.c.month)
        .join(days, days.c.id == corrections.c.day_id)
        .where(days.c.programme == row["programme"], corrections.c.booked_in == row["name"])
    )
    stored: Counter[Correction] = Counter()
    for one in connection.execute(query):
        cell = Cell(accounts.by_id(one.account_id), one.fabric, Condition(one.condition), one.reason)
        if cell.account.provider == row["provider"]:
            stored[Correction(one.month, line_of(cell, one.name, one.gpu_seconds, kept.names), one.why)] += 1
    stored.subtract(kept.account.corrections)
    for booked, times in sorted(stored.items()):
        if times:
            line = booked.line
            what = "/".join(filter(None, (line.pool, line.tenant, line.grant, line.condition, line.reason)))
            where = f"table corrections, booked in closed month {kept.account.name}, {line.day}, {what}"
            shown = f"{line.gpu_seconds}" if abs(times) == 1 else f"{line.gpu_seconds} ({abs(times)} rows)"
            expected, found = ("no such row", shown) if times > 0 else (shown, "no such row")
            yield Difference(where, expected, found, FROZEN)


def check_corrections(connection: Connection, accounts: Accounts) -> Iterator[Difference]:
    """Yield corrections that do not take back what was counted and say what is so instead, one after the other."""
    calendars = read_state(connection).calendars
    programmes = connection.execute(select(days.c.programme).distinct().order_by("programme")).scalars().all()
    for programme in programmes:
        closed, calendar = read_closed(connection, programme), calendars.of(programme)
        counts: dict[tuple[int, Cell], int] = {}
        query = select(corrections, days.c.name, days.c.month).join(days, days.c.id == corrections.c.day_id)
        for row in connection.execute(
            query.where(days.c.programme == programme).order_by(corrections.c.id)
        ).all():
            cell = Cell(accounts.by_id(row.account_id), row.fabric, Condition(row.condition), row.reason)
            where = f"table corrections, row {row.id} ({programme}, {row.name}, {cell.account.pool} {cell.condition})"
            key = (row.day_id, cell)
            if key not in counts:
                counts[key] = _counted(connection, row)
            yield from _step(where, counts[key], row.gpu_seconds)
            counts[key] += row.gpu_seconds
            if not closed.has(cell.account, row.month):
                yield Difference(
                    f"{where}, of month {row.month}", "closed", "open", "a correction's month is"
                )
            elif not closed.has(cell.account, row.booked_in):
                last = closed.next_open(cell.account.provider, calendar)
                if _is_after(calendar, row.booked_in, last):
                    yield Difference(f"{where}, booked_in", last, row.booked_in, "the first open month is")


def _step(where: str, counted: int, amount: int) -> Iterator[Difference]:
    """Yield what is no reversal of all that was counted, and no entry where nothing was."""
    if counted and amount != -counted:
        yield Difference(
            f"{where}, the reversal of what was counted", f"{-counted}", f"{amount}", "before it"
        )
    elif not counted and amount <= 0:
        yield Difference(f"{where}, an entry after its reversal", "more than 0", f"{amount}", "it must be")


def _counted(connection: Connection, row: Any) -> int:
    """Return what a day had of a correction's cell as its month closed."""
    names = ("day_id", "account_id", "fabric", "condition", "reason")
    mine = {name: getattr(row, name) for name in names}
    return connection.execute(select(cells.c.gpu_seconds).filter_by(**mine)).scalar() or 0


def _is_after(calendar: Calendar, name: str, other: str) -> bool:
    try:
        return calendar.month_named(name).start > calendar.month_named(other).start
    except ValueError:
        return False  # named by a calendar that was another one; the day's seal is over it
