"""The list of incidents: every second that is Failed lies in one of its pool, and so does a server that is gone."""

from pathlib import Path

import pytest
from hypothesis import given, settings

from gpugrant.meter.facts import Aspect, Contracted, Health, Instalment, Placed, Unwell
from gpugrant.meter.histories import KINDS, Histories
from gpugrant.meter.incidents import incidents_of
from gpugrant.meter.timeline import build
from meter_kit import NOVEMBER as T
from meter_kit import a_server, a_store, ended, held
from property.test_timeline import LAST, PROGRAMMES, facts_of_a_window


def listed(folder: Path, *facts, provider="nhn-cloud", until=T + 1000):
    """Return server, start, restored, GPUs and cause of what a provider's running month lists."""
    store = a_store(folder, now=T)
    store.open()
    store.commit(facts, until)
    [month] = [month for _, name, month in store.reported() if name == provider]
    account = store.month_account("purchase-2025", provider, month)
    store.close()
    failed = sum(line.gpu_seconds for line in account.lines if line.condition == "Failed")
    incidents = [
        (one.server, one.start - T, one.restored and one.restored - T, one.gpus, one.cause)
        for one in account.incidents
    ]
    return failed, incidents


MOVED = (
    a_server("server-1"),
    Health("server-1", Aspect.READY, T + 100, 0, T + 100),
    a_server("server-1", T + 500, provider="other", pool="other-b200"),
    Health("server-1", Aspect.READY, T + 600, 1, T + 600),
)


@pytest.mark.parametrize(("provider", "start", "end"), [("nhn-cloud", 100, 500), ("other", 500, 600)])
def test_an_outage_over_a_move_is_one_of_each_pool(tmp_path: Path, provider, start, end):
    found = listed(tmp_path, *MOVED, provider=provider)
    assert found == (8 * (end - start), [("server-1", start, end, 8, "NotReady")])


def test_devices_of_a_pod_that_are_unhealthy(tmp_path: Path):
    facts = (held("a", T + 10), Unwell("a", "server-1", T + 100, 4), Unwell("a", "server-1", T + 300, 0))
    assert listed(tmp_path, a_server("server-1"), *facts) == (800, [("server-1", 100, 300, 4, "Unhealthy")])


def test_a_server_that_is_deleted_while_pods_hold_there(tmp_path: Path):
    gone = (Placed("server-1", T + 200), Health("server-1", Aspect.PRESENT, T + 200, 0, T + 205))
    found = listed(tmp_path, a_server("server-1"), ended("a", T + 10, T + 700), *gone)
    assert found == (4000, [("server-1", 200, 700, 8, "NodeGone")])


def test_a_server_that_is_deleted_while_it_is_owed(tmp_path: Path):
    plan = Contracted("nhn-b200", T, "purchase-2025", "nhn-cloud", "NVIDIA-B200", (Instalment(T, 8, 8),))
    gone = (Placed("server-1", T + 200), Health("server-1", Aspect.PRESENT, T + 200, 0, T + 205))
    back = (Health("server-1", Aspect.PRESENT, T + 500, 1, T + 500), a_server("server-1", T + 500))
    found = listed(tmp_path, a_server("server-1"), plan, *gone, *back)
    assert found == (0, [("server-1", 200, 500, 8, "NodeGone")])
    (tmp_path / "other").mkdir()
    assert listed(tmp_path / "other", a_server("server-1"), *gone, *back) == (0, [])  # nothing was agreed


@settings(deadline=None, max_examples=200)
@given(facts_of_a_window())
def test_every_failed_second_lies_in_an_incident(facts):
    histories = Histories()
    for found in (facts.placed, facts.health, facts.unwell, facts.announced, facts.contracted):
        for one in (fact for history in found.values() for fact in history):
            assert type(one) in KINDS
            histories.add(one)
    for programme in PROGRAMMES:
        failed: dict[tuple[str, str, str], int] = {}
        for cell, amount in build(facts, programme, 3, LAST).cells.items():
            key = (cell.account.provider, cell.account.pool, str(cell.reason))
            if cell.condition == "Failed":
                failed[key] = failed.get(key, 0) + amount
        told: dict[tuple[str, str, str], int] = {}
        for provider in ("kim", "lee"):
            for one in incidents_of(histories, facts.stays, programme, provider, 3, LAST):
                key = (provider, one.pool, one.cause)
                told[key] = told.get(key, 0) + one.gpus * ((one.restored or LAST) - one.start)
        for key in failed.keys() | told.keys():
            if key[2] == "NodeGone":  # what is owed and not held is an incident, and Undelivered
                assert told.get(key, 0) >= failed.get(key, 0)
            else:
                assert told.get(key, 0) == failed.get(key, 0), key
