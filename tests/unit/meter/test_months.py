"""Months of a zone, cut exactly, also where the clocks change."""

from collections import Counter
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpugrant.meter.facts import Account, GrantTerms, Owner, Placed
from gpugrant.meter.months import Calendar, Calendars
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Facts, Stay
from meter_kit import DECEMBER, NOVEMBER

SEOUL = Calendar("Asia/Seoul")


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def test_a_month_begins_at_midnight_in_the_zone_and_ends_where_the_next_begins():
    november = SEOUL.month_of(NOVEMBER)
    assert (november.name, november.start, november.end) == ("2026-11", NOVEMBER, DECEMBER)
    assert SEOUL.month_of(NOVEMBER - 1).name == "2026-10"
    assert SEOUL.month_of(DECEMBER).name == "2026-12"


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [
        ("Asia/Seoul", "2026-03", 31 * 24),
        ("Europe/Berlin", "2026-03", 31 * 24 - 1),
        ("Europe/Berlin", "2026-10", 31 * 24 + 1),
        ("America/New_York", "2026-11", 30 * 24 + 1),
        ("Australia/Lord_Howe", "2026-10", 31 * 24 - 0.5),
    ],
)
def test_a_month_in_which_the_clocks_change_has_the_hours_it_has(zone, month, hours):
    found = Calendar(zone).month_of(at(f"{month}-15", zone))
    assert (found.name, found.end - found.start) == (month, hours * 3600)


def test_the_running_month_and_those_before_it_are_listed_newest_first():
    assert [month.name for month in SEOUL.recent(at("2027-01-05", "Asia/Seoul"))] == [
        "2027-01",
        "2026-12",
        "2026-11",
    ]


def test_a_short_period_makes_short_months_that_sort_by_name():
    short = Calendar(period=600)
    first, second = short.month_of(NOVEMBER), short.month_of(NOVEMBER + 600)
    assert (first.end - first.start, first.end) == (600, second.start)
    assert first.name < second.name


def test_a_programme_without_settings_has_the_default_zone():
    calendars = Calendars((("lease-2025", "Europe/Berlin"),))
    assert calendars.of("lease-2025").zone == "Europe/Berlin"
    assert calendars.of("other").zone == "Asia/Seoul"


def used(start: int, end: int, *terms: tuple[int, int]) -> dict[str, int]:
    """Return the seconds of a hold over [start, end) by condition, cut at midnight."""
    history = [
        GrantTerms("g", "ns", "grant", 0, NOVEMBER + until, tenant="t", since=NOVEMBER + since)
        for since, until in terms
    ]
    account = Account("p", "of", "pool", "B200", "Public", Owner.GRANT, "t", "ns", "grant", "g")
    placed = {"n": [Placed("n", 0, "p", "of", "pool", "B200", "Public", "", 1)]}
    facts = Facts([Stay("u", "n", account, "", 1, start, end)], placed, terms={"g": history})
    sums: Counter[str] = Counter()
    day = SEOUL.day_of(start)
    while day.start < end:
        for cell, amount in build(facts, "p", max(start, day.start), min(end, day.end)).cells.items():
            sums[f"{day.month} {cell.condition}"] += amount
        day = SEOUL.day_of(day.end)
    return dict(sums)


def cut(start: int, end: int, *terms: tuple[int, int]) -> dict[str, int]:
    found = used(NOVEMBER + start, NOVEMBER + end, *terms)
    return {key.removeprefix("2026-11 "): amount for key, amount in found.items()}


def test_a_pod_that_runs_through_midnight_is_cut_at_midnight():
    assert used(DECEMBER - 10, DECEMBER + 5, (0, 10**8)) == {"2026-11 Used": 10, "2026-12 Used": 5}


def test_from_the_end_of_the_term_on_it_is_grace():
    assert cut(100, 300, (0, 250)) == {"Used": 150, "Grace": 50}


def test_an_edit_of_the_term_during_grace_does_not_rewrite_the_grace_that_was():
    assert cut(100, 400, (0, 250), (300, 900)) == {"Used": 250, "Grace": 50}


def test_a_term_cut_short_counts_from_the_edit_on():
    assert cut(100, 400, (0, 900), (300, 150)) == {"Used": 200, "Grace": 100}


def test_an_edit_that_changes_nothing_for_these_seconds_cuts_nothing():
    assert cut(100, 400, (0, 900), (300, 950)) == {"Used": 300}


def test_an_empty_interval_is_nothing():
    assert cut(100, 100, (0, 900)) == {}
