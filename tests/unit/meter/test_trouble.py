"""The store locked, full, read-only, away or killed under a running meter: nothing is lost, and all is caught up."""

import asyncio
import resource
import signal
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from gpugrant.meter.facts import Condition
from gpugrant.meter.meter import Meter
from gpugrant.meter.store import Store
from meter_kit import NOVEMBER, a_place, a_pod, a_server, an_account

T = NOVEMBER


def file_of(url):
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked_file(url, server):
    """Another holds SQLite's write lock."""
    other = sqlite3.connect(file_of(url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def full_disk(url, server):
    """No file of this process may grow: SQLite is told what a full disk tells it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{file_of(url)}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def own_dsn(url, server):
    return server.dsn.replace("dbname=postgres", f"dbname={url.split('/')[3].split('?')[0]}")


@contextmanager
def locked_row(url, server):
    """Another transaction holds PostgreSQL's lock on the ledger's row."""
    with psycopg.connect(own_dsn(url, server)) as other:
        other.execute("SELECT * FROM ledger FOR UPDATE")
        yield
        other.rollback()


@contextmanager
def read_only(url, server):
    """A server that takes no writes, as a standby."""
    name = url.split("/")[3].split("?")[0]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    server.execute(end)
    yield
    server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    server.execute(end)


@contextmanager
def full_server(url, server):
    """A server that says of every new row that its disk is full."""
    with psycopg.connect(own_dsn(url, server), autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        other.execute("CREATE TRIGGER full_disk BEFORE INSERT ON holdings EXECUTE FUNCTION full_disk()")
        yield
        other.execute("DROP TRIGGER full_disk ON holdings")


@contextmanager
def stopped_server(url, server):
    """The server is shut down, and comes back."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def killed_server(url, server):
    """The server falls where it stands, and recovers."""
    server.stop(signal.SIGQUIT)
    try:
        yield
    finally:
        server.start()


TROUBLES = [
    ("sqlite", locked_file, "locked"),
    ("sqlite", full_disk, ""),
    ("postgresql", locked_row, "lock timeout"),
    ("postgresql", read_only, "read-only"),
    ("postgresql", full_server, "no space left"),
    ("postgresql", stopped_server, ""),
    ("postgresql", killed_server, ""),
]


@pytest.mark.parametrize(("kind", "trouble", "words"), TROUBLES, ids=[one[1].__name__ for one in TROUBLES])
async def test_facts_wait_and_are_caught_up_and_readiness_says_so(tmp_path, postgres, kind, trouble, words):
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if kind == "sqlite" else postgres.database()
    recorded = []
    now = [T]
    store = Store(url, now=lambda: T, lock_wait=0.2)
    meter = Meter(
        store,
        resolve=lambda pod: a_place(server=pod.node),
        on_recorded=lambda pod: recorded.append(pod.uid),
        clock=lambda: now[0],
    )
    await meter.start()
    meter.listing_complete()
    for number in range(200):
        meter.observe(a_server(f"server-{number}", T))
    meter.observe_pod(a_pod("first", node="server-1", scheduled_at=T))
    now[0] = T + 10
    async with asyncio.timeout(60):
        await meter.drained()
    assert meter.health().ready
    with trouble(url, postgres):
        for number in range(200):
            name = f"server-{number}"
            finished = {"finished_at": T + 30, "terminal_at": T + 31, "phase": "Succeeded"}
            meter.observe_pod(a_pod(f"pod-{number}", node=name, scheduled_at=T + 12, **finished))
        now[0] = T + 40
        async with asyncio.timeout(60):
            while meter.health().ready or words not in meter.health().detail:  # noqa: ASYNC110 (its writer tries by itself)
                await asyncio.sleep(0.01)
        assert meter.health().queued >= 200
        assert recorded == []
        assert meter.tally().watermark == T + 10
    async with asyncio.timeout(90):
        await meter.drained()
    assert meter.health().ready and not meter.health().queued
    assert sorted(recorded) == sorted(f"pod-{number}" for number in range(200))
    sums = meter.tally().sums(an_account())
    assert sums["2026-11", Condition.USED] == 8 * (12 + 200 * 18)
    await meter.stop()
