"""Where a month's report stands, and what keeps its month from closing. Pure."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from gpugrant.config import Programme
from gpugrant.decide.reasons import Verdict
from gpugrant.expose.report.amounts import local_time
from gpugrant.expose.report.rows import SEATS_IDENTITY
from gpugrant.meter.digests import day_names
from gpugrant.meter.facts import Condition
from gpugrant.meter.month import Identity, MonthAccount
from gpugrant.meter.months import Month

# What people mark a report with; the command line writes them into the ledger.
BUILD: Final = "build"
CLOSE: Final = "close"
SIGN_OFF: Final = "sign-off"
ACKNOWLEDGE: Final = "acknowledge"

_CALENDAR_MONTH: Final = len("2026-11")
_MOST_NAMED: Final = 3


class Mark(Struct, frozen=True):
    """Something a person said of a report: what, who, under which reference, when (epoch seconds)."""

    kind: str
    by: str
    reference: str
    at: int


class Days(Struct, frozen=True):
    """When a month may turn to Closing and close, and the last second before it is overdue; epoch seconds."""

    closing: int
    close: int
    due: int


class Figures(Struct, frozen=True):
    """What a month was counted to be. GPU-seconds; times in epoch seconds."""

    until: int
    totals: tuple[tuple[str, str, str, int], ...]  # share, GPU type, condition, GPU-seconds
    expected: int
    counted: int
    failing: tuple[Identity, ...]
    unobserved: tuple[tuple[str, int], ...]  # by pool
    unobserved_limit: int
    corrections: int
    missing_days: tuple[str, ...]


class Standing(Struct, frozen=True):
    """Where a report stands. ``now`` and ``watermark`` in epoch seconds."""

    programme: str
    month: Month
    zone: str
    days: Days
    now: int
    watermark: int
    marks: tuple[Mark, ...] = ()
    earlier_open: str = ""  # the report of an earlier month that is not closed
    unable: str = ""  # why nothing can be signed or kept
    acknowledged_by: str = ""  # as the object's spec says
    generation: int = 1

    def last(self, kind: str) -> Mark | None:
        """Return the newest mark of a kind."""
        return max((mark for mark in self.marks if mark.kind == kind), key=lambda mark: mark.at, default=None)

    @property
    def is_over(self) -> bool:
        """Say whether the month is over and the ledger complete to its end."""
        return self.now >= self.month.end and self.watermark >= self.month.end

    @property
    def is_closing(self) -> bool:
        """Say whether it is time to look whether the month can close."""
        return self.is_over and (self.now >= self.days.closing or self.last(CLOSE) is not None)

    def time(self, at: int) -> str:
        """Return epoch seconds as RFC 3339 in the programme's zone."""
        return local_time(at, self.zone)


def days_of(month: Month, rules: Programme) -> Days:
    """Return when a month closes and is due. A short period closes at once and is due one period later."""
    if len(month.name) != _CALENDAR_MONTH:
        return Days(month.end, month.end, 2 * month.end - month.start)
    following = datetime.fromtimestamp(month.end, rules.zone)

    def midnight(day: int, more: int = 0) -> int:
        there = datetime(following.year, following.month, day, tzinfo=rules.zone)
        return int((there + timedelta(days=more)).timestamp())

    report = rules.report
    return Days(midnight(report.closing_day), midnight(report.close_day), midnight(report.due_day, 1) - 1)


def figures_of(account: MonthAccount) -> Figures:
    """Return what the status shows of a month's account, and what decides about its closing."""
    totals: Counter[tuple[str, str, str]] = Counter()
    unobserved: Counter[str] = Counter()
    for line in account.lines:
        totals[line.share, line.gpu_type, line.condition] += line.gpu_seconds
        if line.condition == Condition.UNOBSERVED:
            unobserved[line.pool] += line.gpu_seconds
    seats = [one for one in account.identities if one.name == SEATS_IDENTITY]
    if len(account.month) == _CALENDAR_MONTH:
        due = day_names(account.start, account.until, account.zone)
    else:
        due = (account.month,)  # a short month is one day of the ledger
    closed = {day.day for day in account.days}
    if closed and not account.previous_manifest:
        due = tuple(day for day in due if day >= min(closed))  # the first month begins when the ledger did
    return Figures(
        until=account.until,
        totals=tuple((*key, amount) for key, amount in sorted(totals.items())),
        expected=sum(one.expected for one in seats),
        counted=sum(one.counted for one in seats),
        failing=tuple(sorted(one for one in account.identities if one.difference)),
        unobserved=tuple(sorted(unobserved.items())),
        unobserved_limit=account.unobserved_limit,
        corrections=len(account.corrections),
        missing_days=tuple(day for day in due if day not in closed),
    )


# -- what keeps a month from closing -------------------------------------------------------------------


def hindrances(standing: Standing, figures: Figures) -> tuple[Verdict, ...]:
    """Return all that keeps a month from closing now; empty: it may close."""
    month = standing.month
    if standing.now < month.end:
        return (Verdict(False, "MonthRunning", f"the month ends at {standing.time(month.end)}"),)
    if min(standing.watermark, figures.until) < month.end:
        message = (
            f"the ledger is complete to {standing.time(min(standing.watermark, figures.until))}, the month ends at "
            f"{standing.time(month.end)}: it closes once the operator has caught up"
        )
        return (Verdict(False, "LedgerBehind", message),)
    return tuple(
        verdict
        for verdict in (
            _identities(figures),
            _unobserved(standing, figures),
            _days(figures),
            _earlier(standing),
            _unable(standing),
            _too_early(standing),
        )
        if verdict is not None
    )


def _identities(figures: Figures) -> Verdict | None:
    if not figures.failing:
        return None
    named = _some(
        f"{one.name} of pool {one.pool}: expected {one.expected}, counted {one.counted} GPU-seconds "
        f"({one.difference:+d})"
        for one in figures.failing
    )
    advice = "`gpugrant ledger verify` prints the first row that differs"
    return Verdict(False, "NotReconciled", f"the month does not reconcile: {named}; {advice}")


def _unobserved(standing: Standing, figures: Figures) -> Verdict | None:
    total = sum(amount for _, amount in figures.unobserved)
    if total <= figures.unobserved_limit:
        return None
    largest = sorted(figures.unobserved, key=lambda pool: -pool[1])
    pools = _some(f"pool {pool}: {amount}" for pool, amount in largest)
    message = (
        f"{total} GPU-seconds are Unobserved ({pools}) and {figures.unobserved_limit} are allowed: "
        "`gpugrant ledger verify` checks the ledger; an officer who accepts the gap raises "
        f"programmes.{standing.programme}.report.unobservedLimitGpuSeconds in the settings"
    )
    return Verdict(False, "TooMuchUnobserved", message)


def _days(figures: Figures) -> Verdict | None:
    if not figures.missing_days:
        return None
    message = f"the ledger has not closed {_some(figures.missing_days)} yet; it does so by itself"
    return Verdict(False, "DaysOpen", message)


def _earlier(standing: Standing) -> Verdict | None:
    if not standing.earlier_open:
        return None
    message = f"{standing.earlier_open} is not closed: months close in order, each signs the one before"
    return Verdict(False, "EarlierMonthOpen", message)


def _unable(standing: Standing) -> Verdict | None:
    return Verdict(False, "CannotSign", standing.unable) if standing.unable else None


def _too_early(standing: Standing) -> Verdict | None:
    if standing.now >= standing.days.close or standing.last(CLOSE) is not None:
        return None
    message = (
        f"everything holds; it closes at {standing.time(standing.days.close)}, "
        "or before with `gpugrant report close`"
    )
    return Verdict(False, "BeforeCloseDay", message)


def _some(parts: Iterable[str]) -> str:
    """Return the first few of these, and how many there are more."""
    told = list(parts)
    more = len(told) - _MOST_NAMED
    return "; ".join([*told[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
