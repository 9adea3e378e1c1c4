"""Closing a day, and making one anew that facts came late for: what it is to become, and its one transaction."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, select

from gpugrant.meter.books import BROKEN, CUT, DAY, Books, Entry, take_lock
from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months, totals
from gpugrant.meter.days import DayRow, Rewrite, add_day, day_row, read_cells, read_closed, stale_day
from gpugrant.meter.facts import Account
from gpugrant.meter.floors import Sums, write_floors
from gpugrant.meter.months import Calendar, Calendars, Day, day_from
from gpugrant.meter.reading import build_from_rows
from gpugrant.meter.rows import Accounts, add_to, enter_accounts
from gpugrant.meter.seals import entered_seal, seal_of_day
from gpugrant.meter.tables import accounts as account_rows
from gpugrant.meter.tally import DayEnds, Delta, Tally
from gpugrant.meter.window import Built, Cell

SETTLE_SECONDS = 60  # how long after its end a day closes


def settle_seconds(calendar: Calendar) -> int:
    """Return how long after its end a day closes; less for the short months of tests."""
    return min(SETTLE_SECONDS, max(1, calendar.period // 10)) if calendar.period else SETTLE_SECONDS


class Settling(Struct):
    """One day and what it is to become. ``row`` is None for a day that closes."""

    accounts: Accounts
    tally: Tally
    programme: str
    day: Day
    built: Built
    row: DayRow | None = None
    stored: Mapping[Cell, int] = {}
    corrected: Mapping[Cell, int] = {}

    @classmethod
    def find(cls, connection: Connection, accounts: Accounts, tally: Tally) -> "Settling | None":
        """Return the next day that is to be written, with what its facts say; None if there is none."""
        for programme in tally.programmes():
            day = tally.next_day(programme)
            if day.end + settle_seconds(tally.calendars.of(programme)) <= tally.watermark:
                built = build_from_rows(connection, accounts, programme, day.start, day.end)
                return cls(accounts, tally, programme, day, built)
        row = stale_day(connection)
        if row is None:
            return None
        return cls(
            accounts,
            tally,
            row.programme,
            row.day,
            build_from_rows(connection, accounts, row.programme, row.day.start, row.day.end),
            row,
            read_cells(connection, accounts, cells, row.id),
            read_cells(connection, accounts, corrections, row.id),
        )

    def write(
        self, connection: Connection, writes: int, step: Callable[[str], None]
    ) -> tuple[Delta, dict[Account, int]]:
        """Write the day; return what changes, and the accounts that are new. Raises SupersededError."""
        books = take_lock(connection, writes)
        step("locked")
        row = self.row or DayRow(add_day(connection, self.programme, self.day), self.programme, self.day)
        self._check_seal(connection, books)
        closed = read_closed(connection, self.programme)
        rewrite = Rewrite(connection, row, closed, self.tally.calendars.of(self.programme))
        rewrite.compare(self.stored, self.corrected, self.built)
        shown = self.tally.floors_of_falls(rewrite.moved) if self.row else {}
        ids = self.accounts.ids(connection, [*rewrite.moved, *(account for account, _ in shown)])
        enter_accounts(books, self.accounts, ids)
        rewrite.write(ids, self.built)
        step("cells")
        rewrite.write_digests(self.stored, self.built)
        step("digests")
        self._write_totals(connection, ids, rewrite.moved)
        step("totals")
        write_floors(connection, books, shown, self.tally.floors_kept, ids, step)
        for entry in rewrite.revisions:
            books.enter(entry)
        books.enter(self._entry(DAY, sha256=seal_of_day(connection, row.id)))
        books.close(connection)
        step("journal")
        ends: dict[str, DayEnds] = {}
        if self.row is None:
            known = self.tally.days.get(self.programme) or DayEnds(self.day.start, 0)
            ends[self.programme] = DayEnds(known.first, self.day.end, known.closed_month, known.closed_until)
        delta = Delta(
            closed=rewrite.moved,
            shown=shown,
            days=ends,
            digests=tuple(rewrite.digests),
            shortfall=rewrite.shortfall,
        )
        return delta, ids

    def _check_seal(self, connection: Connection, books: Books) -> None:
        """Enter a day that is not as it was written last: to write it anew must not hide that."""
        if self.row is not None:
            known = entered_seal(connection, self.programme, self.day.start)
            if known and known != seal_of_day(connection, self.row.id):
                books.enter(self._entry(BROKEN))

    def _entry(self, kind: str, sha256: str = "") -> Entry:
        return Entry(kind, self.programme, name=self.day.name, start=self.day.start, sha256=sha256)

    def _write_totals(
        self, connection: Connection, ids: Mapping[Account, int], moved: Mapping[Account, Sums]
    ) -> None:
        known: list[dict[str, Any]] = []
        fresh: list[dict[str, Any]] = []
        for account, sums in moved.items():
            for (month, condition), amount in sums.items():
                there = self.tally.has_total(account, month, condition)
                row = {"account_id": ids[account], "month": month, "condition": condition.value}
                (known if there else fresh).append(row | {"gpu_seconds": amount})
        add_to(connection, totals, known, fresh)


def cut_again(connection: Connection, books: Books, was: Calendars, now: Calendars) -> None:
    """Let go of stored days after the last closed month where a programme's calendar is another one now.

    They are written anew as they close, cut as they are cut now. What is in closed months stays.
    """
    programmes = [row.programme for row in connection.execute(select(days.c.programme).distinct())]
    for programme in programmes:
        if was.of(programme) == now.of(programme):
            continue
        final = select(func.max(months.c.end_at)).where(months.c.programme == programme)
        after = connection.execute(final).scalar() or 0
        if _is_cut_alike(connection, programme, after, now.of(programme)):
            continue
        gone = select(days.c.id).where(days.c.programme == programme, days.c.start_at >= after)
        for table in (cells, day_pools, day_digests):
            connection.execute(delete(table).where(table.c.day_id.in_(gone)))
        connection.execute(delete(days).where(days.c.programme == programme, days.c.start_at >= after))
        sum_again(connection, programme)
        books.enter(Entry(CUT, programme, start=after))


def _is_cut_alike(connection: Connection, programme: str, after: int, calendar: Calendar) -> bool:
    """Say whether a calendar cuts the stored days as they are: a zone's other name, or one of the same hours."""
    query = select(days).where(days.c.programme == programme, days.c.start_at >= after)
    stored = [day_row(row).day for row in connection.execute(query)]
    return all(day == day_from(calendar, day.start) for day in stored)


def sum_again(connection: Connection, programme: str) -> None:
    """Make a programme's totals anew from its cells and corrections."""
    mine = select(account_rows.c.id).where(account_rows.c.programme == programme)
    connection.execute(delete(totals).where(totals.c.account_id.in_(mine)))
    sums: dict[tuple[int, str, str], int] = {}
    for table, month in ((cells, days.c.month), (corrections, corrections.c.booked_in)):
        columns = (table.c.account_id, month, table.c.condition)
        query = (
            select(*columns, func.sum(table.c.gpu_seconds))
            .join(days, days.c.id == table.c.day_id)
            .where(days.c.programme == programme)
            .group_by(*columns)
        )
        for number, name, condition, amount in connection.execute(query):
            key = (number, name, condition)
            sums[key] = sums.get(key, 0) + int(amount)
    if sums:
        names = ("account_id", "month", "condition")
        connection.execute(
            insert(totals), [dict(zip(names, key, strict=True), gpu_seconds=n) for key, n in sums.items()]
        )
