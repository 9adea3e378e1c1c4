"""Months in which something was moved, renamed or made again: each reconciles, passes its check and closes."""

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gpugrant.expose.report.checking import check, check_files
from gpugrant.expose.report.files import render, write_folder
from gpugrant.expose.report.merging import merge
from gpugrant.meter.facts import Claimed, Contracted, GrantTerms, Instalment, Named, Owner
from gpugrant.meter.month import Absence
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store
from gpugrant.meter.verify import verify_ledger
from gpugrant.run.report_rules import figures_of
from meter_kit import DECEMBER, NOVEMBER, a_place, a_server, an_account, ended, held

T, DAY = NOVEMBER, 86_400
MIDDLE = T + 15 * DAY + 5000
OLD, NEW = "purchase-2025", "lease-2025"
KEY = Ed25519PrivateKey.from_private_bytes(b"7" * 32)
TERMS = GrantTerms(
    "uid-of-pretrain",
    "hangang-lm",
    "pretrain",
    T,
    T + 90 * DAY,
    tenant="hangang",
    award="A-17",
    gpus=8,
    since=T,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def a_ledger(url, *facts, until=DECEMBER + 100, **given):
    store = Store(url, now=lambda: T, **given)
    store.open()
    store.commit(facts, until)
    settle(store)
    return store


def settle(store):
    while store.settle():
        pass


def close_all(store, month="2026-11"):
    """Close every report of a month as the operator does; return their accounts by programme and provider."""
    found = {}
    for programme, provider, one in store.reported():
        if one.name != month:
            continue
        account = store.month_account(programme, provider, one)
        figures = figures_of(account)
        assert (figures.failing, figures.missing_days) == ((), ()), account.name
        closed = replace(account, closed_at=one.end + 4 * DAY)
        files = render(closed, KEY)
        assert check_files(files).problems == (), account.name
        store.close_month(account.name, hashlib.sha256(files["manifest.json"]).hexdigest(), closed.closed_at)
        assert store.month_account(programme, provider, one) == closed
        found[programme, provider] = closed
    return found


def sums_of(account, *fields):
    sums = {}
    for line in account.lines:
        key = tuple(getattr(line, field) for field in fields)
        sums[key] = sums.get(key, 0) + line.gpu_seconds
    return sums


def everything(accounts):
    return sum(line.gpu_seconds for account in accounts.values() for line in account.lines)


@pytest.mark.parametrize("contracted", [False, True])
def test_a_pool_that_moves_to_another_programme_is_in_both_each_second_once(url, contracted):
    plan = Contracted("nhn-b200", T, OLD, "nhn-cloud", "NVIDIA-B200", (Instalment(T, 24, 24),), 24)
    plans = (plan, replace(plan, since=MIDDLE, programme=NEW)) if contracted else ()
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        a_server("server-2"),
        a_server("server-1", MIDDLE, programme=NEW),
        a_server("server-2", MIDDLE, programme=NEW),
        Claimed("server-1", TERMS.grant_uid, T),
        held("a", T + 100),  # goes on over the move
        ended("b", T + 200, MIDDLE + 300, a_place(server="server-2")),
        *plans,
    )
    found = close_all(store)
    old, new = found[OLD, "nhn-cloud"], found[NEW, "nhn-cloud"]
    seats = 24 if contracted else 16
    assert everything({0: old}) == seats * (MIDDLE - T)
    assert everything({0: new}) == seats * (DECEMBER - MIDDLE)
    assert {line.programme for line in old.lines} == {OLD} and {line.programme for line in new.lines} == {NEW}
    assert sums_of(old, "condition")[("Used",)] == 8 * (MIDDLE - T - 100) + 8 * (MIDDLE - T - 200)
    assert sums_of(new, "condition")[("Used",)] == 8 * (DECEMBER - MIDDLE) + 8 * 300
    store.close()


def test_servers_that_move_to_a_pool_of_another_programme(url):
    elsewhere = {"programme": NEW, "pool": "nhn-b200-lease"}
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        a_server("server-2"),
        a_server("server-2", MIDDLE, **elsewhere),
        held("a", T + 100),
        held("b", T + 100, a_place(server="server-2")),
    )
    found = close_all(store)
    assert everything({0: found[OLD, "nhn-cloud"]}) == 8 * (DECEMBER - T) + 8 * (MIDDLE - T)
    assert everything({0: found[NEW, "nhn-cloud"]}) == 8 * (DECEMBER - MIDDLE)
    store.close()


def test_gpus_per_server_is_lowered_below_what_is_held(url):
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        a_server("server-1", MIDDLE, seats=4),
        ended("a", T + 100, MIDDLE + 500),
    )
    (account,) = close_all(store).values()
    used = sums_of(account, "condition", "reason")
    assert used["Used", "MoreHeldThanPlaced"] == 4 * 500
    assert used["Used", ""] == 8 * (MIDDLE - T - 100) + 4 * 500
    assert everything({0: account}) == 8 * (MIDDLE + 500 - T) + 4 * (DECEMBER - MIDDLE - 500)
    store.close()


def test_two_pools_of_one_provider(url):
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        a_server("server-2", pool="nhn-h200", gpu_type="NVIDIA-H200"),
        a_server(
            "server-3", pool="nhn-h200", gpu_type="NVIDIA-H200", share="OwnUse", idle_owner=Owner.OWN_USE
        ),
        held("a", T + 100),
        ended(
            "b", T + 100, T + 900, a_place(an_account(pool="nhn-h200", gpu_type="NVIDIA-H200"), "server-2")
        ),
    )
    (account,) = close_all(store).values()
    assert sums_of(account, "pool") == {("nhn-b200",): 8 * 30 * DAY, ("nhn-h200",): 16 * 30 * DAY}
    assert len(account.identities) == 4
    store.close()


def test_a_grant_that_is_made_again_under_its_name(url):
    again = replace(TERMS, grant_uid="uid-of-another", start=MIDDLE, since=MIDDLE, gpus=16)
    store = a_ledger(
        url,
        TERMS,
        replace(TERMS, end=MIDDLE, since=MIDDLE),
        again,
        a_server("server-1"),
        a_server("server-2"),
        Claimed("server-1", TERMS.grant_uid, T),
        Claimed("server-1", TERMS.grant_uid, MIDDLE, has=False),
        Claimed("server-1", again.grant_uid, MIDDLE),
        Claimed("server-2", again.grant_uid, MIDDLE),
        ended("a", T + 100, MIDDLE - 10, a_place(an_account(award="A-17"))),
        held("b", MIDDLE + 10, a_place(an_account(grant_uid=again.grant_uid, award="A-17"))),
    )
    (account,) = close_all(store).values()
    assert sorted((row.grant, row.gpus, row.granted_gpu_seconds) for row in account.awards) == [
        ("pretrain", 8, 8 * (MIDDLE - T)),
        ("pretrain", 16, 16 * (DECEMBER - MIDDLE)),
    ]
    store.close()


def test_a_tenant_is_renamed(url):
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        held("a", T + 100),
        Named("hangang", T, "Hangang LM"),
        Named("hangang", MIDDLE, "Hangang AI"),
    )
    (account,) = close_all(store).values()
    assert sums_of(account, "tenant_display_name")[("Hangang AI",)] == 8 * (30 * DAY - 100)
    store.close()


def test_a_pod_of_a_grant_that_the_ledger_never_knew(url):
    store = a_ledger(url, a_server("server-1"), held("a", T + 100))
    (account,) = close_all(store).values()
    assert sums_of(account, "condition")[("Used",)] == 8 * (30 * DAY - 100)
    assert [(row.grant, row.gpus, row.term_start, row.term_end) for row in account.awards] == [
        ("pretrain", 0, 0, 0)
    ]
    store.close()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Auckland", "America/Los_Angeles"])
def test_the_zone_changes_in_the_middle_of_a_month(url, zone):
    first = a_ledger(url, TERMS, a_server("server-1"), held("a", T + 100), until=MIDDLE)
    first.close()
    store = a_ledger(url, until=DECEMBER + 3 * DAY, calendars=Calendars(((OLD, zone),)))
    close_all(store, "2026-10")
    (november,) = close_all(store).values()
    assert november.zone == zone
    store.close()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Auckland", "America/Los_Angeles"])
def test_the_zone_changes_after_a_month_closed(url, zone):
    first = a_ledger(url, TERMS, a_server("server-1"), held("a", T + 100), until=DECEMBER + 15 * DAY)
    close_all(first)
    first.close()
    store = a_ledger(url, until=DECEMBER + 34 * DAY, calendars=Calendars(((OLD, zone),)))
    (december,) = close_all(store, "2026-12").values()
    edges = [one for *_, one in store.reported() if one.name == "2026-12"]
    assert everything({0: december}) == 8 * (edges[0].end - DECEMBER)
    store.close()


def test_a_programme_is_renamed_while_one_of_its_months_waits_to_close(url):
    store = a_ledger(url, TERMS, a_server("server-1"), held("a", T + 100), until=DECEMBER + DAY)
    store.commit([a_server("server-1", DECEMBER + DAY, programme=NEW)], DECEMBER + 33 * DAY)
    settle(store)
    ((programme, _),) = close_all(store)
    assert programme == OLD
    december = close_all(store, "2026-12")
    assert everything({0: december[OLD, "nhn-cloud"]}) == 8 * DAY
    assert everything({0: december[NEW, "nhn-cloud"]}) == 8 * 30 * DAY
    store.close()


@pytest.mark.parametrize("contracted", [False, True])
def test_a_pool_that_moves_to_another_provider_is_in_both_each_second_once(url, contracted, tmp_path):
    plan = Contracted("nhn-b200", T, OLD, "nhn-cloud", "NVIDIA-B200", (Instalment(T, 24, 24),), 24)
    plans = (plan, replace(plan, since=MIDDLE, provider="kakao")) if contracted else ()
    store = a_ledger(
        url,
        TERMS,
        a_server("server-1"),
        a_server("server-2"),
        a_server("server-1", MIDDLE, provider="kakao"),
        a_server("server-2", MIDDLE, provider="kakao"),
        Claimed("server-1", TERMS.grant_uid, T),
        held("a", T + 100),
        ended("b", T + 200, MIDDLE + 300, a_place(server="server-2")),
        *plans,
    )
    found = close_all(store)
    old, new = found[OLD, "nhn-cloud"], found[OLD, "kakao"]
    seats = 24 if contracted else 16
    assert everything({0: old}) == seats * (MIDDLE - T)
    assert everything({0: new}) == seats * (DECEMBER - MIDDLE)
    assert [one.gpu_seconds for one in (*old.shortfall, *new.shortfall)] == (
        [8 * (MIDDLE - T), 8 * (DECEMBER - MIDDLE)] if contracted else []
    )
    assert store._read(lambda connection: list(verify_ledger(connection))) == []
    folders = [tmp_path / account.provider for account in (old, new)]
    for account, folder in zip((old, new), folders, strict=True):
        write_folder(render(account, KEY), folder)
    merged = merge(folders, partial=["nhn-cloud/nhn-b200", "kakao/nhn-b200"])
    assert sum(total.gpu_seconds for total in merged.summary.totals) == seats * (DECEMBER - T)
    store.close()


def test_days_on_which_a_pool_did_not_exist_are_in_the_signed_files(url, tmp_path):
    plan = Contracted("nhn-b200", T, OLD, "nhn-cloud", "NVIDIA-B200", (Instalment(T, 16, 16),), 12)
    left, back = T + 5 * DAY, T + 15 * DAY
    store = a_ledger(
        url,
        a_server("server-1"),
        plan,
        Contracted("nhn-b200", left),
        a_server("server-1", left, seats=0),
        replace(plan, since=back),
        a_server("server-1", back),
    )
    (account,) = close_all(store).values()
    assert account.absences == (Absence("nhn-b200", left, back, 16, 12 * 10 * DAY),)
    assert everything({0: account}) == 16 * 20 * DAY
    write_folder(render(account, KEY), tmp_path / "november")
    manifest = check(tmp_path / "november").manifest
    assert [(one.start, one.end, one.gpus) for one in manifest.pool_absences] == [
        ("2026-11-06T00:00:00+09:00", "2026-11-16T00:00:00+09:00", 16)
    ]
    [flag] = merge([tmp_path / "november"], partial=["nhn-cloud/nhn-b200"]).summary.flags
    assert "pool nhn-b200 of nhn-cloud did not exist from 2026-11-06" in flag
    wrong = replace(account, absences=(replace(account.absences[0], end=left - 1),))
    assert "does not lie in the month" in check_files(render(wrong, KEY)).problems[0].message
    store.close()
