"""Where two records of the same month differ: the CSV files and usage.json, row by row; and which rows to suspect."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gpugrant.expose.report import rows, tables
from gpugrant.expose.report.content import EMPTY_DAY, HEADER_FIELDS, line_of
from gpugrant.expose.report.files import total_rows
from gpugrant.expose.report.reading import FRESH_COPY, Problem
from gpugrant.expose.report.rows import MANIFEST, USAGE_CSV, USAGE_JSON, Manifest, UsageFile, UsageRow
from gpugrant.meter.digests import day_digests

MOST_NAMED = 20  # rows of one table; more are counted

_IN_JSON = {
    rows.USAGE_CSV: "lines",
    rows.AWARDS_CSV: "awards",
    rows.INCIDENTS_CSV: "incidents",
    rows.CORRECTIONS_CSV: "corrections",
}
_IN_BOTH = (
    *HEADER_FIELDS,
    "totals",
    "identities",
    "share_shortfall",
    "pool_absences",
)  # fields of usage.json and the manifest
_Table = tuple[Any, ...]


def compare_tables(
    read: Mapping[str, _Table], usage: UsageFile, changed: set[str], manifest: Manifest
) -> Iterator[Problem]:
    """Yield where the tables and usage.json differ. The one that is not what was signed is named."""
    for name, table in read.items():
        blamed = USAGE_JSON if USAGE_JSON in changed and name not in changed else name
        yield from _compare(name, table, getattr(usage, _IN_JSON[name]), blamed)
    blamed = USAGE_JSON if USAGE_JSON in changed else MANIFEST
    for field in _IN_BOTH:
        if getattr(usage, field) != getattr(manifest, field):
            message = f"{field} is not the same in {MANIFEST} and {USAGE_JSON}"
            yield Problem(blamed, 0, message, FRESH_COPY)


def _compare(name: str, table: _Table, listed: _Table, blamed: str) -> Iterator[Problem]:
    if table == listed:
        return
    if len(table) != len(listed):
        yield _one_more_or_less(name, table, listed, blamed)
        return
    differing = [number for number, (a, b) in enumerate(zip(table, listed, strict=True)) if a != b]
    if Counter(table) == Counter(listed):
        message = f"the rows are in another order than in {_other(name, blamed)}, from here on"
        yield Problem(blamed, differing[0] + 2, message, FRESH_COPY)
        return
    for number in differing[:MOST_NAMED]:
        yield Problem(
            blamed, number + 2, _difference(name, table[number], listed[number], blamed), FRESH_COPY
        )
    if len(differing) > MOST_NAMED:
        yield Problem(blamed, 0, f"{len(differing) - MOST_NAMED} more rows differ", FRESH_COPY)


def _other(name: str, blamed: str) -> str:
    return USAGE_JSON if blamed == name else name


def _difference(name: str, row: Any, listed: Any, blamed: str) -> str:
    own, other = (row, listed) if blamed == name else (listed, row)
    fields = [field for field in row.__struct_fields__ if getattr(own, field) != getattr(other, field)]
    told = ", ".join(f"{field} is {_brief(getattr(own, field))}" for field in fields)
    others = ", ".join(_brief(getattr(other, field)) for field in fields)
    return f"{told}; {_other(name, blamed)} says {others}"


def _brief(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "…"


def _one_more_or_less(name: str, table: _Table, listed: _Table, blamed: str) -> Problem:
    own, other = (table, listed) if blamed == name else (listed, table)
    shorter = min(len(own), len(other))
    at = next((number for number in range(shorter) if own[number] != other[number]), shorter)
    fewer = len(other) - len(own)
    where = f"than {_other(name, blamed)}, from here on"
    message = f"{fewer} rows fewer {where}" if fewer > 0 else f"{-fewer} rows more {where}"
    return Problem(blamed, at + 2, message, FRESH_COPY)


def place_of_difference(manifest: Manifest, data: bytes, read: Mapping[str, _Table]) -> tuple[int, str]:
    """Return at which row a usage.json that cannot be read departs from the tables, and where that is in words.

    The row is 0 where the tables cannot say.
    """
    if len(read) < len(rows.TABLES):
        return 0, ""
    fields = {field: getattr(manifest, field) for field in _IN_BOTH}
    listed: dict[str, Any] = {_IN_JSON[name]: table for name, table in read.items()}
    expected = UsageFile(**fields, **listed)
    written = tables.to_json(expected)
    at = next(
        (number for number, (a, b) in enumerate(zip(written, data, strict=False)) if a != b),
        min(len(written), len(data)),
    )
    for field in _IN_JSON.values():
        opening = f'"{field}":['.encode()
        end = written.index(opening) + len(opening)
        if at < end:
            continue
        for number, row in enumerate(getattr(expected, field)):
            end += len(msgspec.json.encode(row, order="sorted")) + 1
            if at < end:
                return number + 2, f"{field}[{number}]: "
    return 0, ""


def suspects(manifest: Manifest, lines: tuple[UsageRow, ...]) -> Iterator[Problem]:
    """Yield which days of a changed usage.csv are not those that were signed, and which rows that leaves."""
    signed = {day.day: day.sha256 for day in manifest.days}
    found = day_digests(map(line_of, lines))
    days = {day for day in signed if found.get(day, EMPTY_DAY) != signed[day]}
    kinds = set(manifest.totals) ^ set(total_rows(lines))
    keys = {(total.share, total.gpu_type, total.owner, total.condition) for total in kinds}
    by_day: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines, 2):
        if not keys or (line.share, line.gpu_type, line.owner, line.condition) in keys:
            by_day[line.day].append(number)
    for day in sorted(days)[:MOST_NAMED]:
        numbers = by_day[day]
        told = ", ".join(map(str, numbers[:MOST_NAMED])) + (" …" if len(numbers) > MOST_NAMED else "")
        message = f"the rows of {day} are not those that were signed" + (
            f"; it is among rows {told}" if told else ""
        )
        yield Problem(USAGE_CSV, numbers[0] if numbers else 0, message, FRESH_COPY)
