"""How much the operator writes: two PATCHes in a pod's life, and nothing while nothing happens.

Counted by the API server itself. Its metrics know no users, so what the others here write is named below.
"""

import asyncio
import time

from cluster_kit.counting import writes
from cluster_kit.site import Site
from gpugrant import names

# Leases are the operator's own and kwok's for its servers; kwok posts a server's status now and then.
OTHERS = {"PUT leases", "PATCH leases", "PATCH nodes/status"}
IDLE_SECONDS = 60
# Figures in a status follow within 2 s, an Event within 10.
SETTLED_SECONDS = 12


async def test_a_pod_that_need_not_wait_costs_two_writes(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    count = 12
    before = await writes(site.admin)
    pods = [await site.pod(tenant, 1, run_seconds=1, restartPolicy="Never") for _ in range(count)]
    for path in pods:
        await site.admin.wait_for(
            path, lambda pod: pod["status"]["phase"] == "Succeeded" and not pod["metadata"].get("finalizers"))
    after = await writes(site.admin)
    # Scheduler and kwok write to subresources only.
    assert (after - before)["PATCH pods"] == 2 * count
    await asyncio.sleep(SETTLED_SECONDS)  # an Event that is still on its way would be missed
    events = await site.admin.list(f"/api/v1/namespaces/{tenant.namespace}/events")
    assert [each["reason"] for each in events if each["source"].get("component") == names.SERVICE_ACCOUNT] == []


async def test_while_nothing_happens_nothing_is_written_but_the_lease(site: Site) -> None:
    """With pods that run, pods that wait for each kind of reason, and a grant that waits."""
    pool = await site.pool([2, 1], publicShare={"gpus": 16})
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    await site.grant(tenant, pool, 16, wait="Waitlisted")
    provider = await site.provider_namespace(pool.provider)
    await site.running(await site.pod(tenant, 8), await site.pod(tenant, 4), await site.pod(provider, 8))
    waits = [await site.pod(tenant, 8), await site.pod(tenant, 8, nodeSelector={"zone": "nowhere"}),
             *await site.gang(tenant, 1, 3, members=2), await site.pod(await site.tenant(pool), 1)]
    for path in waits:
        await site.told_to_wait(path)
    # No event tells that all is quiet. Left hours are written at the full hour: the minute must not cross one.
    to_the_hour = 3600 - time.time() % 3600
    await asyncio.sleep(SETTLED_SECONDS + (to_the_hour if to_the_hour < SETTLED_SECONDS + IDLE_SECONDS + 5 else 0))
    before = await writes(site.admin)
    await asyncio.sleep(IDLE_SECONDS)
    written = await writes(site.admin) - before
    assert {what: count for what, count in written.items() if what not in OTHERS} == {}
