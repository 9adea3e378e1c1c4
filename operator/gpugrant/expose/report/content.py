"""Does what a month says add up? Rules that hold for every report, whoever signed it. Pure.

A fault is a file, a row as a spreadsheet counts (0: the whole file), and what is wrong.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from gpugrant.expose.report import rows
from gpugrant.expose.report.amounts import epoch, hours, local_time, percent, utc_time
from gpugrant.expose.report.files import total_rows
from gpugrant.expose.report.rows import (
    AWARDS_CSV,
    CORRECTIONS_CSV,
    INCIDENTS_CSV,
    MANIFEST,
    USAGE_CSV,
    AwardFileRow,
    CorrectionRow,
    Header,
    IncidentRow,
    Manifest,
    UsageRow,
)
from gpugrant.meter.digests import day_digest, day_digests, day_names
from gpugrant.meter.facts import Condition, Owner
from gpugrant.meter.month import FEWER_SEATS, Line
from gpugrant.meter.months import Calendar

Fault = tuple[str, int, str]
Table = tuple[Any, ...]

HEADER_FIELDS: Final = Header.__struct_fields__
EMPTY_DAY: Final = day_digest(())
MOST_FAULTS: Final = 20  # of one table; after that the rest is not looked at

_CALENDAR_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARES = ("Public", "OwnUse")
_OWNERS = tuple(owner.value for owner in Owner)
_CONDITIONS = tuple(condition.value for condition in Condition)
_LONGEST_MONTH = 32 * 86_400
_DAY = 86_400
_HELD: Final = "held"  # the identity of what pods held


def is_calendar_month(name: str) -> bool:
    """Say whether a month is one of the calendar's, and not a short one that a test made."""
    return _CALENDAR_MONTH.fullmatch(name) is not None


def line_of(row: UsageRow) -> Line:
    """Return the row as the ledger has it."""
    return Line(*(getattr(row, field) for field in Line.__struct_fields__))


# -- the manifest --------------------------------------------------------------------------------------


def manifest_faults(manifest: Manifest) -> Iterator[Fault]:
    """Yield what a manifest cannot be."""
    try:
        start, end, until, closed_at = (
            epoch(text) for text in (manifest.start, manifest.end, manifest.until, manifest.closed_at)
        )
        for field, at in (("start", start), ("end", end), ("until", until), ("closed_at", closed_at)):
            if local_time(at, manifest.zone) != getattr(manifest, field):
                yield MANIFEST, 0, f"{field} is not written in the zone {manifest.zone}"
    except (ValueError, OSError, KeyError, OverflowError) as error:
        yield MANIFEST, 0, f"its times cannot be read: {error}"
        return
    if manifest.report != f"{manifest.programme}-{manifest.provider}-{manifest.month}":
        yield MANIFEST, 0, f"report is {manifest.report!r}, not programme-provider-month"
    for name in ("settings_sha256", "previous_manifest_sha256"):
        if (value := getattr(manifest, name)) and not _SHA256.fullmatch(value):
            yield MANIFEST, 0, f"{name} is no sha256"
    if is_calendar_month(manifest.month):
        month = Calendar(manifest.zone).month_of(start)
        if (month.name, month.start, month.end) != (manifest.month, start, end):
            yield MANIFEST, 0, f"start and end are not those of {manifest.month} in {manifest.zone}"
    if not start <= until <= end:
        yield MANIFEST, 0, "until must lie between start and end"
    if (manifest.state == "Closed") != bool(closed_at):
        yield MANIFEST, 0, f"the state is {manifest.state}, closed_at {manifest.closed_at or 'empty'}"
    if closed_at and (until != end or closed_at < end):
        yield MANIFEST, 0, "a month closes when it is over and counted to its end"
    yield from _identity_faults(manifest)
    for short in manifest.share_shortfall:
        if short.gpu_hours != hours(short.gpu_seconds):
            yield (
                MANIFEST,
                0,
                f"the share shortfall of pool {short.pool} is not the same in GPU-hours and GPU-seconds",
            )
    yield from _absence_faults(manifest, start, until)
    yield from _day_list_faults(manifest, start, until)
    unobserved = sum(
        total.gpu_seconds for total in manifest.totals if total.condition == Condition.UNOBSERVED
    )
    if closed_at and unobserved > manifest.unobserved_limit_gpu_seconds:
        limit = manifest.unobserved_limit_gpu_seconds
        yield MANIFEST, 0, f"it is closed with {unobserved} GPU-seconds Unobserved; {limit} are allowed"


def _identity_faults(manifest: Manifest) -> Iterator[Fault]:
    for one in manifest.identities:
        difference = one.counted_gpu_seconds - one.expected_gpu_seconds
        if difference != one.difference_gpu_seconds or one.holds != (difference == 0):
            yield MANIFEST, 0, f"the identity {one.name!r} of pool {one.pool} is worked out wrongly"
        if difference:
            message = f"expected {one.expected_gpu_seconds}, counted {one.counted_gpu_seconds} GPU-seconds"
            yield MANIFEST, 0, f"the identity {one.name!r} of pool {one.pool} does not hold: {message}"


def _absence_faults(manifest: Manifest, start: int, until: int) -> Iterator[Fault]:
    for one in manifest.pool_absences:
        about = f"the absence of pool {one.pool} from {one.start}"
        try:
            first, last = epoch(one.start), epoch(one.end) or until
        except (ValueError, OverflowError) as error:
            yield MANIFEST, 0, f"the times of {about} cannot be read: {error}"
            continue
        if not start <= first < last <= until:
            yield MANIFEST, 0, f"{about} does not lie in the month"
        if one.promised_gpu_hours != hours(one.promised_gpu_seconds):
            yield MANIFEST, 0, f"{about} is not the same in GPU-hours and GPU-seconds"


def _day_list_faults(manifest: Manifest, start: int, until: int) -> Iterator[Fault]:
    listed = [day.day for day in manifest.days]
    if len(set(listed)) != len(listed) or sorted(listed) != listed:
        yield MANIFEST, 0, "days must be listed once each, in order"
    if not is_calendar_month(manifest.month) or not 0 <= until - start <= _LONGEST_MONTH:
        return  # the short months of tests name their days as they like
    days = day_names(start, until, manifest.zone)
    if strange := sorted(set(listed) - set(days)):
        yield MANIFEST, 0, f"it has digests of days that are not in the month: {', '.join(strange[:5])}"
    # The running day has no digest yet.
    due = days if manifest.state == "Closed" else days[:-1]
    if listed and not manifest.previous_manifest_sha256:
        due = tuple(day for day in due if day >= min(listed))  # the first month begins when the ledger did
    if missing := sorted(set(due) - set(listed)):
        yield MANIFEST, 0, f"it has no digest of {', '.join(missing[:5])}: the month is not complete"


# -- rows ----------------------------------------------------------------------------------------------


def row_faults(manifest: Manifest, name: str, table: Table) -> Iterator[Fault]:
    """Yield what is wrong with single rows of a table, at most some of them."""
    check = _CHECKS[name]
    told = 0
    for number, row in enumerate(table, 2):
        for message in check(manifest, row):
            yield name, number, message
            told += 1
        if told >= MOST_FAULTS:
            yield name, number, "more rows than these are wrong; the rest was not looked at"
            return
    for number, (one, following) in enumerate(pairwise(table), 3):
        if following < one or (name == USAGE_CSV and _key(one) == _key(following)):
            yield name, number, "rows must be sorted, and each there once"
            return


def _key(row: UsageRow) -> tuple[str, ...]:
    return tuple(getattr(row, field) for field in Line.__struct_fields__[:-1])


def _of_report(manifest: Manifest, row: UsageRow | AwardFileRow | IncidentRow) -> Iterator[str]:
    for field in ("programme", "provider"):
        if getattr(row, field) != getattr(manifest, field):
            yield f"{field} is {getattr(row, field)!r}; the report is of {getattr(manifest, field)!r}"


def _line_faults(manifest: Manifest, row: UsageRow) -> Iterator[str]:
    yield from _of_report(manifest, row)
    for field, allowed in (("share", _SHARES), ("owner", _OWNERS), ("condition", _CONDITIONS)):
        if (value := getattr(row, field)) not in allowed:
            yield f"{field} is {value!r}; it must be one of {', '.join(allowed)}"
    if (row.owner == Owner.GRANT) != bool(row.grant):
        yield f"owner is {row.owner}, grant is {row.grant or 'empty'}"
    if row.gpu_hours != hours(row.gpu_seconds):
        yield f"gpu_hours is {row.gpu_hours}; {row.gpu_seconds} GPU-seconds are {hours(row.gpu_seconds)}"


def _usage_faults(manifest: Manifest, row: UsageRow) -> Iterator[str]:
    yield from _line_faults(manifest, row)
    if row.gpu_seconds <= 0:
        yield f"gpu_seconds is {row.gpu_seconds}; a row has at least 1"
    if is_calendar_month(manifest.month) and not row.day.startswith(f"{manifest.month}-"):
        yield f"day is {row.day}; the report is of {manifest.month}"
    if row.owner == Owner.OWN_USE and manifest.own_use_detail == "Total" and (row.tenant or row.grant):
        yield "own use is shown without tenants in this programme"


def _correction_faults(manifest: Manifest, row: CorrectionRow) -> Iterator[str]:
    yield from _line_faults(manifest, row)
    if not row.gpu_seconds:
        yield "gpu_seconds is 0; a correction changes something"
    if row.of_month >= manifest.month:
        yield f"of_month is {row.of_month}; only months before {manifest.month} can be corrected"


def _award_faults(manifest: Manifest, row: AwardFileRow) -> Iterator[str]:
    yield from _of_report(manifest, row)
    for part in ("granted", "held", "failed", "grace"):
        seconds, written = getattr(row, f"{part}_gpu_seconds"), getattr(row, f"{part}_gpu_hours")
        if written != hours(seconds):
            yield f"{part}_gpu_hours is {written}; {seconds} GPU-seconds are {hours(seconds)}"
    exact = percent(row.held_gpu_seconds, row.granted_gpu_seconds)
    if row.held_percent_of_granted != exact:
        yield f"held_percent_of_granted is {row.held_percent_of_granted}; it is {exact}"
    if row.held_gpu_seconds + row.failed_gpu_seconds > row.granted_gpu_seconds:
        yield "held and failed are more than what was granted"
    if not row.term_start and not row.term_end:
        return  # the ledger was never told of its term
    try:
        start, end = epoch(row.term_start), epoch(row.term_end)
        written_in_zone = (local_time(start, manifest.zone), local_time(end, manifest.zone))
    except (ValueError, OSError, KeyError, OverflowError) as error:
        yield f"its term cannot be read: {error}"
        return
    if written_in_zone != (row.term_start, row.term_end):
        yield f"its term is not written in the zone {manifest.zone}"
    if end <= start:
        yield "term_end must be after term_start"


def _incident_faults(manifest: Manifest, row: IncidentRow) -> Iterator[str]:
    yield from _of_report(manifest, row)
    try:
        times = {name: epoch(getattr(row, name)) for name in ("start", "detected", "restored")}
        month_end = epoch(manifest.end)
        for name, at in times.items():
            if (getattr(row, name), getattr(row, f"{name}_utc")) != (
                local_time(at, manifest.zone),
                utc_time(at),
            ):
                yield f"{name} and {name}_utc are not the same moment, in the zone {manifest.zone} and in UTC"
    except (ValueError, OSError, KeyError, OverflowError) as error:
        yield f"its times cannot be read: {error}"
        return
    if not times["start"] or not times["start"] < month_end:
        yield "start must lie before the month's end"
    if times["restored"] and times["restored"] < times["start"]:
        yield "restored must not lie before start"


_CHECKS: Final[Mapping[str, Callable[[Manifest, Any], Iterator[str]]]] = {
    USAGE_CSV: _usage_faults,
    AWARDS_CSV: _award_faults,
    INCIDENTS_CSV: _incident_faults,
    CORRECTIONS_CSV: _correction_faults,
}


# -- sums ----------------------------------------------------------------------------------------------


def sum_faults(manifest: Manifest, read: Mapping[str, Table]) -> Iterator[Fault]:
    """Yield where the rows do not sum to what the manifest says."""
    lines: tuple[UsageRow, ...] = read[USAGE_CSV]
    if total_rows(lines) != manifest.totals:
        yield MANIFEST, 0, f"its totals are not the sums of {USAGE_CSV}"
    pools = Counter[str]()
    for line in lines:
        pools[line.pool] += line.gpu_seconds
    counted = {
        one.pool: one.counted_gpu_seconds for one in manifest.identities if one.name == rows.SEATS_IDENTITY
    }
    for pool in sorted(pools | counted.keys()):
        if pool not in counted:
            yield MANIFEST, 0, f"no identity {rows.SEATS_IDENTITY!r} of pool {pool}"
        elif counted[pool] != pools[pool]:
            message = f"counts {counted[pool]} GPU-seconds; its rows have {pools[pool]}"
            yield MANIFEST, 0, f"the identity {rows.SEATS_IDENTITY!r} of pool {pool} {message}"
    yield from _held_faults(manifest, lines)
    yield from _day_faults(manifest, lines)
    yield from _award_sum_faults(lines, read[AWARDS_CSV])
    yield from _failed_faults(manifest, lines, read[INCIDENTS_CSV])
    yield from _pair_faults(read[CORRECTIONS_CSV])


def _held_faults(manifest: Manifest, lines: tuple[UsageRow, ...]) -> Iterator[Fault]:
    """Yield pools of which it is not said what pods held, or less than their rows say that was used."""
    used: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in lines:
        whole[line.pool] += line.gpu_seconds
        used[line.pool] += line.gpu_seconds if line.condition in (Condition.USED, Condition.GRACE) else 0
    held = {one.pool: one.counted_gpu_seconds for one in manifest.identities if one.name == _HELD}
    for pool in sorted(whole):
        if pool not in held:
            yield MANIFEST, 0, f"no identity {_HELD!r} of pool {pool}"
        elif not used[pool] <= held[pool] <= whole[pool]:
            message = f"its rows have {used[pool]} Used or in Grace, of {whole[pool]}"
            yield (
                MANIFEST,
                0,
                f"the identity {_HELD!r} of pool {pool} counts {held[pool]} GPU-seconds; {message}",
            )


def _failed_faults(
    manifest: Manifest, lines: tuple[UsageRow, ...], incidents: tuple[IncidentRow, ...]
) -> Iterator[Fault]:
    """Yield rows that are Failed on a day on which no incident is listed of their pool and cause."""
    failed: dict[tuple[str, str, str], int] = {}
    for number, line in enumerate(lines, 2):
        if line.condition == Condition.FAILED:
            failed.setdefault((line.pool, line.reason, line.day), number)
    try:
        listed = set(_incident_days(manifest, incidents))
    except (ValueError, OSError, KeyError, OverflowError):
        return  # its times cannot be read: said where the row is looked at
    told = 0
    for (pool, reason, day), number in sorted(failed.items(), key=lambda one: one[1]):
        of_day = {(one[0], one[1]) for one in listed if one[2] in (day, "")}
        # Own use is shown without a reason.
        if (pool, reason) in of_day or (not reason and any(one[0] == pool for one in of_day)):
            continue
        why = f" for {reason}" if reason else ""
        yield (
            USAGE_CSV,
            number,
            f"pool {pool} is Failed{why} on {day}; {INCIDENTS_CSV} has no incident of that",
        )
        told += 1
        if told >= MOST_FAULTS:
            return


def _incident_days(manifest: Manifest, incidents: tuple[IncidentRow, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield pool, cause and day of every day that an incident touches; no day in the short months of tests."""
    start, until = epoch(manifest.start), epoch(manifest.until)
    for one in incidents:
        if not is_calendar_month(manifest.month):
            yield one.pool, one.cause, ""
            continue
        first, last = max(start, epoch(one.start)), min(until, epoch(one.restored) or until)
        # Where the zone was changed, days of the month were cut elsewhere.
        for day in day_names(max(start, first - _DAY), min(until, last + _DAY), manifest.zone):
            yield one.pool, one.cause, day


def _pair_faults(corrections: tuple[CorrectionRow, ...]) -> Iterator[Fault]:
    """Yield reversals without a re-entry of as much, unless they say that the pool had fewer seats."""
    sums: Counter[tuple[str, str, str]] = Counter()
    where: dict[tuple[str, str, str], tuple[int, int]] = {}
    for number, row in enumerate(corrections, 2):
        if row.why == FEWER_SEATS:
            continue
        key = (row.of_month, row.pool, row.day)
        sums[key] += row.gpu_seconds
        where[key] = min(where.get(key, (row.gpu_seconds, number)), (row.gpu_seconds, number))
    for key in sorted(key for key in sums if sums[key] < 0)[:MOST_FAULTS]:
        month, pool, day = key
        message = f"{-sums[key]} GPU-seconds of pool {pool} on {day} of {month} are taken back and not entered again"
        yield CORRECTIONS_CSV, where[key][1], message


def reversal_faults(
    lines: tuple[UsageRow, ...], corrections: tuple[CorrectionRow, ...], month: str
) -> Iterator[Fault]:
    """Yield corrections that take back more of the month before than it had. ``lines``: that month's rows."""
    fields = [name for name in Line.__struct_fields__ if name not in ("tenant_display_name", "gpu_seconds")]
    left: Counter[tuple[str, ...]] = Counter()
    where: dict[tuple[str, ...], int] = {}
    for line in lines:
        left[tuple(getattr(line, name) for name in fields)] += line.gpu_seconds
    for number, row in enumerate(corrections, 2):
        if row.of_month == month:
            key = tuple(getattr(row, name) for name in fields)
            left[key] += row.gpu_seconds
            if row.gpu_seconds < 0:
                where.setdefault(key, number)
    for key in sorted(key for key in where if left[key] < 0)[:MOST_FAULTS]:
        message = f"it takes back {-left[key]} GPU-seconds more than {month} has in such rows"
        yield CORRECTIONS_CSV, where[key], message


def _day_faults(manifest: Manifest, lines: tuple[UsageRow, ...]) -> Iterator[Fault]:
    found = day_digests(map(line_of, lines))
    for day in manifest.days:
        if (digest := found.get(day.day, EMPTY_DAY)) != day.sha256:
            yield MANIFEST, 0, f"the digest of {day.day} is {day.sha256}; its rows give {digest}"
    if manifest.state == "Closed" and (unlisted := sorted(found.keys() - {day.day for day in manifest.days})):
        yield MANIFEST, 0, f"{USAGE_CSV} has rows of days without a digest: {', '.join(unlisted[:5])}"


_PART_OF: Final[dict[str, str]] = {
    Condition.USED: "held",
    Condition.FAILED: "failed",
    Condition.GRACE: "grace",
}
_PARTS: Final = ("granted", "held", "failed", "grace")


def _award_sum_faults(lines: tuple[UsageRow, ...], awards: tuple[AwardFileRow, ...]) -> Iterator[Fault]:
    used: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        if line.owner != Owner.GRANT:
            continue
        key: tuple[str, ...] = (line.pool, line.share, line.gpu_type, line.tenant, line.award, line.grant)
        part = _PART_OF.get(line.condition)
        if part:
            used[*key, part] += line.gpu_seconds
        if part != "grace":
            used[*key, "granted"] += line.gpu_seconds
    told: Counter[tuple[str, ...]] = Counter()
    where: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(awards, 2):
        key = (row.pool, row.share, row.gpu_type, row.tenant, row.award, row.grant)
        for part in _PARTS:
            where.setdefault((*key, part), number)
            told[*key, part] += getattr(row, f"{part}_gpu_seconds")
    differing = sorted(key for key in used.keys() | told.keys() if used[key] != told[key])
    for key in differing[:MOST_FAULTS]:
        message = f"{key[-1]}_gpu_seconds of grant {key[-2]} are {told[key]}; {USAGE_CSV} has {used[key]}"
        yield AWARDS_CSV, where.get(key, 0), message
