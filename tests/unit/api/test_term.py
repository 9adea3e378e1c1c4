"""A term's dates become instants in the programme's zone, whatever its clocks do."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gpugrant.api.fields import INSTANT_PATTERN, Date
from gpugrant.api.grant import Term

DAY = 86_400


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("zone", "start", "end", "from_utc", "to_utc"),
    [
        pytest.param(
            "Asia/Seoul",
            "2026-11-01",
            "2027-05-01",
            "2026-10-31T15:00:00",
            "2027-04-30T15:00:00",
            id="no clock change",
        ),
        pytest.param(
            "Europe/Berlin",
            "2026-03-29",
            "2026-03-30",
            "2026-03-28T23:00:00",
            "2026-03-29T22:00:00",
            id="23 hours",
        ),
        pytest.param(
            "Europe/Berlin",
            "2026-10-25",
            "2026-10-26",
            "2026-10-24T22:00:00",
            "2026-10-25T23:00:00",
            id="25 hours",
        ),
        pytest.param(
            # At midnight clocks go to 01:00: the day begins then.
            "Africa/Cairo",
            "2026-04-24",
            "2026-04-25",
            "2026-04-23T22:00:00",
            "2026-04-24T21:00:00",
            id="no midnight",
        ),
        pytest.param(
            # At 01:00 clocks go back to midnight: the day begins at the first of the two.
            "America/Havana",
            "2026-11-01",
            "2026-11-02",
            "2026-11-01T04:00:00",
            "2026-11-02T05:00:00",
            id="two midnights",
        ),
        pytest.param(
            "Asia/Seoul",
            "2026-11-01T09:00:00+09:00",
            "2026-12-01T00:00:00Z",
            "2026-11-01T00:00:00",
            "2026-12-01T00:00:00",
            id="instants mean themselves",
        ),
        pytest.param(
            "Asia/Seoul", "2000-01-01", "2199-12-31", "1999-12-31T15:00:00", "2199-12-30T15:00:00", id="ages"
        ),
    ],
)
def test_bounds(zone: str, start: str, end: str, from_utc: str, to_utc: str) -> None:
    assert Term(start=start, end=end).bounds(ZoneInfo(zone)) == (utc(from_utc), utc(to_utc))


@pytest.mark.parametrize(
    ("zone", "end", "last"),
    [
        pytest.param("Asia/Seoul", "2027-05-01", "2027-04-30", id="the end is not part of the term"),
        pytest.param("Asia/Seoul", "2027-04-30T15:00:00Z", "2027-04-30", id="midnight told in another zone"),
        pytest.param("Asia/Seoul", "2027-04-30T15:00:01Z", "2027-05-01", id="one second into a day counts"),
        pytest.param("Africa/Cairo", "2026-04-24", "2026-04-23", id="a day without a midnight"),
    ],
)
def test_last_day(zone: str, end: str, last: str) -> None:
    start = "2026-01-01" if len(end) == 10 else "2026-01-01T00:00:00Z"
    assert Term(start=start, end=end).last_day(ZoneInfo(zone)) == date.fromisoformat(last)


def test_grace_follows_the_end() -> None:
    term = Term(start="2026-11-01", end="2026-11-02", grace_seconds=600)
    assert term.grace_end(ZoneInfo("Asia/Seoul")) == utc("2026-11-01T15:10:00")


def test_terms_of_following_dates_leave_no_gap_and_no_overlap() -> None:
    day, zone = date(2026, 1, 1), ZoneInfo("Africa/Cairo")
    while day < date(2027, 1, 1):
        after = day + timedelta(days=1)
        end = Term(start=str(day), end=str(after)).bounds(zone)[1]
        assert Term(start=str(after), end=str(after + timedelta(days=1))).bounds(zone)[0] == end
        day = after


def test_pattern_of_a_date_is_the_calendar() -> None:
    pattern = re.compile(Date.__metadata__[0].pattern)
    days = {
        str(date(2000, 1, 1) + timedelta(days=n)) for n in range((date(2200, 1, 1) - date(2000, 1, 1)).days)
    }
    texts = (f"{y:04}-{m:02}-{d:02}" for y in range(1999, 2202) for m in range(14) for d in range(33))
    for text in texts:
        assert bool(pattern.fullmatch(text)) == (text in days), text


@pytest.mark.parametrize("time", ["00:00:00Z", "23:59:59+14:59", "12:34:56-00:00"])
def test_pattern_of_an_instant_is_what_python_reads(time: str) -> None:
    assert re.fullmatch(INSTANT_PATTERN, f"2026-11-01T{time}")
    assert datetime.fromisoformat(f"2026-11-01T{time}").tzinfo is not None
