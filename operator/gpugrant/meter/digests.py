"""The digest of a day, and the names of a month's days. Pure.

The digest is over what a report shows in every case, so that it can be worked out again from the signed files: own
use without its details. Display names are left out: a tenant that is renamed rewrites no day.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from gpugrant.meter.facts import Owner
from gpugrant.meter.month import Line


def without_own_use_detail(line: Line) -> Line:
    """Return the line as the programme is told it: own use by pool, share, condition and day, and no more."""
    if line.owner != Owner.OWN_USE:
        return line
    return replace(line, fabric="", tenant="", tenant_display_name="", award="", grant="", reason="")


def summed(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Return the lines sorted, those that differ in nothing but GPU-seconds as one, without those of none."""
    sums: Counter[Line] = Counter()
    for line in lines:
        sums[replace(line, gpu_seconds=0)] += line.gpu_seconds
    return tuple(sorted(replace(line, gpu_seconds=amount) for line, amount in sums.items() if amount))


def day_digest(lines: Iterable[Line]) -> str:
    """Return the SHA-256 (hex) of one day's lines, in whatever order they come.

    Own use without detail and no display names; equal lines summed, none of 0 GPU-seconds. Each is a JSON array of
    the fields in the order of Line, in UTF-8 without spaces, ended by a line feed; these are sorted by their bytes.
    """
    plain = summed(replace(without_own_use_detail(line), tenant_display_name="") for line in lines)
    rows = sorted(msgspec.json.encode(_digested(line)) for line in plain)
    return hashlib.sha256(b"".join(row + b"\n" for row in rows)).hexdigest()


def day_digests(lines: Iterable[Line]) -> dict[str, str]:
    """Return the digest of every day that has lines."""
    days: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        days[line.day].append(line)
    return {day: day_digest(of_day) for day, of_day in sorted(days.items())}


def day_names(start: int, end: int, zone: str) -> tuple[str, ...]:
    """Return the calendar's days (YYYY-MM-DD, in the zone) that [start, end) in epoch seconds touches."""
    if end <= start:
        return ()
    first, last = _date(start, zone), _date(end - 1, zone)
    return tuple((first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1))


def _date(at: int, zone: str) -> date:
    return datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(zone)).date()


def _digested(line: Line) -> tuple[str | int, ...]:
    return (
        line.programme,
        line.provider,
        line.pool,
        line.fabric,
        line.gpu_type,
        line.share,
        line.owner,
        line.tenant,
        line.award,
        line.grant,
        line.condition,
        line.reason,
        line.day,
        line.gpu_seconds,
    )
