"""Days that close, months that close, and what comes late for them; on both stores."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from gpugrant.expose.report.source import MarkRefused
from gpugrant.meter.closing import NotClosable
from gpugrant.meter.database import reading_engine
from gpugrant.meter.digests import day_digest, day_digests
from gpugrant.meter.facts import (
    Aspect,
    Claimed,
    Condition,
    Contracted,
    GrantTerms,
    Health,
    Instalment,
    Named,
    SettingsVersion,
)
from gpugrant.meter.month import Shortfall
from gpugrant.meter.months import Calendars
from gpugrant.meter.reader import open_reader
from gpugrant.meter.store import Store, StoreAwayError
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, NOVEMBER, a_place, a_server, an_account, ended, held

T = NOVEMBER
DAY = 86_400
PROVIDER = ("purchase-2025", "nhn-cloud")
NAME = "purchase-2025-nhn-cloud-2026-11"
TERMS = GrantTerms(
    "uid-of-pretrain", "hangang-lm", "pretrain", T, T + 90 * DAY, tenant="hangang", gpus=8, since=T
)


def open_store(url, now=T, **given):
    store = Store(url, now=lambda: now, **given)
    store.open()
    return store


@pytest.fixture
def store(url):
    store = open_store(url)
    store.commit([TERMS, a_server("server-1"), a_server("server-2"), Named("hangang", T, "Hangang LM")])
    yield store
    store.close()


def settle(store):
    while store.settle():
        pass


def month(store, name="2026-11"):
    return next(one for *who, one in store.reported() if tuple(who) == PROVIDER and one.name == name)


def account(store, name="2026-11"):
    return store.month_account(*PROVIDER, month(store, name))


def by_condition(account):
    sums = {}
    for line in account.lines:
        sums[line.condition] = sums.get(line.condition, 0) + line.gpu_seconds
    return sums


def through_november(store):
    store.commit(
        [ended("a", T + 100, T + 2 * DAY), held("b", T + 3 * DAY, a_place(server="server-2"))], T + 5 * DAY
    )
    store.commit([ended("b", T + 3 * DAY, T + 4 * DAY, a_place(server="server-2"))], DECEMBER + 100)
    settle(store)


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


def test_awards_say_what_a_grant_had(store):
    store.commit([Claimed("server-1", "uid-of-pretrain", T), Claimed("server-2", "uid-of-pretrain", T + DAY)])
    through_november(store)
    (award,) = account(store).awards
    assert (award.grant, award.gpus, award.term_start, award.tenant_display_name) == (
        "pretrain",
        8,
        T,
        "Hangang LM",
    )
    assert award.held_gpu_seconds == 8 * (2 * DAY - 100 + DAY)
    assert award.granted_gpu_seconds == 8 * 30 * DAY + 8 * 29 * DAY


def test_what_is_contracted_and_not_installed_is_undelivered(store):
    plan = Contracted("nhn-b200", T, *PROVIDER, "NVIDIA-B200", (Instalment(T, 24, 24),), 24)
    store.commit([plan], T + 2 * DAY)
    settle(store)
    assert by_condition(account(store))["Undelivered"] == 8 * 2 * DAY
    assert [one.difference for one in account(store).identities] == [0, 0]


def test_the_settings_in_force_at_the_months_end_are_in_the_account(store):
    rules = "owner: Ministry, caps: {NVIDIA-B200: 512}"
    report = "ownUseDetail: Tenant, unobservedLimitGpuSeconds: 7"
    text = f"programmes: {{purchase-2025: {{{rules}, report: {{{report}}}}}}}"
    store.commit([SettingsVersion("first", T, text)], T + 100)
    after = (
        "owner: Other, caps: {NVIDIA-B200: 8}, report: {ownUseDetail: Total, unobservedLimitGpuSeconds: 9}"
    )
    store.commit(
        [SettingsVersion("second", DECEMBER, f"programmes: {{purchase-2025: {{{after}}}}}")], DECEMBER + 100
    )
    found = account(store)
    assert (found.settings_digest, found.owner, found.caps) == ("first", "Ministry", (("NVIDIA-B200", 512),))
    assert (found.own_use_detail, found.unobserved_limit, found.zone) == (
        "Tenant",
        9,
        "Asia/Seoul",
    )  # the limit: as it is now


def test_marks_are_left_by_another_process_without_superseding_the_one_who_writes(store, url):
    through_november(store)
    reader = open_reader(url)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    reader.mark(NAME, "sign-off", "kim", "")
    store.mark(NAME, "acknowledge", "lee", "2026-113", DECEMBER + 600)
    store.mark(NAME, "acknowledge", "lee", "2026-113", DECEMBER + 600)
    assert [
        (one.kind, one.by, one.reference) for one in sorted(store.marks(NAME), key=lambda one: one.by)
    ] == [
        ("sign-off", "kim", ""),
        ("acknowledge", "lee", "2026-113"),
    ]
    row = next(one for one in reader.names() if one.name == NAME)
    assert row.manifest_sha256 == "f" * 64
    assert (row.state, row.signed_off_by, row.acknowledged) == ("Acknowledged", "kim", "2026-113")
    assert reader.account(NAME) == account(store)
    with pytest.raises(LookupError, match="knows no month"):
        reader.mark("nobody-2026-11", "sign-off", "kim", "")
    reader.close()


def test_a_month_is_signed_off_once_and_acknowledged_once_and_only_when_it_is_closed(store, url):
    through_november(store)
    reader = open_reader(url)
    for kind in ("sign-off", "acknowledge"):
        with pytest.raises(MarkRefused):
            reader.mark(NAME, kind, "kim", "2026-113")
    assert store.marks(NAME) == []
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    with pytest.raises(MarkRefused, match="not signed off"):
        reader.mark(NAME, "acknowledge", "kim", "2026-113")
    reader.mark(NAME, "sign-off", "kim", "")
    with pytest.raises(MarkRefused, match="signed off by kim already"):
        reader.mark(NAME, "sign-off", "lee", "")
    store.mark(NAME, "acknowledge", "officer", "", DECEMBER + 600)  # as the object's spec says
    with pytest.raises(MarkRefused, match="acknowledged already on its UsageReport"):
        reader.mark(NAME, "acknowledge", "kim", "2026-113")
    with pytest.raises(MarkRefused, match="never changes"):
        reader.mark(NAME, "close", "kim", "")
    store.mark(NAME, "acknowledge", "later", "", DECEMBER + 700)
    assert [(one.kind, one.by) for one in store.marks(NAME)] == [
        ("sign-off", "kim"),
        ("acknowledge", "officer"),
    ]
    reader.close()


def test_of_many_who_sign_off_at_once_one_does(store, url):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)

    def sign(who):
        reader = open_reader(url)
        try:
            reader.mark(NAME, "sign-off", who, "")
        except MarkRefused:
            return ""
        finally:
            reader.close()
        return who

    with ThreadPoolExecutor(8) as pool:
        signed = [who for who in pool.map(sign, "abcdefgh") if who]
    assert [one.by for one in store.marks(NAME)] == signed and len(signed) == 1


def test_a_reader_sees_one_moment_while_the_operator_writes(store, url):
    through_november(store)
    reader = open_reader(url)
    before = reader.account(NAME)
    store.commit([Health("server-1", Aspect.READY, T + 1000, 0)], DECEMBER + 200)
    settle(store)
    assert by_condition(before) != by_condition(reader.account(NAME))
    reader.close()


def test_a_ledger_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(StoreAwayError, match="there is no ledger in"):
        open_reader(f"sqlite:///{tmp_path}/no/ledger.db").names()


def test_a_mistyped_path_is_no_new_ledger(tmp_path):
    with pytest.raises(StoreAwayError, match="there is no ledger in"):
        open_reader(f"sqlite:///{tmp_path}/leger.db").names()
    assert list(tmp_path.iterdir()) == []


def test_every_month_with_servers_is_reported(store):
    store.commit([], DECEMBER + 100)
    assert [(*who, one.name) for *who, one in store.reported()] == [
        (*PROVIDER, "2026-11"),
        (*PROVIDER, "2026-12"),
    ]


def test_what_was_held_before_the_ledger_was_opened_is_in_no_month(url):
    opened = T + 10 * DAY + 5000
    store = open_store(url, now=opened)
    store.commit([a_server("server-1", opened), held("old", T - 60 * DAY)], DECEMBER + 100)
    for _ in range(2):  # as worked out while its days are open, and as they are stored
        assert [one.name for *_, one in store.reported()] == ["2026-11", "2026-12"]
        account = store.month_account(*PROVIDER, month(store))
        assert sum(line.gpu_seconds for line in account.lines) == 8 * (DECEMBER - opened)
        assert [one.difference for one in account.identities] == [0, 0]
        settle(store)
    assert store._read(lambda connection: list(verify_ledger(connection))) == []
    row = store._read(
        lambda connection: connection.exec_driver_sql("SELECT held_from FROM holdings").scalar()
    )
    assert row == T - 60 * DAY
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


def test_the_shortfall_that_was_shown_never_falls_and_stays_one_series(url):
    plan = Contracted("nhn-b200", T, *PROVIDER, "NVIDIA-B200", (), 16)
    pool = (*PROVIDER, "nhn-b200", "NVIDIA-B200", "Public")
    store = open_store(url)
    store.commit([a_server("server-1"), plan], T + 1000)
    assert store.tally.read().shortfall == {pool: 8000}
    store.commit([a_server("server-2")], T + 1010)  # it was there all along
    assert store.tally.read().shortfall == {pool: 8000}
    store.close()
    again = open_store(url)
    assert again.tally.read().shortfall == {pool: 8000}
    again.commit([Contracted("nhn-b200", T + 1010), a_server("server-1", T + 1010, seats=0)], T + 1100)
    assert again.tally.read().shortfall == {pool: 8000}
    again.commit([replace(plan, since=T + 1100), a_server("server-1", T + 1100)], T + 1200)
    assert set(again.tally.read().shortfall) == {pool}
    assert again._read(lambda connection: list(verify_ledger(connection))) == []
    again.close()


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


def test_digests_and_shortfall_are_read_with_the_sums(store, url):
    plan = Contracted("nhn-b200", T, *PROVIDER, "NVIDIA-B200", (), 24)
    store.commit([plan, held("a", T)], T + 2 * DAY + 100)
    settle(store)
    reading = store.tally.read()
    assert reading.shortfall == {(*PROVIDER, "nhn-b200", "NVIDIA-B200", "Public"): 8 * (2 * DAY + 100)}
    assert reading.digests == tuple((*PROVIDER, one.day, one.sha256) for one in account(store).days)
    again = open_store(url)
    assert again.tally.read() == reading
    again.close()


def test_a_share_shortfall_is_in_the_account_before_and_after_closing(store):
    plan = Contracted("nhn-b200", T, *PROVIDER, "NVIDIA-B200", (), 24)
    absent = Contracted("nhn-h200", T, *PROVIDER, "NVIDIA-H200", (), 8)
    other = Contracted("kakao-b200", T, "purchase-2025", "kakao", "NVIDIA-B200", (), 8)
    store.commit([plan, absent, other, held("a", T)], T + DAY + 100)
    settle(store)
    assert account(store).shortfall == (
        Shortfall("nhn-b200", 8 * (DAY + 100)),
        Shortfall("nhn-h200", 8 * (DAY + 100)),
    )
    store.commit([replace(plan, since=T + 2 * DAY, promised=16)], DECEMBER + 100)
    settle(store)
    expected = (Shortfall("nhn-b200", 8 * 2 * DAY), Shortfall("nhn-h200", 8 * 30 * DAY))
    assert account(store).shortfall == expected
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    assert account(store).shortfall == expected


def test_a_provider_that_leaves_within_a_month_has_a_digest_of_every_day(store):
    other = {"provider": "kakao", "pool": "kakao-b200"}
    gone = a_server("server-9", T + 3 * DAY, seats=0, **other)
    store.commit([a_server("server-9", T + DAY, **other), gone], DECEMBER + 100)
    settle(store)
    found = store.month_account("purchase-2025", "kakao", month(store))
    assert len(found.days) == 30
    nothing = {one.day for one in found.days if one.sha256 == day_digest(())}
    assert len(nothing) == 28 and not {"2026-11-02", "2026-11-03"} & nothing
