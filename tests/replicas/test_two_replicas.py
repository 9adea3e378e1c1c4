"""Two replicas on one PostgreSQL: one leads, the other takes over, and nothing is lost, doubled or given twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from cluster_kit.pressing import Client, holds_of
from cluster_kit.replica import Replica
from cluster_kit.site import Site
from cluster_kit.witness import Witness
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from devcluster.install import apply_settings
from gpugrant import names
from meter_kit.postgres import PostgresServer

SETTINGS = "bindTimeoutSeconds: 5\ngracePeriodCeilingSeconds: 5\n"
CLIENTS = 20
DRAIN_SECONDS = 120.0


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL server for one test."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@asynccontextmanager
async def pair_of(
    installed: ControlPlane, admin: KubeClient, folder: Path, ledger: str
) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas of which the first leads."""
    pair = Replica("replica-a", installed, folder, ledger), Replica("replica-b", installed, folder, ledger)
    try:
        await pair[0].start(admin)
        await pair[0].leads(admin)
        await pair[1].start(admin)
        yield pair
    finally:
        for each in pair:
            each.stop()


async def test_the_leader_moves_mid_burst_and_every_second_is_booked_once(
    installed: ControlPlane, admin: KubeClient, postgres: PostgresServer, tmp_path: Path
) -> None:
    await apply_settings(admin, SETTINGS)
    ledger = postgres.database()
    site = Site(admin)
    try:
        async with pair_of(installed, admin, tmp_path, ledger) as (leader, standby):
            pool = await site.pool([4])
            tenants = [await site.tenant(pool), await site.tenant(pool)]
            own = await site.grant(tenants[0], pool, 16)
            shared = await site.grant(tenants[1], pool, 12, placement="SharedServers")
            witness = Witness(admin, frozenset(each.namespace for each in tenants), {own.uid: 16, shared.uid: 12},
                              dict.fromkeys(pool.servers, 8))
            enough, dice = asyncio.Event(), random.Random(1)
            async with witness:
                clients = [Client(admin, witness, tenants[number % 2], number, random.Random(dice.random()))
                           for number in range(CLIENTS)]
                pressing = [asyncio.create_task(each.press(enough)) for each in clients]
                for round_number in range(4):
                    await asyncio.sleep(dice.uniform(2, 5))
                    # In turns its node is lost, and it is asked to go.
                    leader.stop(at_once=round_number % 2 == 0)
                    await standby.leads(admin)
                    await leader.start(admin)
                    leader, standby = standby, leader
                enough.set()
                try:
                    async with asyncio.timeout(DRAIN_SECONDS):
                        await asyncio.gather(*pressing)
                        await witness.until_all_over()
                except TimeoutError:
                    raise AssertionError("not over:\n" + "\n".join(witness.left())) from None
            assert witness.breaches == []
            await _ledger_equals(ledger, witness)
    finally:
        await site.clean_up()
        await admin.delete(f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps/{names.SETTINGS_CONFIGMAP}")


async def _ledger_equals(ledger: str, witness: Witness) -> None:
    """Every pod once, from the second it was bound to the second its containers ended."""
    query = "select uid, seats, held_from, held_until from holdings where held_until is null or held_until > held_from"
    expected = holds_of(witness)
    assert len(expected) > CLIENTS
    booked: dict[str, tuple[int, int, int]] = {}
    with psycopg.connect(ledger, autocommit=True) as connection:
        for _ in range(100):
            booked = {row[0]: row[1:] for row in connection.execute(query).fetchall() if row[0] in witness.seen}
            if booked == expected:
                break
            await asyncio.sleep(0.2)  # a database has no watch
        doubled = connection.execute("select uid from holdings group by uid having count(*) > 1").fetchall()
    assert doubled == []
    assert booked == expected, "pod: (ledger, witness)"
