"""What became of every second of a pool, on a real cluster: failures, maintenance, free, own use; to the second."""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.pods import condition
from cluster_kit.site import Pool, Site, at, seconds_of
from devcluster.faults import bring_server_back, lose_server, set_unhealthy
from gpugrant import names

SEATS = 8


def node_path(server: str) -> str:
    return f"/api/v1/nodes/{server}"


async def ready_since(site: Site, server: str) -> int:
    return seconds_of(condition(await site.admin.get(node_path(server)), "Ready")["lastTransitionTime"])


async def sums(operator: OperatorProcess, pool: Pool, *by: str) -> Counter[tuple[str, ...]]:
    """Return the running month's GPU-seconds of a pool by some labels, as a scraper reads them."""
    found: Counter[tuple[str, ...]] = Counter()
    for labels, value in (await operator.samples("gpugrant_month_gpu_seconds", pool=pool.name)).items():
        named = dict(labels)
        found[tuple(named[label] for label in by)] += int(value)
    return found


async def watermark(operator: OperatorProcess) -> int:
    (value,) = (await operator.samples("gpugrant_ledger_watermark_timestamp_seconds")).values()
    return int(value)


async def counted_past(operator: OperatorProcess, moment: float) -> None:
    """Wait until the ledger is complete up to a moment."""
    async with asyncio.timeout(30):
        while await watermark(operator) <= moment:  # noqa: ASYNC110 (a page of metrics has no watch)
            await asyncio.sleep(0.2)


def placed_since(operator: OperatorProcess, pool: Pool) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{operator.ledger}?mode=ro", uri=True)) as ledger:
        query = "select server, min(since) from placements where pool = ? group by server"
        return dict(ledger.execute(query, (pool.name,)))


async def whole(operator: OperatorProcess, pool: Pool) -> tuple[int, int]:
    """Return what all owners and conditions of a pool add up to, and seats x seconds, at one watermark."""
    async with asyncio.timeout(30):
        while True:
            before = await watermark(operator)
            counted = sum((await sums(operator, pool, "owner")).values())
            if before == await watermark(operator):
                break
    return counted, sum(SEATS * (before - since) for since in placed_since(operator, pool).values())


async def test_failed_time_is_the_suppliers_from_its_transition_on_also_over_a_kill(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([3])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 16)
    [pod] = await site.running(path := await site.pod(tenant, 8))
    server = pod["spec"]["nodeName"]
    start = seconds_of(condition(pod, "PodScheduled")["lastTransitionTime"])
    await lose_server(site.admin, server)
    lost = await ready_since(site, server)
    await site.told(grant, "Degraded", "SeatsFailed")
    await counted_past(operator, lost + 3)
    watched = await watermark(operator)
    killed = operator.kill()
    await bring_server_back(site.admin, server)
    back = await ready_since(site, server)
    await operator.back(killed)
    await operator.ready()
    await site.told(grant, "Degraded", "AllHealthy")
    await counted_past(operator, back + 2)
    await site.admin.delete(path, 0)
    await site.admin.wait_gone(path)
    await counted_past(operator, time.time() + 1)
    with closing(sqlite3.connect(f"file:{operator.ledger}?mode=ro", uri=True)) as ledger:
        query = "select held_from, held_until from holdings where uid = ?"
        ((held_from, held_until),) = ledger.execute(query, (pod["metadata"]["uid"],))
    assert held_from == start
    found = await sums(operator, pool, "owner", "condition")
    # Whether it was lost all the time till then nobody saw: that is not guessed.
    unseen = found["grant", "Unobserved"]
    assert 0 <= unseen <= SEATS * (back - watched)
    assert found["grant", "Failed"] == SEATS * (back - lost) - unseen
    assert found["grant", "Used"] == SEATS * (held_until - held_from) - SEATS * (back - lost)
    assert found["grant", "Idle"] > 0
    assert found["free", "Idle"] > 0
    del found["grant", "Unobserved"]
    assert set(found) == {("grant", "Failed"), ("grant", "Used"), ("grant", "Idle"), ("free", "Idle")}
    counted, expected = await whole(operator, pool)
    assert counted == expected


async def test_maintenance_announced_in_time_is_no_failure_and_without_notice_it_is(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([2], programme="noticed")
    announced, unannounced = pool.servers
    window = {"metadata": {"annotations": {names.MAINTENANCE_ANNOTATION: f"{at(0)}/{at(600)}"}}}
    await site.admin.patch(node_path(announced), window)
    await asyncio.sleep(3)  # the programme's notice: a second
    cordon, uncordon = {"spec": {"unschedulable": True}}, {"spec": {"unschedulable": None}}
    cordoned = time.time()
    for server in pool.servers:
        await site.admin.patch(node_path(server), cordon)
    cordoned_all = time.time()
    await counted_past(operator, time.time() + 3)
    uncordoning = time.time()
    for server in pool.servers:
        await site.admin.patch(node_path(server), uncordon)
    uncordoned = time.time()
    await counted_past(operator, uncordoned + 3)
    found = await sums(operator, pool, "condition")
    # An object does not say when it was cordoned: from when it was seen on, a moment later.
    for kind in ("Failed", "Maintenance"):
        assert SEATS * (uncordoning - cordoned_all - 2) <= found[(kind,)] <= SEATS * (uncordoned - cordoned + 2)
    counted, expected = await whole(operator, pool)
    assert counted == expected
    assert unannounced != announced


async def test_a_seat_that_fails_under_a_full_server_is_not_charged(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    await site.running(await site.pod(tenant, 8))
    before = time.time()
    await set_unhealthy(site.admin, pool.servers[0], 2)
    await site.node(pool.servers[0], lambda node: node["status"]["allocatable"]["nvidia.com/gpu"] == "6")
    began = time.time()
    await counted_past(operator, began + 3)
    ending = time.time()
    await set_unhealthy(site.admin, pool.servers[0], 0)
    await site.node(pool.servers[0], lambda node: node["status"]["allocatable"]["nvidia.com/gpu"] == "8")
    ended = time.time()
    await counted_past(operator, ended + 3)
    found = await sums(operator, pool, "owner", "condition")
    assert 2 * (ending - began - 2) <= found["grant", "Failed"] <= 2 * (ended - before + 2)
    counted, expected = await whole(operator, pool)
    assert counted == expected


async def test_a_server_whose_object_goes_is_not_installed_any_more(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([2], delivery=[{"gpus": 16, "due": "2026-01-01"}])
    gone = pool.servers[0]
    await site.admin.delete(node_path(gone))
    await site.admin.wait_gone(node_path(gone))
    went = time.time()
    await counted_past(operator, went + 3)
    found = await sums(operator, pool, "condition")
    # What is contracted and not there is the supplier's to deliver.
    assert found["Undelivered",] >= SEATS
    with closing(sqlite3.connect(f"file:{operator.ledger}?mode=ro", uri=True)) as ledger:
        query = "select since, seats from placements where server = ? order by id"
        assert [seats for _, seats in ledger.execute(query, (gone,))] == [SEATS, 0]
        ((contracted,),) = ledger.execute("select since from contracts where pool = ?", (pool.name,))
    async with asyncio.timeout(30):
        while True:
            mark = await watermark(operator)
            found = await sums(operator, pool, "pool")
            if mark == await watermark(operator):
                break
    first = min(placed_since(operator, pool).values())
    # Both servers were placed in the same plan as the contract was told, or a moment apart.
    assert found[(pool.name,)] == 2 * SEATS * (mark - min(first, contracted))


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "while the operator was away"])
async def test_a_pod_that_ran_and_is_rejected_by_the_kubelet_of_a_restarted_server_held_until_then(
    site: Site, operator: OperatorProcess, *, is_watched: bool
) -> None:
    """The kubelet keeps nothing of what it said of the pod but when it first saw it; words as of 1.37.2."""
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    [pod] = await site.running(path := await site.pod(tenant, 8))
    start = seconds_of(condition(pod, "PodScheduled")["lastTransitionTime"])
    await counted_past(operator, start + 2)
    killed = 0 if is_watched else operator.kill()
    pod = await site.admin.get(path)
    first_seen = pod["status"]["startTime"] if is_watched else at(-3600)
    pod["status"] = {
        "phase": "Failed", "reason": "UnexpectedAdmissionError", "startTime": first_seen, "qosClass": "BestEffort",
        "message": "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy "
                   "devices nvidia.com/gpu, which is unexpected"}
    over = await site.admin.send("PUT", f"{path}/status", pod)
    assert "conditions" not in over["status"]
    if killed:
        await operator.back(killed)
        await operator.ready()
    told = max(seconds_of(one["time"]) for one in over["metadata"]["managedFields"]
               if one.get("subresource") == "status")
    await counted_past(operator, told + 1)
    with closing(sqlite3.connect(f"file:{operator.ledger}?mode=ro", uri=True)) as ledger:
        query = "select held_from, held_until, end_reason from holdings where uid = ?"
        assert list(ledger.execute(query, (pod["metadata"]["uid"],))) == [(start, told, "Terminal")]
    assert told > start
