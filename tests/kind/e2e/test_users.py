"""Everybody does what they came for, with the rights they have: engineers, tenants, Prometheus, officers."""

import asyncio
import time

import pytest

from cluster_kit.pods import pod_path
from cluster_kit.site import gates
from cluster_kit.witness import Witness
from devcluster.client import Refused
from gpugrant import names
from kind_kit.platform import Platform
from kind_kit.prometheus import Prometheus
from kind_kit.servers import SEATS, Servers
from kind_kit.site import KindSite

from .lab import ended, start_of
from .ledger import Ledger, booked, row_of


async def test_a_tenant_who_may_edit_runs_a_job_whose_containers_see_their_devices(
    site: KindSite, platform: Platform, servers: Servers, ledger: Ledger
) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 2 * SEATS)
    before = {node: len(servers.allocated(node)) for node in servers.all}
    person = await site.user(tenant.namespace)
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train", "namespace": tenant.namespace},
        "spec": {"parallelism": 4, "completions": 4, "backoffLimit": 0, "template": {
            "metadata": {"labels": {"app": "train"}, "annotations": {names.GANG_SIZE_ANNOTATION: "4"}},
            "spec": site.work(4, 5)}},
    }
    witness = Witness(site.admin, frozenset({tenant.namespace}), {grant.uid: 2 * SEATS},
                      dict.fromkeys(servers.all, SEATS))
    async with witness:
        await person.create(job)
        done = await site.admin.wait_for(
            f"/apis/batch/v1/namespaces/{tenant.namespace}/jobs/train",
            lambda seen: (seen or {}).get("status", {}).get("succeeded") == 4, 120)
        await witness.until_all_over()
    assert not done["status"].get("failed")
    assert witness.breaches == []
    pods = await person.list(f"/api/v1/namespaces/{tenant.namespace}/pods")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2, "16 GPUs are two servers"
    given: dict[str, list[str]] = {}
    for pod in pods:
        visible = (await asyncio.to_thread(site.sees, pod_path(pod)))["NVIDIA_VISIBLE_DEVICES"].split(",")
        assert len(visible) == 4
        given.setdefault(pod["spec"]["nodeName"], []).extend(visible)
    for node, devices in given.items():
        assert len(set(devices)) == len(devices), "two pods at the same time see the same device"
        answered = [device for one in servers.allocated(node)[before[node]:] for device in one]
        assert sorted(answered) == sorted(devices)
    expected = {uid: (4, *each.interval()) for uid, each in witness.seen.items() if each.interval()}
    assert len(expected) == 4
    assert await booked(ledger, expected) == expected


async def test_a_pod_that_asks_for_no_gpu_sees_none(site: KindSite) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    path = await site.runs(tenant, None, 1)
    pod = await site.admin.wait_for(path, ended, 60)
    assert pod["status"]["phase"] == "Succeeded"
    assert not gates(pod)
    assert "NVIDIA_VISIBLE_DEVICES" not in await asyncio.to_thread(site.sees, path)
    asking = site.work(None, 1)
    asking["containers"][0]["env"] = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
    person = await site.user(tenant.namespace)
    sneaky = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sneaky", "namespace": tenant.namespace},
              "spec": asking}
    with pytest.raises(Refused, match="NVIDIA_VISIBLE_DEVICES"):
        await person.create(sneaky)


async def test_nobody_reaches_into_the_pods_of_others(site: KindSite) -> None:
    pool = await site.workers()
    tenants = [await site.tenant(pool), await site.tenant(pool)]
    await site.grant(tenants[0], pool, SEATS)
    path = await site.runs(tenants[0], 1)
    await site.running(path, seconds=60)
    stranger = await site.user(tenants[1].namespace)
    for sub in ("exec", "attach", "portforward"):
        with pytest.raises(Refused, match="forbidden") as refused:
            await stranger.send("POST", f"{path}/{sub}?command=id&stdout=true", None)
        assert refused.value.status == 403


async def test_what_waits_runs_as_soon_as_there_is_room(site: KindSite) -> None:
    pool = await site.workers()
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, SEATS)
    first = await site.runs(tenant, SEATS)
    await site.running(first, seconds=60)
    second = await site.runs(tenant, 4)
    words = await site.told_to_wait(second)
    assert "4 GPUs" in words
    freed = int(time.time())
    await site.admin.delete(first)
    [pod] = await site.running(second, seconds=60)
    assert start_of(pod) >= freed


async def test_prometheus_scrapes_the_service_and_each_replica_and_its_sums_are_the_ledgers(
    site: KindSite, platform: Platform, ledger: Ledger
) -> None:
    prometheus = Prometheus(platform.cluster)
    await prometheus.start(site.admin)
    pool = await site.workers()
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, SEATS)
    path = await site.runs(tenant, 2, 8)
    pod = await site.admin.wait_for(path, ended, 90)
    seats, start, end = await row_of(ledger, pod["metadata"]["uid"])
    assert end is not None
    query = f'sum(gpugrant_gpu_seconds_total{{job="gpugrant", grant="{grant.name}", condition="Used"}})'
    found = None
    for _ in range(60):
        found = await asyncio.to_thread(prometheus.ask, query)
        if found == seats * (end - start):
            break
        await asyncio.sleep(0.5)  # until the next scrape
    assert found == seats * (end - start) > 0
    assert await asyncio.to_thread(prometheus.ask, 'count(up{job="gpugrant"} == 1)') == 2, "both replicas answer"
    assert await asyncio.to_thread(prometheus.ask, 'up{job="service"}') == 1, "the chart's Service leads to one"
