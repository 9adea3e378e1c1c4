"""From a real ledger to files that pass their check, with the commands as they are typed."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from gpugrant.expose.report import signing
from gpugrant.expose.report.checking import verify
from gpugrant.expose.report.commands import report
from gpugrant.expose.report.files import render
from gpugrant.meter.facts import Aspect, Claimed, Contracted, GrantTerms, Health, Instalment, Named, Owner
from gpugrant.meter.store import Store
from meter_kit import DECEMBER, NOVEMBER, a_place, a_server, an_account, ended, held

T, DAY = NOVEMBER, 86_400
JANUARY = DECEMBER + 31 * DAY
PROVIDER = ("purchase-2025", "nhn-cloud")
NAMES = ("purchase-2025-nhn-cloud-2026-11", "purchase-2025-nhn-cloud-2026-12")
OWN = an_account("", share="OwnUse", owner=Owner.OWN_USE, tenant="research", tenant_namespace="research")
FACTS = [
    GrantTerms(
        "uid-of-pretrain", "hangang-lm", "pretrain", T, T + 20 * DAY, 3600, "hangang", "A-17", 16, since=T
    ),
    *(a_server(f"server-{number}") for number in (1, 2, 3)),
    a_server("server-4", share="OwnUse", idle_owner=Owner.OWN_USE),
    Named("hangang", T, "=한강 LM"),
    Claimed("server-1", "uid-of-pretrain", T),
    Claimed("server-2", "uid-of-pretrain", T + DAY),
    Contracted("nhn-b200", T, *PROVIDER, "NVIDIA-B200", (Instalment(T, 40, 32),), 32),
    ended("a", T + 100, T + 20 * DAY + 1800, a_place(an_account(award="A-17"))),
    ended("own", T + 50, T + 7 * DAY + 1, a_place(OWN, "server-4")),
    held("b", T + 3 * DAY, a_place(an_account(award="A-17"), "server-2", seats=4)),
    Health("server-3", Aspect.READY, T + 1000, 0, T + 1040),
    Health("server-3", Aspect.READY, T + 4000, 1),
]


@pytest.fixture
def ledger(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path}/ledger.db", now=lambda: T)
    store.open()
    store.commit(FACTS, DECEMBER + 100)
    while store.settle():
        pass
    yield store
    store.close()


def close(store, key, name, at):
    """Close a month as the operator does: its manifest's digest goes into the ledger."""
    account = next(
        store.month_account(*who, month)
        for *who, month in store.reported()
        if "-".join((*who, month.name)) == name
    )
    files = render(replace(account, closed_at=at), key)
    store.close_month(name, hashlib.sha256(files["manifest.json"]).hexdigest(), at)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    env = {
        "GPUGRANT_LEDGER": f"sqlite:///{tmp_path}/ledger.db",
        "GPUGRANT_SIGNING_KEY": str(tmp_path / "key.pem"),
    }
    return lambda *arguments: CliRunner().invoke(report, [str(one) for one in arguments], env=env)


def test_an_open_month_of_the_ledger_passes_its_check(ledger, run, tmp_path):
    for name in NAMES:
        ended_with = run("get", name, "--create-key")
        assert ended_with.exit_code == 0
        assert ended_with.stderr == f"{name} is provisional: its figures will still change\n"
        assert verify(tmp_path / name) == []
    conditions = {
        total["condition"]
        for total in json.loads((tmp_path / NAMES[0] / "usage.json").read_bytes())["totals"]
    }
    assert {"Used", "Idle", "Failed", "Grace", "Undelivered"} <= conditions


def test_months_of_the_ledger_are_closed_chained_corrected_and_handed_over(ledger, run, tmp_path):
    key = signing.load_key(tmp_path / "key.pem", create=True)
    november, december = NAMES
    close(ledger, key, november, DECEMBER + 4 * DAY)
    late = [Health("server-1", Aspect.READY, T + 9000, 0), Health("server-1", Aspect.READY, T + 9500, 1)]
    for facts, watermark in ((late, DECEMBER + 5 * DAY), ([], JANUARY + 100)):
        ledger.commit(facts, watermark)
        while ledger.settle():
            pass
    close(ledger, key, december, JANUARY + 4 * DAY)
    for name in NAMES:
        assert run("get", name).exit_code == 0
    first, second = tmp_path / november, tmp_path / december
    assert verify(first, key.public_key()) == []
    assert verify(second, key.public_key(), previous=first) == []
    corrections = json.loads((second / "usage.json").read_bytes())["corrections"]
    assert {one["of_month"] for one in corrections} == {"2026-11"}
    assert sum(one["gpu_seconds"] for one in corrections) == 0
    assert sum(one["gpu_seconds"] for one in corrections if one["condition"] == "Failed") == 8 * 500
    signing.load_key(tmp_path / "other.pem", create=True)
    other = run("get", november, "-o", "other", "--signing-key", tmp_path / "other.pem")
    assert other.exit_code == 1 and "sign with the key that it was closed with" in other.stderr
    assert not (tmp_path / "other").exists()
    early = run("ack", november, "--reference", "NIPA-7")
    assert early.exit_code == 1
    assert run("sign-off", november, "--by", "Lee").exit_code == 0
    assert run("ack", november, "--reference", "NIPA-7").exit_code == 0
    listed = {row["name"]: row for row in json.loads(run("list", "-o", "json").stdout)}
    assert (listed[november]["state"], listed[november]["acknowledged"]) == ("Acknowledged", "NIPA-7")
    assert (listed[december]["state"], listed[december]["signed_off_by"]) == ("Closed", "")
    shown = run("show", november).stdout
    assert "reconciles to the second" in shown
    again = run("build", december)
    assert again.exit_code == 1 and "a closed month never changes" in again.stderr


def test_a_ledger_that_is_not_there_is_told_in_words(run, tmp_path):
    ended_with = run("list", "--ledger", f"sqlite:///{tmp_path}/no/ledger.db")
    assert ended_with.exit_code == 1
    assert ended_with.stderr.startswith("Error: the ledger cannot be read: ")
    assert len(ended_with.stderr.splitlines()) == 1
