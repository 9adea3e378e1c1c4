"""The operator's own ends: killed, its node lost, the API server away, a month closed, upgraded and taken out."""

import asyncio
import base64
import csv
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster_kit.pods import condition, phase
from cluster_kit.pressing import holds_of
from cluster_kit.site import Grant, Tenant, seconds_of
from cluster_kit.witness import Witness
from devcluster.client import JsonObject
from gpugrant.run.report_objects import PATH as REPORTS
from kind_kit.platform import NAMESPACE, PODS, Platform
from kind_kit.servers import SEATS, Servers
from kind_kit.site import KindSite

from .lab import end_of, ended, finish_of, start_of
from .ledger import Ledger, booked

MANY = 12
SLOW = 90.0
PERIOD = 60  # a month's length, as the settings of these tests say


async def burst(site: KindSite, tenant: Tenant, count: int, seconds: float) -> list[str]:
    """Create pods of two GPUs each that work so long."""
    return list(await asyncio.gather(*(site.runs(tenant, 2, seconds) for _ in range(count))))


async def press(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger, fault: Any
) -> None:
    """Run a burst, in the middle of which ``fault`` happens to the leader; then compare ledger and witness."""
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant: Grant = await site.grant(tenant, pool, SEATS)
    leader = await platform.leader(site.admin)
    limits = dict.fromkeys(servers.all, SEATS)
    async with Witness(site.admin, frozenset({tenant.namespace}), {grant.uid: SEATS}, limits) as witness:
        paths = await burst(site, tenant, MANY, 3)
        await site.running(paths[0], seconds=SLOW)
        await fault(leader)
        async with asyncio.timeout(3 * SLOW):
            await witness.until_all_over()
    assert witness.breaches == []
    assert len(witness.seen) == MANY
    expected = holds_of(witness)
    assert await booked(ledger, expected, 60) == expected


async def test_a_leader_that_is_killed_mid_burst_leaves_it_to_the_other(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    async def kill(leader: str) -> None:
        await site.admin.delete(f"{PODS}/{leader}", 0)
        await platform.leader(site.admin, other_than=leader)

    await press(site, platform, servers, ledger, kill)


async def test_the_api_server_restarts_mid_burst(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    async def restart() -> None:
        node = platform.postgres.node
        await asyncio.to_thread(platform.cluster.run_in_node, node, "pkill", "-KILL", "kube-apiserver")
        async with asyncio.timeout(SLOW):
            while True:
                try:
                    await asyncio.to_thread(platform.cluster.kubectl, "get", "--raw", "/readyz")
                    return
                except Exception:  # noqa: BLE001 (it is away: whatever kubectl says of that)
                    await asyncio.sleep(0.5)

    # The witness's own watch breaks with the server, so what ran is read from the objects afterwards.
    pool = await site.workers()
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, SEATS)
    paths = await burst(site, tenant, MANY, 3)
    await site.running(paths[0], seconds=SLOW)
    await restart()
    expected = {}
    for path in paths:
        pod = await site.admin.wait_for(
            path, lambda seen: (seen or {}).get("status", {}).get("phase") == "Succeeded", 3 * SLOW)
        expected[pod["metadata"]["uid"]] = (2, start_of(pod), finish_of(pod))
    assert await booked(ledger, expected, 60) == expected


async def test_a_server_that_goes_dark_with_the_leader_on_it_is_failed_and_comes_back(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS * len(servers.all))
    leader = await platform.leader(site.admin)
    node = (await site.admin.get(f"{PODS}/{leader}"))["spec"]["nodeName"]
    path = await site.runs(tenant, SEATS, nodeSelector={"kubernetes.io/hostname": node})
    [pod] = await site.running(path, seconds=SLOW)
    over = asyncio.create_task(site.admin.wait_for(path, ended, 5 * SLOW))  # the first that says so is what counts
    await asyncio.to_thread(platform.cluster.stop_node, node)
    try:
        await platform.leader(site.admin, other_than=leader)
        await site.node(node, lambda seen: condition(seen, "Ready")["status"] != "True", SLOW)
        await site.told(grant, "Degraded", "SeatsFailed", SLOW)
        lost = condition(await site.admin.get(f"/api/v1/nodes/{node}"), "Ready")["lastTransitionTime"]
    finally:
        await asyncio.to_thread(platform.cluster.start_node, node)
    await site.node(node, lambda seen: condition(seen, "Ready")["status"] == "True", 2 * SLOW)
    back = condition(await site.admin.get(f"/api/v1/nodes/{node}"), "Ready")["lastTransitionTime"]
    await servers.offers(site.admin, node, SEATS, 2 * SLOW)
    await site.told(grant, "Degraded", "AllHealthy", SLOW)
    query = "select since, value from health where server = %s and aspect = 'Ready' order by id desc limit 2"
    rows = ledger.execute(query, (node,)).fetchall()
    assert rows == [(seconds_of(back), 1), (seconds_of(lost), 0)]
    # The kubelet that came back has no devices yet, and rejects the pod that ran.
    last = await over
    assert (phase(last), last["status"].get("reason")) == ("Failed", "UnexpectedAdmissionError")
    expected = {pod["metadata"]["uid"]: (SEATS, start_of(pod), end_of(last))}
    assert await booked(ledger, expected) == expected


async def test_a_server_whose_object_is_deleted_is_failed_until_it_is_back(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    """Its kubelet goes on; Kubernetes ends the pods that it had, and the object comes when the kubelet starts anew."""
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS * len(servers.all))
    async with Witness(site.admin, frozenset({tenant.namespace}), {grant.uid: SEATS * len(servers.all)},
                       dict.fromkeys(servers.all, SEATS)) as witness:
        path = await site.runs(tenant, SEATS)
        [pod] = await site.running(path, seconds=SLOW)
        node = pod["spec"]["nodeName"]
        deleted = int(time.time())
        await site.admin.delete(f"/api/v1/nodes/{node}")
        try:
            await site.told(grant, "Degraded", "SeatsFailed", SLOW)
            async with asyncio.timeout(2 * SLOW):
                await witness.until_all_over()
        finally:
            await asyncio.to_thread(platform.cluster.run_in_node, node, "systemctl", "restart", "kubelet")
            await servers.equip(site.admin, node)
    back = await site.admin.get(f"/api/v1/nodes/{node}")
    await site.told(grant, "Degraded", "AllHealthy", SLOW)
    assert witness.breaches == []
    expected = holds_of(witness)
    assert len(expected) == 1
    assert await booked(ledger, expected) == expected
    query = "select since, value from health where server = %s and aspect = 'Present' order by id desc limit 2"
    [(returned, one), (gone, zero)] = ledger.execute(query, (node,)).fetchall()
    assert (one, zero) == (1, 0)
    assert returned == seconds_of(back["metadata"]["creationTimestamp"])
    assert deleted <= gone <= deleted + 2, "a watch tells of it within a moment"


async def test_a_month_closes_signed_and_an_officer_finds_the_pod_in_it_and_verifies_it(
    site: KindSite, platform: Platform, tmp_path: Path
) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS)
    pod = await site.admin.wait_for(await site.runs(tenant, SEATS, 3), ended, SLOW)
    start, end = start_of(pod), finish_of(pod)

    async with asyncio.timeout(4 * SLOW):
        while True:
            months = [one for one in await site.admin.list(REPORTS) if start - PERIOD < begin_of(one) < end]
            if months and all(condition(one, "Closed").get("status") == "True" for one in months):
                break
            await asyncio.sleep(1)  # several objects: no one watch tells
    public = tmp_path / "key.pub"
    secret = await site.admin.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/signing-key")
    public.write_bytes(_public(base64.b64decode(secret["data"]["signing-key.pem"])))
    used = 0
    for month in months:
        folder = platform.cluster.folder / "shared" / "reports" / month["metadata"]["name"]
        command = [sys.executable, "-m", "gpugrant", "report", "verify", str(folder), "--public-key", str(public)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with (folder / "usage.csv").open(encoding="utf-8-sig", newline="") as file:
            used += sum(int(row["gpu_seconds"]) for row in csv.DictReader(file)
                        if row["grant"] == grant.name and row["condition"] == "Used")
    assert used == SEATS * (end - start)


def begin_of(report: JsonObject) -> int:
    """Return when a report's month, which is a short period here, begins."""
    return int(datetime.strptime(report["spec"]["month"].upper(), "%Y-%m-%dT%H%M%S%z").timestamp())


def _public(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    key = load_pem_private_key(pem, None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
