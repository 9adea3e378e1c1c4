"""Months of a programme: half-open, in its zone, cut exactly (also where a zone changes its clocks).

A period setting of some seconds makes short "months" for tests; they are aligned to the epoch, and named by the
second they start with, in UTC: 2026-11-22t211930z.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import Struct

DEFAULT_ZONE = "Asia/Seoul"
_PERIOD_NAME = "%Y-%m-%dt%H%M%Sz"  # part of objects' and folders' names


class Month(Struct, frozen=True):
    """[start, end) in epoch seconds; the name sorts by time: 2026-11."""

    name: str
    start: int
    end: int


class Day(Struct, frozen=True):
    """[start, end) in epoch seconds, and the name of the month it is of. Names sort by time: 2026-11-01."""

    name: str
    month: str
    start: int
    end: int


class Calendar(Struct, frozen=True):
    """How a programme's time is divided. ``period`` 0: calendar months."""

    zone: str = DEFAULT_ZONE
    period: int = 0

    def month_of(self, at: int) -> Month:
        """Return the month that ``at`` lies in."""
        if self.period:
            return _period(at // self.period, self.period)
        local = datetime.fromtimestamp(at, _zone(self.zone))
        return _month(self.zone, local.year, local.month)

    def day_of(self, at: int) -> Day:
        """Return the day that ``at`` lies in; where a period makes short months, that is the whole of one."""
        if self.period:
            whole = self.month_of(at)
            return Day(whole.name, whole.name, whole.start, whole.end)
        local = datetime.fromtimestamp(at, _zone(self.zone))
        return _day(self.zone, local.year, local.month, local.day)

    def month_named(self, name: str) -> Month:
        """Return the month of a name; raises ValueError where there is none."""
        if self.period:
            at = int(datetime.strptime(name, _PERIOD_NAME).replace(tzinfo=UTC).timestamp())
            found = self.month_of(at)
        else:
            first = datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC)
            found = _month(self.zone, first.year, first.month)
        if found.name != name:
            raise ValueError(f"{name} is no month of this calendar")
        return found

    def before(self, month: Month) -> Month:
        """Return the month before ``month``."""
        return self.month_of(month.start - 1)

    def recent(self, at: int, count: int = 3) -> tuple[Month, ...]:
        """Return the month of ``at`` and those before it, newest first, ``count`` in all."""
        months = [self.month_of(at)]
        while len(months) < count:
            months.append(self.before(months[-1]))
        return tuple(months)


def day_from(calendar: Calendar, at: int, closed_month: str = "", closed_until: int = 0) -> Day:
    """Return the day that begins at ``at``: the rest of the calendar's, if ``at`` lies within one.

    Where a zone was changed, what is left of a day may belong to a month that is closed already. The first day
    after it takes that in.
    """
    day = calendar.day_of(at)
    if at == closed_until and day.month == closed_month:
        day = calendar.day_of(calendar.month_of(at).end)
    return Day(day.name, day.month, at, day.end)


def first_second(calendar: Calendar, begin: int, opened_at: int) -> int:
    """Return where the first day starts of what begins at a moment: never before the ledger was opened."""
    return max(calendar.day_of(max(begin, opened_at)).start, opened_at)


class Calendars(Struct, frozen=True):
    """The calendar of every programme: its zone, and the period that the operator's settings give."""

    zones: tuple[tuple[str, str], ...] = ()
    period: int = 0

    def of(self, programme: str) -> Calendar:
        """Return a programme's calendar; one that is not known has the default zone."""
        return _calendar(self, programme)


@lru_cache(maxsize=256)
def _calendar(calendars: Calendars, programme: str) -> Calendar:
    return Calendar(dict(calendars.zones).get(programme, DEFAULT_ZONE), calendars.period)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=4096)
def _month(zone: str, year: int, month: int) -> Month:
    following = (year, month + 1) if month < 12 else (year + 1, 1)
    start, end = (
        int(datetime(*first, 1, tzinfo=_zone(zone)).timestamp()) for first in ((year, month), following)
    )
    return Month(f"{year:04d}-{month:02d}", start, end)


@lru_cache(maxsize=4096)
def _day(zone: str, year: int, month: int, day: int) -> Day:
    first = date(year, month, day)
    following = first + timedelta(days=1)
    start, end = (
        int(datetime(one.year, one.month, one.day, tzinfo=_zone(zone)).timestamp())
        for one in (first, following)
    )
    return Day(first.isoformat(), f"{year:04d}-{month:02d}", start, end)


@lru_cache(maxsize=4096)
def _period(number: int, seconds: int) -> Month:
    start = number * seconds
    return Month(datetime.fromtimestamp(start, UTC).strftime(_PERIOD_NAME), start, start + seconds)
