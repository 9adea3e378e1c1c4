"""Is the ledger what its facts say, and what was written? Everything stored, worked out again from the raw rows.

Streams: one pass over the pods' rows by their start, holds that go on carried over, so that millions of them fit.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from msgspec import MsgspecError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import MultipleResultsFound, NoResultFound

from gpugrant.meter.books import sum_of
from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months, totals
from gpugrant.meter.days import Closed, DayRow, contracted_pools, day_row, digests_of, read_cells, read_closed
from gpugrant.meter.difference import Difference, Told
from gpugrant.meter.digests import day_digest
from gpugrant.meter.histories import Histories
from gpugrant.meter.reading import build_from_rows, facts_of, histories_of, stays_in_order
from gpugrant.meter.rows import Accounts
from gpugrant.meter.seals import entered_seal, seal_of_day
from gpugrant.meter.tables import holdings
from gpugrant.meter.timeline import build
from gpugrant.meter.verify_holds import Holds
from gpugrant.meter.verify_journal import Journal, of_sum
from gpugrant.meter.verify_months import check_corrections, check_months, frozen_digest
from gpugrant.meter.window import Built, Cell, PoolOf, Stay

_SEATS = "seats x seconds"

# What is raised over a row that nobody who writes to the ledger would have written.
_UNREADABLE = (ValueError, LookupError, MsgspecError, NoResultFound, MultipleResultsFound)


def verify_ledger(
    connection: Connection, told: Told = lambda *_: None, noted: Collection[str] = ()
) -> Generator[Difference, None, None]:
    """Yield what is not as it should be, what says most about it first; nothing: every invariant holds.

    ``noted``: chains of the journal that were noted outside, such as from ``gpugrant ledger show``.
    """
    journal = Journal()
    try:
        yield from journal.read(connection, noted)
        yield from _everything(connection, journal, told)
    except _UNREADABLE as error:
        words = " ".join(str(error).split()) or type(error).__name__
        yield Difference(
            "some row cannot be read, so that not all could be checked", "another value", words, "it must be"
        )
        yield from _unread(connection, journal)


def _unread(connection: Connection, journal: Journal) -> Iterator[Difference]:
    """Yield what the journal and the ledger's own row say of rows that need not be understood for that."""
    for row in connection.execute(select(days).order_by(days.c.start_at)).all():
        yield from journal.check_day(connection, row)
    yield from journal.check_missing(connection)
    yield from of_sum(holdings, journal.sum_of(holdings), sum_of(connection, holdings))
    yield from journal.check_sums(connection)


def _everything(connection: Connection, journal: Journal, told: Told) -> Iterator[Difference]:
    accounts = Accounts()
    accounts.load(connection)
    histories = histories_of(connection)
    holds, sealed = Holds(), list[Difference]()
    yield from holds.check(connection, told)
    programmes = [
        row.programme for row in connection.execute(select(days.c.programme).distinct().order_by("programme"))
    ]
    for programme in programmes:
        yield from _days(connection, accounts, histories, journal, programme, sealed, told)
    yield from journal.check_missing(connection)
    yield from _totals(connection, accounts)
    yield from check_months(connection, accounts, journal)
    yield from check_corrections(connection, accounts)
    yield from sealed  # says less of what was changed than all before, and misses less
    yield from journal.check_settings(connection)
    yield from holds.check_sum(journal.sum_of(holdings))
    yield from journal.check_sums(connection)


def next_day_to_check(connection: Connection, last: int) -> DayRow | None:
    """Return the stored day after one (by id), the first one after the last; None where there is none."""
    fresh = select(days).where(days.c.stale.is_(False)).order_by(days.c.id).limit(1)
    row = connection.execute(fresh.where(days.c.id > last)).first() or connection.execute(fresh).first()
    return None if row is None else day_row(row)


def drift_of(connection: Connection, accounts: Accounts, row: DayRow) -> int:
    """Return by how many GPU-seconds one stored day differs from its facts.

    At least 1 where its rows are not as they were written, or not as they were when its month closed.
    """
    built = build_from_rows(connection, accounts, row.programme, row.day.start, row.day.end)
    stored = _stored(connection, accounts, row)
    both = stored.keys() | built.cells.keys()
    found = sum(abs(stored.get(cell, 0) - built.cells.get(cell, 0)) for cell in both)
    return found or int(_is_rewritten(connection, accounts, row))


def _is_rewritten(connection: Connection, accounts: Accounts, row: DayRow) -> bool:
    entered = entered_seal(connection, row.programme, row.day.start)
    if entered and entered != seal_of_day(connection, row.id):
        return True
    now = digests_of(read_cells(connection, accounts, cells, row.id), row.day.name)
    closed = select(months).where(months.c.programme == row.programme, months.c.name == row.day.month)
    return any(
        frozen_digest(month.account, row.day.name) != now.get(month.provider, day_digest(()))
        for month in connection.execute(closed)
    )


# -- days ------------------------------------------------------------------------------------------------


def _days(
    connection: Connection,
    accounts: Accounts,
    histories: Histories,
    journal: Journal,
    programme: str,
    sealed: list[Difference],
    told: Told,
) -> Iterator[Difference]:
    """Yield what of a programme's days is not what facts or their own rows say; ``sealed`` gets what was rewritten."""
    query = select(days).where(days.c.programme == programme).order_by(days.c.start_at)
    rows = connection.execute(query).all()
    closed, contracted = read_closed(connection, programme), contracted_pools(connection, programme)
    until = None
    with closing(stays_in_order(connection, accounts)) as ordered:
        stays = _by_days(map(day_row, rows), ordered)
        for number, (stored, touching) in enumerate(zip(rows, stays, strict=True)):
            told(f"days of {programme}", number, len(rows))
            row = day_row(stored)
            if until is not None and row.day.start != until:
                where = f"{programme}: the day {row.day.name} starts at (second)"
                yield Difference(where, f"{until}", f"{row.day.start}")
            until = row.day.end
            check = _Day(connection, accounts, row, closed, contracted)
            if not stored.stale:  # else facts came late for it, and it is about to be summed again
                built = build(facts_of(histories, touching), programme, row.day.start, row.day.end)
                yield from check.compare(built)
            yield from check.check_sums()
            sealed += journal.check_day(connection, stored)


def _by_days(rows: Iterable[DayRow], stays: Iterator[Stay]) -> Iterator[list[Stay]]:
    """Yield the stays that touch each day, of days in order."""
    going_on: list[Stay] = []
    following = next(stays, None)
    for row in rows:
        going_on = [stay for stay in going_on if max(stay.end, stay.gone) > row.day.start]
        while following is not None and following.start < row.day.end:
            if max(following.end, following.gone) > row.day.start:
                going_on.append(following)
            following = next(stays, None)
        yield going_on


def _stored(connection: Connection, accounts: Accounts, row: DayRow) -> Mapping[Cell, int]:
    stored: Counter[Cell] = Counter(read_cells(connection, accounts, cells, row.id))
    for cell, amount in read_cells(connection, accounts, corrections, row.id).items():
        stored[cell] += amount
    return {cell: amount for cell, amount in stored.items() if amount}


class _Day:
    """One stored day: its rows, read once."""

    def __init__(
        self,
        connection: Connection,
        accounts: Accounts,
        row: DayRow,
        closed: Closed,
        contracted: Mapping[str, set[str]],
    ) -> None:
        self._connection = connection
        self._row = row
        self._where = f"{row.programme}, {row.day.name}"
        self._cells = read_cells(connection, accounts, cells, row.id)
        self._corrections = read_cells(connection, accounts, corrections, row.id)
        self._pools = {
            (pool.provider, pool.pool): pool
            for pool in connection.execute(select(day_pools).where(day_pools.c.day_id == row.id))
        }
        # Of providers whose month is closed: what pools must add up to stays as it was then.
        self._final = {
            (provider, pool)
            for provider, pools in contracted.items()
            if (provider, row.day.month) in closed.months
            for pool in pools
        }
        self._final |= {_pool_of(cell) for cell in self._cells if closed.has(cell.account, row.day.month)}

    def compare(self, built: Built) -> Iterator[Difference]:
        """Yield what is not what the facts say."""
        stored: Counter[Cell] = Counter(self._cells)
        for cell, amount in self._corrections.items():
            stored[cell] += amount
        for cell in sorted(stored.keys() | built.cells.keys(), key=repr):
            was, now = stored.get(cell, 0), built.cells.get(cell, 0)
            if was != now:
                yield Difference(f"{self._where}, {_named(cell)}", f"{now}", f"{was}")
        corrected = {_pool_of(cell) for cell in self._corrections}
        for pool in sorted(self._pools.keys() | built.expected.keys()):
            row = self._pools.get(pool)
            names = ("expected", "held", "shortfall") if pool not in self._final else ("held",)
            for name in names if pool not in corrected else ():
                now, was = getattr(built, name).get(pool, 0), getattr(row, name, 0)
                if now != was:
                    what = _SEATS if name == "expected" else name
                    yield Difference(f"{self._where}, pool {pool[1]}, {what}", f"{now}", f"{was}")

    def check_sums(self) -> Iterator[Difference]:
        """Yield digests and sums that are not those of the day's own cells."""
        now = digests_of(self._cells, self._row.day.name)
        query = select(day_digests).where(day_digests.c.day_id == self._row.id)
        known = {one.provider: one.sha256 for one in self._connection.execute(query)}
        for provider in sorted(known.keys() | now.keys()):
            wanted = now.get(provider) or day_digest(())
            if known.get(provider) != wanted:
                where = f"{self._where}, digest for {provider}"
                yield Difference(where, wanted, known.get(provider) or "none", "its cells say")
        sums: Counter[PoolOf] = Counter()
        for cell, amount in self._cells.items():
            sums[_pool_of(cell)] += amount
        for name, pool in self._pools.items():
            if sums[name] != pool.expected:
                where = f"{self._where}, pool {name[1]}, {_SEATS}"
                yield Difference(where, f"{sums[name]}", f"{pool.expected}", "its cells add up to")


def _pool_of(cell: Cell) -> PoolOf:
    return cell.account.provider, cell.account.pool


def _named(cell: Cell) -> str:
    account = cell.account
    parts = (
        account.provider,
        account.pool,
        cell.fabric,
        account.share,
        str(account.owner),
        account.tenant,
        account.grant,
    )
    return "/".join(part for part in parts if part) + f" {cell.condition} {cell.reason}".rstrip()


# -- sums ------------------------------------------------------------------------------------------------


def _totals(connection: Connection, accounts: Accounts) -> Iterator[Difference]:
    wanted: Counter[tuple[int, str, str]] = Counter()
    for table, month in ((cells, days.c.month), (corrections, corrections.c.booked_in)):
        columns: tuple[Any, ...] = (table.c.account_id, month, table.c.condition)
        query = select(*columns, func.sum(table.c.gpu_seconds)).join(days, days.c.id == table.c.day_id)
        for row in connection.execute(query.group_by(*columns)):
            wanted[row[0], row[1], row[2]] += int(row[3])
    stored = {
        (row.account_id, row.month, row.condition): row.gpu_seconds
        for row in connection.execute(select(totals))
    }
    for key in sorted(stored.keys() | wanted.keys()):
        if stored.get(key, 0) != wanted[key]:
            number, name, condition = key
            account = accounts.by_id(number)
            where = f"sum of {name}, {account.provider}/{account.pool}/{account.tenant}/{account.grant} {condition}"
            yield Difference(where, f"{wanted[key]}", f"{stored.get(key, 0)}")
