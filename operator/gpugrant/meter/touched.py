"""What a batch of facts makes otherwise: which seconds, of which pools; and the stored days that it comes late for."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection

from gpugrant.meter.books import LATE, Books, Entry
from gpugrant.meter.days import add_day, mark_stale
from gpugrant.meter.facts import Placed
from gpugrant.meter.floors import EVERY_POOL
from gpugrant.meter.histories import FOR_EVER, Dated, Key
from gpugrant.meter.months import Day, day_from, first_second
from gpugrant.meter.tally import DayEnds, Tally


class Touched:
    """What one transaction touches. ``history`` gives histories as the batch makes them."""

    def __init__(
        self,
        connection: Connection,
        books: Books,
        tally: Tally,
        opened_at: int,
        history: Callable[[type[Any], Key], list[Dated]],
    ) -> None:
        self._connection = connection
        self._books = books
        self._tally = tally
        self._opened_at = opened_at
        self._history = history
        self._spans: list[tuple[int, int]] = []  # [since, until) in which things are otherwise now
        self.pools: set[str] = set()
        self._begins: dict[str, int] = {}

    @property
    def since(self) -> int:
        """Return the first second that is otherwise now."""
        return min((start for start, _ in self._spans), default=FOR_EVER)

    def touch(self, since: int, until: int, server: str = "", pool: str = "") -> None:
        """Take note that [since, until) is otherwise than it was, and in which pools."""
        if since >= until:
            return
        self._spans.append((since, until))
        self.pools.add(pool)
        if server:
            history = self._history(Placed, server)
            # Where a server is of no pool, its seconds are on the accounts that its pods were bound on.
            pools = {
                placed.pool if isinstance(placed, Placed) and placed.seats else EVERY_POOL
                for placed in history
            }
            self.pools |= pools
            if not history or history[0].since > since:
                self.pools.add(EVERY_POOL)

    def begin(self, programme: str, at: int) -> None:
        """Take note that there is something of a programme from a moment on."""
        if programme:
            self._begins[programme] = min(at, self._begins.get(programme, at))

    def mark_days(self) -> dict[str, DayEnds]:
        """Mark the stored days that are otherwise now; add those before the first, where there was nothing yet."""
        ends = self._tally.days
        latest = max((one.until for one in ends.values()), default=0)
        for since, until in self._spans:
            if since < latest:
                for programme, day in mark_stale(self._connection, since, until):
                    self._enter_late(programme, day)
        grown: dict[str, DayEnds] = {}
        for programme, begin in self._begins.items():
            known = ends.get(programme)
            if known is None:
                continue
            first = self._accounted_from(programme, known, begin)
            if first < known.first:
                grown[programme] = replace(known, first=self._add_days_before(programme, known.first, first))
        return grown

    def _accounted_from(self, programme: str, known: DayEnds, begin: int) -> int:
        """Return where days start that have to be there: no month is made before one that is closed."""
        calendar = self._tally.calendars.of(programme)
        if known.closed_month:
            begin = max(begin, calendar.month_of(known.first).start)
        return first_second(calendar, begin, self._opened_at)

    def _add_days_before(self, programme: str, first: int, begin: int) -> int:
        """Write the days from that of ``begin`` to the first stored one, to be summed; return where they start."""
        calendar = self._tally.calendars.of(programme)
        start = at = begin
        while at < first:
            day = day_from(calendar, at)
            add_day(self._connection, programme, replace(day, end=min(day.end, first)), stale=True)
            self._enter_late(programme, day)
            at = day.end
        return start

    def _enter_late(self, programme: str, day: Day) -> None:
        """Enter that facts came late for a day: nothing else may mark it stale."""
        self._books.enter(Entry(LATE, programme, name=day.name, start=day.start))
