"""What is in a month's account beside its sums by day; on both stores."""

import pytest
from msgspec.structs import replace

from gpugrant.meter.digests import day_digest
from gpugrant.meter.facts import (
    Claimed,
    Contracted,
    Instalment,
    SettingsVersion,
)
from gpugrant.meter.month import Shortfall
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, a_server, held
from unit.meter.november import (
    DAY,
    NAME,
    PROVIDER,
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
