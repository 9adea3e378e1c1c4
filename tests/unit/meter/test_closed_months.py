"""Days that close, months that close, and what comes late for them; on both stores."""

import pytest

from gpugrant.meter.closing import NotClosable
from gpugrant.meter.database import reading_engine
from gpugrant.meter.digests import day_digests
from gpugrant.meter.facts import (
    Aspect,
    Condition,
    Health,
    Named,
    SettingsVersion,
)
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, a_place, a_server, an_account, ended, held
from unit.meter.november import (
    DAY,
    NAME,
    PROVIDER,
    TERMS,
    T,
    account,
    by_condition,
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


def test_a_month_adds_up_and_every_day_has_its_digest(store):
    through_november(store)
    found = account(store)
    used = 8 * (2 * DAY - 100 + DAY)
    assert by_condition(found) == {"Used": used, "Idle": 16 * 30 * DAY - used}
    assert [one.difference for one in found.identities] == [0, 0]
    assert {one.name: one.expected for one in found.identities} == {
        "seats x seconds": 16 * 30 * DAY,
        "held": used,
    }
    assert {one.day: one.sha256 for one in found.days} == day_digests(found.lines)
    assert len(found.days) == 30
    assert {line.tenant_display_name for line in found.lines} == {"", "Hangang LM"}
    assert found.until == DECEMBER


def test_what_was_written_since_a_month_was_counted_is_in_it_as_it_closes(store):
    through_november(store)
    counted = account(store)
    store.commit([Named("hangang", DECEMBER - 60, "Hangang AI")], DECEMBER + 200)
    store.close_month(NAME, "ab" * 32, DECEMBER + 300)
    assert {line.tenant_display_name for line in counted.lines} == {"", "Hangang LM"}
    assert {line.tenant_display_name for line in account(store).lines} == {"", "Hangang AI"}


def test_a_month_counted_twice_with_a_late_fact_between_still_reconciles(store):
    through_november(store)
    first = account(store)
    store.commit([ended("late", T + 10 * DAY, T + 11 * DAY)], DECEMBER + 200)
    settle(store)
    second = account(store)
    assert by_condition(second)["Used"] == by_condition(first)["Used"] + 8 * DAY
    assert [one.difference for one in second.identities] == [0, 0]


def test_the_running_month_is_counted_to_the_watermark(store):
    store.commit([held("a", T + 100)], T + DAY + 1000)
    settle(store)
    found = account(store)
    assert found.until == T + DAY + 1000
    assert sum(line.gpu_seconds for line in found.lines) == 16 * (DAY + 1000)
    assert by_condition(found)["Used"] == 8 * (DAY + 900)
    assert [one.difference for one in found.identities] == [0, 0]
    assert [one.day for one in found.days] == ["2026-11-01"]


def test_a_day_closes_a_minute_after_its_end_and_the_sums_are_the_same_before_and_after(store):
    store.commit([held("a", T + 100)], T + DAY + 59)
    assert not store.settle()
    before = store.tally.sums(an_account())
    store.commit([], T + DAY + 60)
    assert store.settle() and not store.settle()
    assert store.tally.sums(an_account())["2026-11", Condition.USED] == before["2026-11", Condition.USED] + 8


def test_after_a_restart_all_sums_are_there(store, url):
    through_november(store)
    store.commit([held("c", DECEMBER + 50)], DECEMBER + 700)
    again = open_store(url)
    assert again.tally.read().sums == store.tally.read().sums
    assert again.tally.read().counters == store.tally.read().counters
    again.close()


def test_a_late_fact_of_an_open_month_changes_its_day_and_raises_the_revision(store):
    through_november(store)
    before = account(store)
    store.commit(
        [
            Health("server-1", Aspect.READY, T + 1000, 0, T + 1040),
            Health("server-1", Aspect.READY, T + 2000, 1),
        ]
    )
    settle(store)
    found = account(store)
    assert by_condition(found)["Failed"] == 8 * 1000
    assert [one.revision for one in found.days] == [1] + [0] * 29
    assert found.days[1:] == before.days[1:] and found.days[0].sha256 != before.days[0].sha256
    assert {one.day: one.sha256 for one in found.days} == day_digests(found.lines)
    assert [one.difference for one in found.identities] == [0, 0]
    (incident,) = found.incidents
    assert (incident.start, incident.detected, incident.restored, incident.gpus, incident.cause) == (
        T + 1000, T + 1040, T + 2000, 8, "NotReady",
    )  # fmt: skip


def test_a_closed_month_never_changes_and_what_comes_late_is_corrected_in_the_running_one(store, url):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    closed = account(store)
    assert closed.closed_at == DECEMBER + 500
    store.commit([Named("hangang", T + 5, "Renamed"), Health("server-1", Aspect.READY, T + 1000, 0)])
    store.commit([Health("server-1", Aspect.READY, T + 2000, 1), SettingsVersion("d", T + 7, "period: 10s")])
    settle(store)
    assert account(store) == closed
    later = account(store, "2026-12")
    assert [(one.of_month, one.line.condition, one.line.gpu_seconds) for one in later.corrections] == [
        ("2026-11", "Failed", 8000),
        ("2026-11", "Used", -8 * (DAY - 100)),
        ("2026-11", "Used", 8 * (DAY - 100 - 1000)),
    ]
    assert later.previous_manifest == "f" * 64
    assert store.tally.sums(an_account())["2026-12", Condition.FAILED] == 8000
    again = open_store(url)
    assert again.month_account(*PROVIDER, month(again)) == closed
    assert again.tally.read().sums == store.tally.read().sums
    again.close()


def test_corrections_are_booked_in_the_first_month_that_is_not_closed_yet(store, url):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    store.commit([], DECEMBER + 33 * DAY)  # in January; December is over and not closed
    settle(store)
    late = [Health("server-1", Aspect.READY, T + 1000, 0), Health("server-1", Aspect.READY, T + 2000, 1)]
    store.commit(late)
    settle(store)
    assert sum(one.line.gpu_seconds for one in account(store, "2026-12").corrections) == 0
    assert len(account(store, "2026-12").corrections) == 3
    assert account(store, "2027-01").corrections == ()
    assert store.tally.sums(an_account())["2026-12", Condition.FAILED] == 8000
    store.close_month(NAME.replace("2026-11", "2026-12"), "e" * 64, DECEMBER + 33 * DAY)
    december = account(store, "2026-12")
    store.commit([Health("server-1", Aspect.READY, T + 1500, 1)])
    settle(store)
    assert account(store, "2026-12") == december
    assert {one.of_month for one in account(store, "2027-01").corrections} == {"2026-11"}
    engine = reading_engine(url)
    with engine.begin() as connection:
        assert list(verify_ledger(connection)) == []
    engine.dispose()


def test_corrections_of_corrections_add_up(store):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    store.commit(
        [Health("server-1", Aspect.READY, T + 1000, 0), Health("server-1", Aspect.READY, T + 2000, 1)]
    )
    settle(store)
    store.commit([Health("server-1", Aspect.READY, T + 1500, 1)])
    settle(store)
    sums = {}
    for one in account(store, "2026-12").corrections:
        sums[one.line.condition] = sums.get(one.line.condition, 0) + one.line.gpu_seconds
    assert sums == {"Failed": 8 * 500, "Used": -8 * 500}


def test_a_month_with_open_or_stale_days_does_not_close(store):
    store.commit([held("a", T)], DECEMBER - 100)
    settle(store)
    with pytest.raises(NotClosable, match="not closed yet"):
        store.close_month(NAME, "f" * 64, DECEMBER)
    store.commit([], DECEMBER + 100)
    settle(store)
    store.commit([Health("server-1", Aspect.READY, T + 1000, 0)])
    with pytest.raises(NotClosable, match="late"):
        store.close_month(NAME, "f" * 64, DECEMBER + 200)
    settle(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 200)
    store.close_month(NAME, "f" * 64, DECEMBER + 300)
    with pytest.raises(NotClosable, match="closed already"):
        store.close_month(NAME, "e" * 64, DECEMBER + 300)
    assert store.closed_month(NAME).closed_at == DECEMBER + 200
    with pytest.raises(LookupError, match="knows no month"):
        store.close_month("purchase-2025-nobody-2026-11", "f" * 64, DECEMBER)
    assert store.commit([held("z", DECEMBER + 10)], DECEMBER + 400)


def test_a_bind_told_of_before_the_first_day_makes_the_days_before_it(url):
    store = open_store(url, now=T - 2 * DAY)
    store.commit([TERMS, a_server("server-1"), a_server("server-2")])
    through_november(store)
    store.commit([ended("old", T - DAY - 50, T - DAY + 50, a_place(server="server-9"))])
    settle(store)
    assert by_condition(account(store, "2026-10")) == {"Used": 800}
    store.close()


def test_no_month_is_made_before_one_that_is_closed(url):
    store = open_store(url, now=T - 60 * DAY)
    store.commit([TERMS, a_server("server-1", T + 5 * DAY)], DECEMBER + 100)
    settle(store)
    store.month_account(*PROVIDER, month(store))
    store.close_month(NAME, "a" * 64, DECEMBER + 100)
    store.commit([ended("old", T - 3 * DAY, T + DAY)], DECEMBER + 200)
    settle(store)
    assert [one.name for *_, one in store.reported()] == ["2026-11", "2026-12"]
    found = store.month_account(*PROVIDER, month(store, "2026-12")).corrections
    assert [(one.of_month, one.line.gpu_seconds) for one in found] == [("2026-11", 8 * DAY)]
    store.close()
