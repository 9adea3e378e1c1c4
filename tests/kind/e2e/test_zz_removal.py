"""Near the end: a release is changed and rolled back under running pods, and removed; nothing of ours is left."""

import asyncio
import json

from cluster_kit.site import at, is_running
from devcluster.client import Refused
from gpugrant import names
from kind_kit.platform import NAMESPACE, PODS, RELEASE, Platform, ours
from kind_kit.servers import SEATS, Servers
from kind_kit.site import KindSite

from .lab import ended, waits_in
from .ledger import Ledger

SLOW = 90.0


async def replicas(site: KindSite, platform: Platform) -> set[str]:
    """Return the names of the operator's pods."""
    return {pod["metadata"]["name"] for pod in await platform.replicas(site.admin)}


async def nothing_is_left(site: KindSite, servers: Servers, running: str) -> None:
    """See that nothing of ours is on servers, nor on a pod, which runs on."""
    for path in [f"/api/v1/nodes/{node}" for node in servers.all]:
        left = set(ours(await site.admin.get(path))) - {"gpugrant.io/provider", "gpugrant.io/fabric"}
        assert left == set(), f"{path}: those two are the engineer's own, and nothing else is left"
    held = await site.admin.get(running)
    assert ours(held) == [], json.dumps(held["metadata"])
    assert is_running(held)


async def break_ledger(site: KindSite, platform: Platform) -> None:
    """Take the ledger's name away, and wait until the operator's new pods have given up: it does not run unmetered."""
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/ledger"
    await site.admin.patch(secret, {"stringData": {"url": " "}})
    for name in await replicas(site, platform):
        await site.admin.delete(f"{PODS}/{name}", 0)

    for name in await replicas(site, platform):
        await site.admin.wait_for(f"{PODS}/{name}", waits_in("CrashLoopBackOff"), SLOW)


async def test_an_upgrade_a_rollback_and_the_end(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS)
    rival = await site.tenant(pool)
    theirs = await site.grant(rival, pool, SEATS)
    running = await site.runs(tenant, SEATS)
    [pod] = await site.running(running, seconds=SLOW)
    waiting = await site.runs(tenant, 4)
    await site.told_to_wait(waiting)
    before = await replicas(site, platform)
    await asyncio.to_thread(platform.release, "upgrade", podAnnotations={"example.org/round": "two"})
    upgraded = await replicas(site, platform)
    assert len(upgraded) == 2
    assert not upgraded & before
    await asyncio.to_thread(platform.helm, "rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "180s")
    assert not await replicas(site, platform) & upgraded
    await platform.leader(site.admin)
    assert is_running(await site.admin.get(running))
    row = ledger.execute("select held_until from holdings where uid = %s", (pod["metadata"]["uid"],)).fetchall()
    assert row == [(None,)], "one hold, still running, over two changes of leader"

    await asyncio.to_thread(platform.helm, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait",
                            "--timeout", "180s")
    log = await asyncio.to_thread(platform.cluster.kubectl, "logs", "--namespace", NAMESPACE, "job/gpugrant-uninstall")
    assert waiting.rpartition("/")[2] in log, "what waits behind the gate is named"
    assert "a kubelet that restarts ends such pods (NodeAffinity)" in log
    await nothing_is_left(site, servers, running)

    # Nobody guards marks now. One operator later they are what the ledger says, or nobody's.
    [server] = (await site.admin.get(theirs.path))["status"]["allocation"]["servers"]
    marks = {names.GRANT_UID_ANNOTATION: theirs.uid, names.RELEASED_AT_ANNOTATION: at(0)}
    forged = ""
    async with asyncio.timeout(SLOW):
        while not forged:
            try:
                forged = await site.runs(tenant, 3, nodeSelector={"kubernetes.io/hostname": server}, annotations=marks)
            except Refused:
                await asyncio.sleep(0.5)  # policies act for a moment after they are deleted
    [liar] = await site.running(forged, seconds=SLOW)
    await asyncio.to_thread(platform.release, "upgrade", "--install")
    await platform.leader(site.admin)
    await site.admin.wait_for(grant.path, lambda seen: (seen or {})["status"]["usage"]["held"] == SEATS, SLOW)
    query = "select owner, grant_uid, held_until from holdings join accounts on accounts.id = account_id where uid = %s"
    async with asyncio.timeout(SLOW):
        while not (rows := ledger.execute(query, (liar["metadata"]["uid"],)).fetchall()):  # noqa: ASYNC110
            await asyncio.sleep(0.5)  # a database has no watch
    assert rows == [("unmanaged", "", None)]
    assert ledger.execute(query, (pod["metadata"]["uid"],)).fetchall() == [("grant", grant.uid, None)]
    assert (await site.admin.get(theirs.path))["status"]["usage"]["held"] == 0

    # It can be removed also when it does not start any more.
    await break_ledger(site, platform)
    await asyncio.to_thread(platform.uninstall)
    await nothing_is_left(site, servers, running)
    # As the uninstall's words and the docs say: what ran on selects labels that are gone, and a kubelet looks again.
    node = pod["spec"]["nodeName"]
    await asyncio.to_thread(platform.cluster.run_in_node, node, "systemctl", "restart", "kubelet")
    await site.admin.wait_for(running, ended, SLOW)  # an hour before it would have ended
    await servers.offers(site.admin, node, SEATS)
    await site.admin.delete(forged, 0)
    await site.admin.wait_gone(forged, SLOW)
    await site.admin.delete(running, 0)
    await site.admin.wait_gone(running, SLOW)
    await site.admin.delete(waiting, 0)
    await site.admin.wait_gone(waiting, SLOW)
