"""What only real kubelets show: devices that fail, plugins and kubelets that restart, pods they refuse or kill.

Each time the ledger is compared with what the API server and the plugin's own log say.
"""

import asyncio
import time

import pytest

from cluster_kit.pods import condition, phase
from cluster_kit.site import Grant
from devcluster.client import JsonObject
from gpugrant import names
from kind_kit.platform import Platform
from kind_kit.servers import GPU, SEATS, Servers
from kind_kit.site import KindSite

from .lab import SLOW, Lab, ended, finish_of, start_of, waits_in
from .ledger import Ledger, booked, row_of


async def sums(platform: Platform, site: KindSite, grant: Grant) -> dict[str, float]:
    """Return the running month's GPU-seconds of a grant by condition, as the leader tells them."""
    leader = await platform.leader(site.admin)
    samples = await asyncio.to_thread(platform.samples, leader, "gpugrant_gpu_seconds_total", grant=grant.name)
    found: dict[str, float] = {}
    for labels, value in samples.items():
        kind = dict(labels)["condition"]
        found[kind] = found.get(kind, 0) + value
    return found


async def restart_kubelet(platform: Platform, servers: Servers, node: str) -> None:
    """Restart a kubelet, and wait until its device plugin and its pods are known to it again."""
    before = len(servers.log(node))
    await asyncio.to_thread(platform.cluster.run_in_node, node, "systemctl", "restart", "kubelet")
    async with asyncio.timeout(SLOW):
        while not any(line["event"] == "registration" and line["code"] == "OK"  # noqa: ASYNC110 (a file has no watch)
                      for line in servers.log(node)[before:]):
            await asyncio.sleep(0.5)
    await servers.knows_its_pods(node, SLOW)


async def test_a_gpu_that_fails_under_a_pod_is_not_charged_until_it_heals(
    site: KindSite, platform: Platform, servers: Servers, lab: Lab
) -> None:
    path = await site.runs(lab.tenant, SEATS)
    [pod] = await site.running(path, seconds=SLOW)
    node = pod["spec"]["nodeName"]
    try:
        state = await asyncio.to_thread(servers.plugin, node, "xid", "3", "79")
        device = state["state"]["devices"][3]["id"]
        await servers.offers(site.admin, node, SEATS - 1)
        await site.told(lab.grant, "Degraded", "SeatsFailed", SLOW)
        told = await site.admin.get(path)
        [resource] = told["status"]["containerStatuses"][0]["allocatedResourcesStatus"]
        assert {one["resourceID"]: one["health"] for one in resource["resources"]}[device] == "Unhealthy"
        assert phase(told) == "Running", "a device's failure ends no pod"
        await asyncio.sleep(5)  # for which the seat is not charged
    finally:
        await asyncio.to_thread(servers.plugin, node, "heal", "3")
    await servers.offers(site.admin, node, SEATS)
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)
    [(failed_at, _), (healed_at, _)] = (await asyncio.to_thread(servers.changes, node, device))[-2:]
    failed = 0.0
    for _ in range(30):
        failed = (await sums(platform, site, lab.grant)).get("Failed", 0)
        if failed >= healed_at - failed_at - 3:
            break
        await asyncio.sleep(1)  # a page of metrics has no watch
    # The kubelet tells of it a moment after the plugin; both times.
    assert abs(failed - (healed_at - failed_at)) <= 5, (failed, healed_at - failed_at)


async def test_an_xid_of_the_applications_own_fails_nothing(site: KindSite, servers: Servers, lab: Lab) -> None:
    path = await site.runs(lab.tenant, 1)
    [pod] = await site.running(path, seconds=SLOW)
    answer = await asyncio.to_thread(servers.plugin, pod["spec"]["nodeName"], "xid", "0", "31")
    assert [one["health"] for one in answer["state"]["devices"]] == ["Healthy"] * SEATS
    assert condition(await site.admin.get(lab.grant.path), "Degraded")["status"] == "False"


async def test_a_kubelet_that_restarts_changes_nobodys_account(
    site: KindSite, platform: Platform, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    path = await site.runs(lab.tenant, SEATS, 40)
    [pod] = await site.running(path, seconds=SLOW)
    node = pod["spec"]["nodeName"]
    await restart_kubelet(platform, servers, node)
    await servers.offers(site.admin, node, SEATS)
    pod = await site.admin.wait_for(path, ended, 90)
    assert phase(pod) == "Succeeded"
    uid = pod["metadata"]["uid"]
    expected = {uid: (SEATS, start_of(pod), finish_of(pod))}
    assert await booked(ledger, expected) == expected


async def test_a_kubelet_that_restarts_over_a_gpu_that_failed_leaves_its_pod(
    site: KindSite, platform: Platform, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    """It offers fewer devices than the pod has, and lets it in again all the same."""
    path = await site.runs(lab.tenant, SEATS, 60)
    [pod] = await site.running(path, seconds=SLOW)
    node = pod["spec"]["nodeName"]
    try:
        await asyncio.to_thread(servers.plugin, node, "xid", "5", "79")
        await servers.offers(site.admin, node, SEATS - 1)
        await restart_kubelet(platform, servers, node)
        await servers.offers(site.admin, node, SEATS - 1)
        await site.told(lab.grant, "Degraded", "SeatsFailed", SLOW)
    finally:
        await asyncio.to_thread(servers.plugin, node, "heal", "5")
    await servers.offers(site.admin, node, SEATS)
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)
    pod = await site.admin.wait_for(path, ended, 90)
    assert phase(pod) == "Succeeded"
    assert await row_of(ledger, pod["metadata"]["uid"]) == (SEATS, start_of(pod), finish_of(pod))


async def test_a_pod_that_the_kubelet_refuses_holds_nothing(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    for node in servers.all:
        await asyncio.to_thread(servers.plugin, node, "allocate", "fail", "--times", "1")
    path = await site.runs(lab.tenant, 2, 5)
    pod = await site.admin.wait_for(path, ended, SLOW)
    for node in servers.all:
        await asyncio.to_thread(servers.plugin, node, "allocate", "answer")
    assert (phase(pod), pod["status"]["reason"]) == ("Failed", "UnexpectedAdmissionError")
    seats, start, end = await row_of(ledger, pod["metadata"]["uid"])
    assert (seats, end) == (2, start), "it held nothing"


async def test_a_pod_for_which_the_server_is_out_of_something_holds_nothing(
    site: KindSite, lab: Lab, ledger: Ledger
) -> None:
    """Somebody else's scheduler binds it all the same, and the kubelet refuses it."""
    path = await site.runs(lab.tenant, None, container={
        "resources": {"limits": {GPU: "1", "ephemeral-storage": "1Pi"}}})
    await site.admin.wait_for(path, lambda pod: condition(pod, "PodScheduled").get("reason") == "Unschedulable", SLOW)
    namespace, name = lab.tenant.namespace, path.rpartition("/")[2]
    async with site.admin.as_user("system:kube-scheduler") as scheduler:
        await scheduler.send("POST", f"{path}/binding", {
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": lab.pool.servers[0]}})
    pod = await site.admin.wait_for(path, ended, SLOW)
    assert (phase(pod), pod["status"]["reason"]) == ("Failed", "OutOfephemeral-storage")
    seats, start, end = await row_of(ledger, pod["metadata"]["uid"])
    assert (seats, end) == (1, start), "it held nothing"


async def test_a_pod_that_cannot_start_holds_what_it_keeps_from_others(
    site: KindSite, lab: Lab, ledger: Ledger
) -> None:
    """Image pull back-off and CrashLoopBackOff: the GPUs are the pod's."""
    pulling = await site.runs(lab.tenant, 1, container={"image": "localhost/gpugrant/none:1"})
    crashing = await site.runs(lab.tenant, 1, container={"command": ["python3", "-c", "raise SystemExit(1)"]},
                               restartPolicy="Always")

    await site.admin.wait_for(pulling, waits_in("ErrImageNeverPull"), SLOW)
    await site.admin.wait_for(crashing, waits_in("CrashLoopBackOff"), SLOW)
    pods = {path: await site.admin.get(path) for path in (pulling, crashing)}
    expected = {pod["metadata"]["uid"]: (1, start_of(pod), None) for pod in pods.values()}
    assert await booked(ledger, expected) == expected
    for path in pods:
        await site.admin.delete(path)
        await site.admin.wait_gone(path, SLOW)
    for pod in pods.values():
        _, start, end = await row_of(ledger, pod["metadata"]["uid"])
        assert end is not None and start < end <= time.time() + 1


@pytest.mark.parametrize(("grace", "mannerly"), [(5, False), (30, True), (0, True)], ids=["killed", "asked", "forced"])
async def test_a_pod_holds_until_its_containers_have_ended(
    site: KindSite, platform: Platform, lab: Lab, ledger: Ledger, grace: int, *, mannerly: bool
) -> None:
    path = await site.runs(lab.tenant, 3, mannerly=mannerly)
    [pod] = await site.running(path, seconds=SLOW)
    seen: list[JsonObject] = []

    async def watch() -> None:
        version = (await site.admin.get(path))["metadata"]["resourceVersion"]
        collection, _, name = path.rpartition("/")
        async for kind, one in site.admin.watch(
            collection, fieldSelector=f"metadata.name={name}", resourceVersion=version, timeoutSeconds="120"
        ):
            seen.append(one)
            if kind == "DELETED":
                return

    watching = asyncio.create_task(watch())
    await asyncio.sleep(1)
    asked = time.time()
    await site.admin.delete(path, grace)
    async with asyncio.timeout(SLOW):
        await watching
    gone = time.time()
    seats, start, end = await row_of(ledger, pod["metadata"]["uid"])
    assert (seats, start) == (3, start_of(pod))
    finishes = [finish_of(one) for one in seen if phase(one) in ("Succeeded", "Failed")]
    if finishes:
        assert end == max(finishes)
    assert end is not None
    assert asked - 1.1 <= end <= gone + 1
    if not mannerly:
        assert end - asked >= grace - 1.1, "it was deaf, and held until it was killed"


async def test_a_drain_with_notice_is_maintenance_and_without_it_is_not(
    site: KindSite, platform: Platform, servers: Servers, lab: Lab
) -> None:
    noticed, unnoticed = servers.all[:2]
    paths = {node: f"/api/v1/nodes/{node}" for node in (noticed, unnoticed)}
    now = time.time()
    window = "/".join(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + more)) for more in (0, 600))
    await site.admin.patch(paths[noticed], {"metadata": {"annotations": {names.MAINTENANCE_ANNOTATION: window}}})
    await asyncio.sleep(3)  # the programme's notice: a second
    try:
        for node in paths:
            await asyncio.to_thread(
                platform.cluster.kubectl, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                "--timeout=90s", "--pod-selector=app.kubernetes.io/name!=gpugrant")
        await site.told(lab.grant, "Degraded", "SeatsFailed", SLOW)
        async with asyncio.timeout(SLOW):
            while True:
                found = await sums(platform, site, lab.grant)
                if found.get("Maintenance", 0) >= 3 * SEATS and found.get("Failed", 0) >= 3 * SEATS:
                    break
                await asyncio.sleep(1)  # a page of metrics has no watch
    finally:
        for node, path in paths.items():
            await asyncio.to_thread(platform.cluster.kubectl, "uncordon", node)
            await site.admin.patch(path, {"metadata": {"annotations": {names.MAINTENANCE_ANNOTATION: None}}})
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)
