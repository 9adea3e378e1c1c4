"""Amounts and times as a report writes them: exact, from integers, never through a float."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

_PLACES = 1_000_000
SECONDS_PER_HOUR = 3600


def hours(seconds: int) -> str:
    """Return GPU-seconds as GPU-hours with six places, half to even: 5400 is 1.500000."""
    return _decimal(seconds * _PLACES, SECONDS_PER_HOUR)


def percent(part: int, whole: int) -> str:
    """Return what percentage of the whole a part is, with six places, half to even; empty for a whole of 0."""
    return _decimal(part * 100 * _PLACES, whole) if whole else ""


def _decimal(millionths: int, divisor: int) -> str:
    sign = "-" if (millionths < 0) != (divisor < 0) and millionths else ""
    quotient, rest = divmod(abs(millionths), abs(divisor))
    twice = 2 * rest
    if twice > abs(divisor) or (twice == abs(divisor) and quotient % 2):
        quotient += 1
    return f"{sign}{quotient // _PLACES}.{quotient % _PLACES:06d}"


def local_time(at: int, zone: str) -> str:
    """Return epoch seconds as RFC 3339 in a zone, with its offset; empty for 0, which is no time."""
    return datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat(timespec="seconds") if at else ""


def utc_time(at: int) -> str:
    """Return epoch seconds as RFC 3339 in UTC; empty for 0, which is no time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else ""


def epoch(text: str) -> int:
    """Return the epoch seconds of an RFC 3339 time; 0 for an empty text. Raises ValueError."""
    if not text:
        return 0
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    try:
        return int(at.timestamp())
    except OverflowError:
        raise ValueError(f"{text!r} is outside the calendar") from None
