"""Months of a zone, cut exactly, also where the clocks change."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpugrant.meter.cutting import Piece, cut_interval
from gpugrant.meter.facts import Condition
from gpugrant.meter.months import Calendar, Calendars
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


def test_a_pod_that_runs_through_midnight_is_cut_at_midnight():
    pieces = list(cut_interval(DECEMBER - 10, DECEMBER + 5, SEOUL))
    assert pieces == [
        Piece(DECEMBER - 10, DECEMBER, "2026-11", Condition.USED),
        Piece(DECEMBER, DECEMBER + 5, "2026-12", Condition.USED),
    ]


def cut(start: int, end: int, *terms: tuple[int, int]) -> list[tuple[int, int, str]]:
    pieces = cut_interval(
        NOVEMBER + start, NOVEMBER + end, SEOUL, tuple((NOVEMBER + s, NOVEMBER + e) for s, e in terms)
    )
    return [(piece.start - NOVEMBER, piece.end - NOVEMBER, str(piece.condition)) for piece in pieces]


def test_from_the_end_of_the_term_on_it_is_grace():
    assert cut(100, 300, (0, 250)) == [(100, 250, "Used"), (250, 300, "Grace")]


def test_an_edit_of_the_term_during_grace_does_not_rewrite_the_grace_that_was():
    assert cut(100, 400, (0, 250), (300, 900)) == [
        (100, 250, "Used"),
        (250, 300, "Grace"),
        (300, 400, "Used"),
    ]


def test_a_term_cut_short_counts_from_the_edit_on():
    assert cut(100, 400, (0, 900), (300, 150)) == [(100, 300, "Used"), (300, 400, "Grace")]


def test_an_edit_that_changes_nothing_for_these_seconds_cuts_nothing():
    assert cut(100, 400, (0, 900), (300, 950)) == [(100, 400, "Used")]


def test_an_empty_interval_has_no_pieces():
    assert cut(100, 100, (0, 900)) == []
