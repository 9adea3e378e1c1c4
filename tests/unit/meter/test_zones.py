"""A programme's time zone that is changed while there are days; on both stores."""

from contextlib import closing

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from gpugrant.meter.books import CUT
from gpugrant.meter.books import DAY as DAY_KIND
from gpugrant.meter.months import Calendars
from gpugrant.meter.tables import journal
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, a_server, an_account, ended
from unit.meter.november import (
    DAY,
    NAME,
    PROVIDER,
    T,
    account,
    month,
    open_store,
    opened,
    settle,
    through_november,
)


@pytest.fixture
def store(url):
    with opened(url) as store:
        yield store


def test_a_zone_of_another_name_and_the_same_hours_rewrites_nothing(url):
    first = open_store(url)
    first.commit([a_server("server-1")], T + 3 * DAY)
    settle(first)
    for number in range(4):
        late = ended(f"late-{number}", T + 100 * number, T + 100 * number + 50)
        first.commit([late], T + 3 * DAY + number)
        settle(first)
    was = first.month_account(*PROVIDER, month(first)).days
    assert was[0].revision == 4
    first.close()
    for zone in ("Asia/Tokyo", "Asia/Seoul"):
        again = open_store(url, calendars=Calendars(((PROVIDER[0], zone),)))
        settle(again)
        account = again.month_account(*PROVIDER, month(again))
        assert (account.days, account.zone) == (was, zone)
        assert again._read(lambda connection: list(verify_ledger(connection))) == []
        again.close()


@pytest.mark.parametrize(("calendars", "until"), [
    (Calendars(((PROVIDER[0], "Europe/Berlin"),)), T + 3 * DAY),
    (Calendars((), 600), T + 3600),
], ids=["another zone", "short months"])
def test_a_process_that_is_not_told_of_calendars_goes_by_those_of_the_ledger(url, calendars, until):
    """An operator reads its ledger before it has seen its settings; days are not cut again, and back, over that."""
    with closing(open_store(url, calendars=calendars)) as first:
        first.commit([a_server("server-1")], until)
        settle(first)
        [(programme, provider, month), *_] = first.reported()
        days = first.month_account(programme, provider, month).days
        assert days
    with closing(open_store(url)) as again:
        assert again.tally.calendars == calendars
        again.use_calendars(calendars)
        assert again.is_open, "nothing is to be loaded again"
        assert again.month_account(programme, provider, month).days == days
        kinds = again._read(lambda connection: set(connection.execute(select(journal.c.kind)).scalars()))
        assert DAY_KIND in kinds
        assert CUT not in kinds


def test_a_zone_that_is_changed_leaves_closed_months_and_loses_no_second(store, url):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    closed = account(store)
    store.commit([], DECEMBER + 2 * DAY)
    settle(store)
    total = sum(store.tally.sums(an_account()).values())
    for zone in ("Europe/Berlin", "Pacific/Auckland", "Asia/Seoul"):
        again = open_store(url, calendars=Calendars(((PROVIDER[0], zone),)))
        for _ in range(2):
            reading = again.tally.read()
            assert sum(reading.sums[an_account()].values()) == total
            assert sum(sum(sums.values()) for sums in reading.sums.values()) == 16 * (32 * DAY)
            assert {name for sums in reading.sums.values() for name, _ in sums} == {"2026-11", "2026-12"}
            settle(again)
        assert again.month_account(*PROVIDER, replace(month(again), start=T, end=DECEMBER)) == closed
        again.close()


def test_days_of_open_months_are_cut_again_when_the_zone_is_set_otherwise(store, url):
    through_november(store)
    again = open_store(url, calendars=Calendars(((PROVIDER[0], "Europe/Berlin"),)))
    settle(again)
    sums = {}
    for of_account in again.tally.read().sums.values():
        for (name, _), amount in of_account.items():
            sums[name] = sums.get(name, 0) + amount
    assert sums == {"2026-10": 16 * 8 * 3600, "2026-11": 16 * (30 * DAY - 8 * 3600 + 100)}
    again.close()
