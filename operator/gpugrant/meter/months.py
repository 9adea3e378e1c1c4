"""Months of a programme: half-open, in its zone, cut exactly (also where a zone changes its clocks).

A period setting of some seconds makes short "months" for tests; they are aligned to the epoch.
"""

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import Struct

DEFAULT_ZONE = "Asia/Seoul"


class Month(Struct, frozen=True):
    """[start, end) in epoch seconds; the name sorts by time: 2026-11."""

    name: str
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

    def before(self, month: Month) -> Month:
        """Return the month before ``month``."""
        return self.month_of(month.start - 1)

    def recent(self, at: int, count: int = 3) -> tuple[Month, ...]:
        """Return the month of ``at`` and those before it, newest first, ``count`` in all."""
        months = [self.month_of(at)]
        while len(months) < count:
            months.append(self.before(months[-1]))
        return tuple(months)


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
def _period(number: int, seconds: int) -> Month:
    start = number * seconds
    return Month(datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), start, start + seconds)
