"""Whatever is changed in a month's folder is found, and named by file and row."""

import csv
import decimal
import io
import json
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gpugrant.expose.report import tables
from gpugrant.expose.report.amounts import hours, percent
from gpugrant.expose.report.checking import check_files
from gpugrant.expose.report.files import render
from gpugrant.expose.report.rows import TABLES, USAGE_CSV, USAGE_JSON, UsageFile, UsageRow
from gpugrant.meter.digests import day_digest, day_digests, day_names
from gpugrant.meter.month import DayDigest
from unit.report.months import KEY, a_month

FILES = render(a_month(), KEY)
ROWS = FILES[USAGE_CSV].count(b"\r\n") - 1
thorough = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


def places(problems):
    return {(problem.file, problem.row) for problem in problems}


def found_in(changed):
    return check_files(FILES | changed).problems


def test_untouched_nothing_is_found():
    assert check_files(FILES).problems == ()
    assert check_files(FILES, [KEY.public_key()]).problems == ()


@pytest.mark.parametrize("name", sorted(FILES))
@thorough
@given(data=st.data())
def test_a_byte_that_is_changed_is_found_in_its_file_and_row(name, data):
    whole = FILES[name]
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    problems = found_in({name: bytes(changed)})
    # Of a manifest and its signature that do not fit nobody can say which was changed.
    blamed = {"manifest.json.sig": "manifest.json"}.get(name, name)
    assert {problem.file for problem in problems} == {blamed}
    if name in TABLES:
        assert (name, 1 + whole.count(b"\r\n", 0, at)) in places(problems)
    first_line = whole.find(b'"lines":[{')
    if name == USAGE_JSON and first_line + 9 < at < whole.find(b'],"month":'):
        begun = whole.count(opening := b'{"award":', first_line, at + len(opening))
        assert (name, 1 + begun) in places(problems)


@thorough
@given(st.sampled_from(sorted(FILES)), st.data())
def test_bytes_that_are_cut_off_or_put_in_are_found(name, data):
    whole = FILES[name]
    at = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):
        changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at:]
    else:
        changed = whole[:at] + whole[at + data.draw(st.integers(1, 50)) :]
    if changed != whole:
        blamed = {name, "manifest.json"} if name == "manifest.json.sig" else {name}
        assert {problem.file for problem in found_in({name: changed})} & blamed


@st.composite
def other_rows(draw):
    """Return the rows of usage.csv with one left out, there twice, or at another place; and where that shows."""
    head, *rows = FILES[USAGE_CSV].splitlines(keepends=True)
    rows = _joined(rows)
    what = draw(st.sampled_from(["drop", "double", "swap"]))
    at = draw(st.integers(0, len(rows) - 1))
    if what == "drop":
        return head, rows[:at] + rows[at + 1 :], at + 2
    if what == "double":
        return head, [*rows[: at + 1], *rows[at:]], at + 3
    other = draw(st.integers(0, len(rows) - 1).filter(lambda number: number != at))
    rows[at], rows[other] = rows[other], rows[at]
    return head, rows, min(at, other) + 2


def _joined(lines):
    """Return lines of the file as rows: a cell may hold a line feed."""
    rows = [b""]
    for line in lines:
        rows[-1] += line
        if line.endswith(b"\r\n"):
            rows.append(b"")
    return rows[:-1]


@thorough
@given(other_rows())
def test_rows_left_out_doubled_or_moved_are_found_where_they_are(changed):
    head, rows, row = changed
    problems = found_in({USAGE_CSV: head + b"".join(rows)})
    assert (USAGE_CSV, row) in places(problems)
    assert {problem.file for problem in problems} == {USAGE_CSV}


@thorough
@given(st.integers(0, ROWS - 1), st.integers(1, 10**9))
def test_a_figure_that_is_changed_in_both_files_alike_is_found(number, more):
    usage = tables.read_json(UsageFile, FILES[USAGE_JSON])
    lines = list(usage.lines)
    amount = lines[number].gpu_seconds + more
    lines[number] = replace(lines[number], gpu_seconds=amount, gpu_hours=hours(amount))
    forged = {
        USAGE_CSV: tables.to_csv(UsageRow, lines),
        USAGE_JSON: tables.to_json(replace(usage, lines=tuple(lines))),
    }
    problems = found_in(forged)
    assert {problem.file for problem in problems} == {USAGE_CSV, USAGE_JSON}
    told = [
        problem for problem in problems if problem.file == USAGE_CSV and lines[number].day in problem.message
    ]
    assert any(str(number + 2) in problem.message for problem in told)


# -- what is written -----------------------------------------------------------------------------------


anything = st.text(st.characters(codec="utf-8"), max_size=12)


@thorough
@given(anything, anything, anything)
def test_any_text_goes_through_the_files_and_comes_back(tenant, shown, award):
    account = a_month(tenants=("a", "b"), corrections=False)
    lines = tuple(
        replace(line, tenant=tenant, tenant_display_name=shown, award=award)
        if line.grant == "grant-0"
        else line
        for line in account.lines
    )
    awards = tuple(
        replace(one, tenant=tenant, tenant_display_name=shown, award=award) if one.grant == "grant-0" else one
        for one in account.awards
    )
    digests = tuple(DayDigest(day, sha256) for day, sha256 in day_digests(lines).items())
    files = render(replace(account, lines=lines, awards=awards, days=digests), KEY)
    assert check_files(files).problems == ()
    row = next(row for row in tables.read_csv(UsageRow, files[USAGE_CSV]) if row.grant == "grant-0")
    assert (row.tenant, row.tenant_display_name, row.award) == (tenant, shown, award)
    listed = next(line for line in json.loads(files[USAGE_JSON])["lines"] if line["grant"] == "grant-0")
    assert (listed["tenant"], listed["tenant_display_name"], listed["award"]) == (tenant, shown, award)


@thorough
@given(anything)
def test_no_cell_is_a_formula(text):
    account = a_month(tenants=(text, text), display_names=(text, text), awards=(text, text))
    for data in (FILES | render(account, KEY)).values():
        if data.startswith(tables.BOM):
            for row in _cells(data):
                assert not any(cell.startswith(tuple("=+@\t\r\n＝＋－＠")) for cell in row)
                assert not any(cell.startswith("-") and not _is_number(cell) for cell in row)


def _cells(data):
    return csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))


def _is_number(cell):
    return cell.lstrip("-").replace(".", "").isdecimal()


@thorough
@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 2**63 - 1))
def test_hours_and_percentages_are_exact(seconds, whole):
    with decimal.localcontext(prec=80):
        places_six = Decimal("0.000001")
        assert Decimal(hours(seconds)) == (Decimal(seconds) / 3600).quantize(places_six, ROUND_HALF_EVEN)
        part = abs(seconds)
        assert Decimal(percent(part, whole)) == (Decimal(part) * 100 / whole).quantize(
            places_six, ROUND_HALF_EVEN
        )


zones = st.sampled_from(["Asia/Seoul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])


@settings(deadline=None, max_examples=40)
@given(st.integers(2024, 2030), st.integers(1, 12), zones, st.sampled_from(["Total", "Tenant"]))
def test_every_month_of_every_zone_reconciles(year, number, zone, detail):
    account = a_month(f"{year}-{number:02d}", zone, detail=detail)
    assert check_files(render(account, KEY)).problems == ()
    assert len(account.days) == len(day_names(account.start, account.end, zone)) >= 28


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_order_in_which_the_ledger_tells_changes_no_byte(random):
    account = a_month()

    def shuffled(values):
        values = list(values)
        random.shuffle(values)
        return tuple(values)

    other = replace(
        account,
        lines=shuffled(account.lines),
        awards=shuffled(account.awards),
        incidents=shuffled(account.incidents),
        corrections=shuffled(account.corrections),
        identities=shuffled(account.identities),
        days=shuffled(account.days),
    )
    assert render(other, KEY) == FILES
    assert day_digest(other.lines) == day_digest(account.lines)
