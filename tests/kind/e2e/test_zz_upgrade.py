"""From the release before to this one, under running pods. Sorted after the removal: a cluster has one operator."""

import asyncio
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from cluster_kit.pods import condition
from cluster_kit.pressing import holds_of
from cluster_kit.site import reason
from cluster_kit.witness import Witness
from devcluster.client import JsonObject, KubeClient
from devcluster.runfolder import ROOT
from gpugrant import names
from gpugrant.run.lease import LEASE_PATH
from kind.cluster import KindCluster
from kind.images import build_released
from kind_kit.platform import TODAYS, Platform, ours, released
from kind_kit.postgres import Postgres
from kind_kit.servers import SEATS, Servers
from kind_kit.site import KindSite

from .ledger import Ledger, booked

RELEASED = ROOT / "tests" / "released" / "0.1.0"
SLOW = 90.0
# A programme of its own: what earlier files closed under other names stays theirs. Short months, so that one is over
# before the upgrade; while the leader changes, nobody watches.
PROGRAMME = "upgraded"
SETTINGS: JsonObject = {
    "period": "60s",
    "bindTimeoutSeconds": 20,
    "programmes": {PROGRAMME: {"report": {"unobservedLimitGpuSeconds": 100_000_000}}},
}


@pytest.fixture
async def platform(
    kind_cluster: KindCluster, servers: Servers, operator_image: str, kind_admin: KubeClient
) -> Platform:
    """Install the release before, with a new ledger, in the place of what an earlier file may have left."""
    image = await asyncio.to_thread(build_released, kind_cluster.engine, RELEASED)
    await asyncio.to_thread(kind_cluster.load, image, operator_image, nodes=servers.all)
    postgres = Postgres(kind_cluster, f"upgrade_{uuid4().hex[:8]}")
    await postgres.start(kind_admin)
    platform = Platform(kind_cluster, postgres, SETTINGS, released(RELEASED, image))
    await asyncio.to_thread(platform.uninstall)
    await platform.install(kind_admin)
    return platform


async def images(platform: Platform, admin: KubeClient) -> set[str]:
    """Return what the replicas run."""
    return {pod["spec"]["containers"][0]["image"] for pod in await platform.replicas(admin)}


async def until_a_day_is_over(ledger: Ledger) -> None:
    """Wait until the ledger has summed a day."""
    async with asyncio.timeout(2 * SLOW):
        while not ledger.execute("select 1 from day_digests").fetchall():  # noqa: ASYNC110 (a database has no watch)
            await asyncio.sleep(1)


def rows(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Return all that the ledger has of pods."""
    return ledger.execute("select * from holdings order by id").fetchall()


def life(pod: JsonObject) -> tuple[str, str, int, str]:
    """Return what changes when a pod does not merely run on."""
    [status] = pod["status"]["containerStatuses"]
    started = status["state"]["running"]["startedAt"]
    return pod["metadata"]["uid"], pod["spec"]["nodeName"], status["restartCount"], started


async def test_what_runs_under_the_release_before_runs_on_and_its_accounts_go_on(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger, operator_image: str
) -> None:
    admin = site.admin
    pool = await site.workers(PROGRAMME)
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS)
    limits = dict.fromkeys(servers.all, SEATS)
    async with Witness(admin, frozenset({tenant.namespace}), {grant.uid: SEATS}, limits) as witness:
        finished = await site.runs(tenant, 2, 3)
        await admin.wait_for(finished, has_succeeded, SLOW)
        running = await site.runs(tenant, SEATS)
        [pod] = await site.running(running, seconds=SLOW)
        waiting = await site.runs(tenant, 4, 5)
        await site.told_to_wait(waiting)
        assert list(await booked(ledger, holds_of(witness))) == [
            (await admin.get(finished))["metadata"]["uid"]
        ]
        await until_a_day_is_over(ledger)
        allocated = (await admin.get(grant.path))["status"]["allocation"]
        before = rows(ledger)
        assert len(before) == 2

        async def nothing_has_changed(image: str) -> None:
            assert await images(platform, admin) == {image}
            assert life(await admin.get(running)) == life(pod)
            assert rows(ledger) == before, "one row of what ended, and one hold that goes on"
            await site.told_to_wait(waiting)

        older = platform.version.image
        await nothing_has_changed(older)
        await platform.upgrade(admin, TODAYS)
        await nothing_has_changed(operator_image)
        await platform.roll_back(admin)
        await nothing_has_changed(older)
        await platform.upgrade(admin, TODAYS)
        await nothing_has_changed(operator_image)

        await admin.delete(running)
        await admin.wait_for(waiting, has_succeeded, SLOW)
        await witness.until_all_over()
    assert witness.breaches == []
    expected = holds_of(witness)
    assert len(expected) == 3
    assert await booked(ledger, expected) == expected
    command = [sys.executable, "-m", "gpugrant", "ledger", "verify", "--ledger", platform.postgres.outside]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    # What the release before has counted is in what this one shows.
    used = sum(gpus * (until - since) for gpus, since, until in expected.values())
    assert await shown(platform, await platform.leader(admin), grant.name, used) == used
    seen = await admin.wait_for(grant.path, lambda one: one and one["status"]["usage"]["gpuSeconds"] == used, SLOW)
    assert seen["status"]["usage"]["held"] == 0
    assert (reason(seen, "Ready"), seen["status"]["allocation"]) == ("Active", allocated)
    for path in (pool.path, tenant.quota_path):
        assert condition(await admin.get(path), "Ready")["status"] == "True"

    await asyncio.to_thread(platform.uninstall)
    engineers = {names.PROVIDER_LABEL, names.FABRIC_LABEL}
    for path in (finished, waiting, *(f"/api/v1/nodes/{node}" for node in servers.all)):
        assert set(ours(await admin.get(path))) - engineers == set(), path
    await admin.wait_gone(LEASE_PATH)
    assert await platform.replicas(admin) == []


async def shown(platform: Platform, leader: str, grant: str, wanted: int) -> float:
    """Return the GPU-seconds used that the leader shows of a grant, once they are as wanted or after half a minute."""
    found = 0.0
    for _ in range(60):
        samples = await asyncio.to_thread(
            platform.samples, leader, "gpugrant_gpu_seconds_total", grant=grant, condition="Used"
        )
        found = sum(samples.values())
        if found == wanted:
            break
        await asyncio.sleep(0.5)  # the ledger's watermark goes on in steps
    return found


def has_succeeded(pod: JsonObject | None) -> bool:
    return (pod or {}).get("status", {}).get("phase") == "Succeeded"
