"""Is the ledger what its facts say? Everything that is stored of sums, worked out again from the raw rows.

Streams: one pass over the pods' rows by their start, holds that go on carried over, so that millions of them fit.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months, totals
from gpugrant.meter.days import DayRow, day_row, digests_of, read_cells
from gpugrant.meter.digests import day_digest
from gpugrant.meter.histories import Histories
from gpugrant.meter.monthly import Frozen
from gpugrant.meter.reading import STREAMED, build_from_rows, facts_of, histories_of, stays_in_order
from gpugrant.meter.rows import Accounts
from gpugrant.meter.tables import accounts as account_rows
from gpugrant.meter.tables import holdings
from gpugrant.meter.timeline import Built, Cell, Stay, build

Told = Callable[[str, int, int], None]  # what is being checked, how much of it is done, of how much


class Difference(Struct, frozen=True):
    """Something stored that is not what the facts say. GPU-seconds, unless ``where`` says otherwise."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{self.where}: {self.found} is stored, the facts say {self.expected}"


def verify_ledger(connection: Connection, told: Told = lambda *_: None) -> Generator[Difference, None, None]:
    """Yield what is not as it should be, in order of time; nothing: every invariant holds."""
    accounts = Accounts()
    accounts.load(connection)
    histories = histories_of(connection)
    yield from _seats_held_twice(connection, told)
    programmes = [
        row.programme for row in connection.execute(select(days.c.programme).distinct().order_by("programme"))
    ]
    for programme in programmes:
        yield from _days(connection, accounts, histories, programme, told)
    yield from _totals(connection, accounts)
    yield from _closed_months(connection)


def next_day_to_check(connection: Connection, last: int) -> DayRow | None:
    """Return the stored day after one (by id), the first one after the last; None where there is none."""
    fresh = select(days).where(days.c.stale.is_(False)).order_by(days.c.id).limit(1)
    row = connection.execute(fresh.where(days.c.id > last)).first() or connection.execute(fresh).first()
    return None if row is None else day_row(row)


def drift_of(connection: Connection, accounts: Accounts, row: DayRow) -> int:
    """Return by how many GPU-seconds one stored day differs from its facts."""
    built = build_from_rows(connection, accounts, row.programme, row.day.start, row.day.end)
    stored = _stored(connection, accounts, row)
    both = stored.keys() | built.cells.keys()
    return sum(abs(stored.get(cell, 0) - built.cells.get(cell, 0)) for cell in both)


# -- seats -----------------------------------------------------------------------------------------------


def _seats_held_twice(connection: Connection, told: Told) -> Iterator[Difference]:
    """Yield binds that find fewer seats than they take, by what the rows say."""
    columns = (
        holdings.c.uid,
        holdings.c.server,
        holdings.c.seats,
        holdings.c.server_seats,
        holdings.c.held_from,
        holdings.c.held_until,
    )
    whole = connection.execute(select(func.count()).select_from(holdings)).scalar() or 0
    query = select(*columns).order_by(holdings.c.held_from)
    active: dict[str, list[tuple[int | None, int]]] = defaultdict(list)
    with connection.execute(query, execution_options=STREAMED) as rows:
        for number, (uid, server, seats, of, start, end) in enumerate(rows):
            if not number % 5000:
                told("seats", number, whole)
            if not of or (end is not None and end <= start):
                continue
            here = [one for one in active[server] if one[0] is None or one[0] > start]
            taken = seats + sum(held for _, held in here)
            if here and taken > of:
                where = f"server {server} at {start}, when pod {uid} was bound: seats held"
                yield Difference(where, f"at most {of}", f"{taken}")
            here.append((end, seats))
            active[server] = here


# -- days ------------------------------------------------------------------------------------------------


def _days(
    connection: Connection, accounts: Accounts, histories: Histories, programme: str, told: Told
) -> Iterator[Difference]:
    query = select(days).where(days.c.programme == programme).order_by(days.c.start_at)
    rows = [(day_row(row), bool(row.stale)) for row in connection.execute(query)]
    until = None
    with closing(stays_in_order(connection, accounts)) as ordered:
        stays = _by_days((row for row, _ in rows), ordered)
        for number, ((row, stale), touching) in enumerate(zip(rows, stays, strict=True)):
            told(f"days of {programme}", number, len(rows))
            if until is not None and row.day.start != until:
                where = f"{programme}: the day {row.day.name} starts at (second)"
                yield Difference(where, f"{until}", f"{row.day.start}")
            until = row.day.end
            if stale:
                continue  # facts came late for it, and it is about to be summed again
            built = build(facts_of(histories, touching), programme, row.day.start, row.day.end)
            yield from _day(connection, accounts, row, built)


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


def _day(connection: Connection, accounts: Accounts, row: DayRow, built: Built) -> Iterator[Difference]:
    where = f"{row.programme}, {row.day.name}"
    stored = _stored(connection, accounts, row)
    for cell in sorted(stored.keys() | built.cells.keys(), key=repr):
        was, now = stored.get(cell, 0), built.cells.get(cell, 0)
        if was != now:
            yield Difference(f"{where}, {_named(cell)}", f"{now}", f"{was}")
    original = read_cells(connection, accounts, cells, row.id)
    yield from _digests(connection, row, where, original)
    corrected = {cell.account.pool for cell in read_cells(connection, accounts, corrections, row.id)}
    sums: Counter[str] = Counter()
    for cell, amount in original.items():
        sums[cell.account.pool] += amount
    for pool in connection.execute(select(day_pools).where(day_pools.c.day_id == row.id)):
        if sums[pool.pool] != pool.expected:
            yield Difference(
                f"{where}, pool {pool.pool}, seats x seconds", f"{pool.expected}", f"{sums[pool.pool]}"
            )
        if pool.pool not in corrected and built.held.get(pool.pool, 0) != pool.held:
            yield Difference(
                f"{where}, pool {pool.pool}, held", f"{built.held.get(pool.pool, 0)}", f"{pool.held}"
            )


def _digests(
    connection: Connection, row: DayRow, where: str, stored: Mapping[Cell, int]
) -> Iterator[Difference]:
    now = digests_of(stored, row.day.name)
    query = select(day_digests).where(day_digests.c.day_id == row.id)
    known = {one.provider: one.sha256 for one in connection.execute(query)}
    for provider in sorted(known.keys() | now.keys()):
        wanted = now.get(provider) or day_digest(())
        if known.get(provider) != wanted:
            yield Difference(f"{where}, digest for {provider}", wanted, known.get(provider) or "none")


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


def _closed_months(connection: Connection) -> Iterator[Difference]:
    """Yield closed months whose days are not what they were when they closed."""
    mine, nothing = account_rows.c.provider, day_digest(())
    for row in connection.execute(select(months).order_by(months.c.end_at)).all():
        frozen = msgspec.json.decode(row.account, type=Frozen)
        query = (
            select(days.c.name, day_digests.c.sha256)
            .join(days, days.c.id == day_digests.c.day_id)
            .where(days.c.programme == row.programme, days.c.month == row.name)
            .where(day_digests.c.provider == row.provider)
        )
        stored = {one.name: one.sha256 for one in connection.execute(query)}
        for day in frozen.account.days:
            if stored.get(day.day, nothing) != day.sha256:
                where = f"closed month {frozen.account.name}, digest of {day.day}"
                yield Difference(where, day.sha256, stored.get(day.day, nothing))
        counted = sum(one.counted for one in frozen.account.identities if one.name == "seats x seconds")
        whole = (
            select(func.sum(cells.c.gpu_seconds))
            .join(days, days.c.id == cells.c.day_id)
            .join(account_rows, account_rows.c.id == cells.c.account_id)
            .where(days.c.programme == row.programme, days.c.month == row.name, mine == row.provider)
        )
        found = int(connection.execute(whole).scalar() or 0)
        if found != counted:
            yield Difference(f"closed month {frozen.account.name}, all GPU-seconds", f"{counted}", f"{found}")
