"""How containers end, or do not: killed for their memory, evicted, out of time, restarted in place, run by a runtime
that restarts. A pod holds its GPUs from its binding until its last container has ended, whatever happened in between.
"""

import asyncio
import time
from typing import Any

import pytest
import yaml

from cluster_kit.pods import condition, phase
from cluster_kit.site import seconds_of
from devcluster.client import JsonObject
from kind_kit.platform import PODS, Platform
from kind_kit.servers import GPU, SEATS, Servers
from kind_kit.site import KindSite

from .lab import SLOW, Lab, end_of, ended, finish_of, start_of
from .ledger import Ledger, Row, booked, row_of

_GREEDY = "held = [bytearray(1 << 20) for _ in range(4096)]"
_FILLING = """
import time
with open("/scratch/file", "wb") as file:
    file.write(bytes(32 << 20))
time.sleep(600)
"""
# Fails the first time, by what it left on its volume, and works for a while the second time.
_SECOND_TIME = """
import pathlib, sys, time
been = pathlib.Path("/scratch/been")
if not been.exists():
    been.touch()
    time.sleep(3)
    sys.exit(1)
time.sleep(3)
"""
_SCRATCH: JsonObject = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}


def scratch(**limits: str) -> list[JsonObject]:
    """Return the volumes of a pod that has a scratch."""
    return [{"name": "scratch", "emptyDir": limits}]


def python(code: str) -> JsonObject:
    return {"command": ["python3", "-c", code]}


async def holds_from_its_binding_to_its_end(ledger: Ledger, pod: JsonObject, seats: int) -> None:
    """Compare a pod's row with its object."""
    assert await row_of(ledger, pod["metadata"]["uid"]) == (seats, start_of(pod), finish_of(pod))


async def test_a_container_that_is_killed_for_its_memory(site: KindSite, lab: Lab, ledger: Ledger) -> None:
    limits = {"resources": {"limits": {GPU: "2", "memory": "64Mi"}}}
    path = await site.runs(lab.tenant, None, container={**python(_GREEDY), **limits})
    pod = await site.admin.wait_for(path, ended, SLOW)
    [status] = pod["status"]["containerStatuses"]
    assert (phase(pod), status["state"]["terminated"]["reason"]) == ("Failed", "OOMKilled")
    await holds_from_its_binding_to_its_end(ledger, pod, 2)


async def test_a_pod_that_is_evicted_for_what_it_wrote(site: KindSite, lab: Lab, ledger: Ledger) -> None:
    path = await site.runs(lab.tenant, 2, container={**python(_FILLING), **_SCRATCH}, volumes=scratch(sizeLimit="1Mi"),
                           terminationGracePeriodSeconds=1)
    pod = await site.admin.wait_for(path, ended, 2 * SLOW)
    assert (phase(pod), pod["status"]["reason"]) == ("Failed", "Evicted")
    assert await row_of(ledger, pod["metadata"]["uid"]) == (2, start_of(pod), end_of(pod))
    assert end_of(pod) - start_of(pod) > 1, "it wrote before it was evicted"


async def test_a_pod_whose_time_is_up(site: KindSite, lab: Lab, ledger: Ledger) -> None:
    path = await site.runs(lab.tenant, 2, activeDeadlineSeconds=3)
    pod = await site.admin.wait_for(path, ended, SLOW)
    assert (phase(pod), pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    await holds_from_its_binding_to_its_end(ledger, pod, 2)


async def test_a_container_that_is_restarted_in_its_pod(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    """One hold over both runs: the devices are the pod's in between, and no other Allocate is asked."""
    before = {node: len(servers.allocated(node)) for node in servers.all}
    path = await site.runs(lab.tenant, 2, container={**python(_SECOND_TIME), **_SCRATCH}, volumes=scratch(),
                           restartPolicy="OnFailure")
    pod = await site.admin.wait_for(path, ended, SLOW)
    [status] = pod["status"]["containerStatuses"]
    assert (phase(pod), status["restartCount"]) == ("Succeeded", 1)
    await holds_from_its_binding_to_its_end(ledger, pod, 2)
    node = pod["spec"]["nodeName"]
    assert [len(devices) for devices in servers.allocated(node)[before[node]:]] == [2]


async def test_what_starts_before_and_beside_the_main_container_is_counted_as_the_kubelet_gives_it(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    """An init container's devices go on to the main one; a sidecar's are its own."""
    calls = {node: len(servers.allocated(node)) for node in servers.all}

    def container(name: str, gpus: int, seconds: float, **more: Any) -> JsonObject:
        [one] = site.work(gpus, seconds)["containers"]
        return {**one, "name": name, **more}

    path = await site.runs(lab.tenant, 2, 4, initContainers=[
        container("beside", 1, 600, restartPolicy="Always"), container("first", 2, 1)])
    pod = await site.admin.wait_for(path, ended, SLOW)
    assert phase(pod) == "Succeeded"
    node = pod["spec"]["nodeName"]
    given = servers.allocated(node)[calls[node]:]
    assert len({device for one in given for device in one}) == 3, given
    await holds_from_its_binding_to_its_end(ledger, pod, 3)


async def test_a_runtime_that_restarts_changes_nobodys_account(
    site: KindSite, platform: Platform, lab: Lab, ledger: Ledger
) -> None:
    running = await site.runs(lab.tenant, SEATS, 30)
    [pod] = await site.running(running, seconds=SLOW)
    node = pod["spec"]["nodeName"]
    await asyncio.to_thread(platform.cluster.run_in_node, node, "systemctl", "restart", "containerd")
    pod = await site.admin.wait_for(running, ended, 90)
    assert phase(pod) == "Succeeded"
    await holds_from_its_binding_to_its_end(ledger, pod, SEATS)


@pytest.mark.parametrize("with_leader", [False, True], ids=["remembered", "with the leader's memory"])
async def test_a_server_that_is_restarted_in_no_time_ends_its_pods_and_not_before(
    site: KindSite, platform: Platform, servers: Servers, lab: Lab, ledger: Ledger, *, with_leader: bool
) -> None:
    """Too fast to be NotReady: the kubelet that comes back has no devices yet, and rejects the pod that ran.

    Mostly it has wiped conditions and containers by then, so that the pod looks as if it had never been let in.
    """
    leader = await platform.leader(site.admin)
    leads = (await site.admin.get(f"{PODS}/{leader}"))["spec"]["nodeName"]
    node = leads if with_leader else next(node for node in servers.all if node != leads)
    path = await site.runs(lab.tenant, 3, nodeSelector={"kubernetes.io/hostname": node})
    [pod] = await site.running(path, seconds=SLOW)
    start = start_of(pod)
    await asyncio.sleep(12)  # for which it holds
    stopped = int(time.time())
    await asyncio.to_thread(platform.cluster.stop_node, node)
    await asyncio.to_thread(platform.cluster.start_node, node)
    pod = await site.admin.wait_for(path, ended, 2 * SLOW)
    assert (phase(pod), pod["status"]["reason"]) == ("Failed", "UnexpectedAdmissionError")
    seats, since, until = await row_of(ledger, pod["metadata"]["uid"])
    assert (seats, since) == (3, start)
    assert until is not None
    if with_leader:  # the next one sees what the kubelet says by then: it may say more, and later
        assert stopped <= until <= time.time() + 1
    else:
        assert until == end_of(pod) >= stopped
    await servers.offers(site.admin, node, SEATS, 2 * SLOW)
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)


async def test_a_plugin_that_is_taken_away_fails_its_seats_for_as_long_and_ends_no_hold(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    path = await site.runs(lab.tenant, SEATS, 45)
    [pod] = await site.running(path, seconds=SLOW)
    node = pod["spec"]["nodeName"]
    at_node = f"/api/v1/nodes/{node}"
    await site.admin.patch(at_node, {"metadata": {"labels": {"fake-gpu/profile": None}}})  # its DaemonSet takes it away
    await servers.offers(site.admin, node, 0)
    await site.told(lab.grant, "Degraded", "SeatsFailed", SLOW)
    await servers.equip(site.admin, node)
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)
    pod = await site.admin.wait_for(path, ended, 90)
    await holds_from_its_binding_to_its_end(ledger, pod, SEATS)


async def test_a_server_under_pressure_gets_nothing_new_until_it_is_over(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    """The kubelet says so, and what is there runs on. Such a server is not Failed, and what would fit nowhere waits."""
    tenant, grant = lab.tenant, lab.grant
    first = await site.runs(tenant, SEATS)
    [pod] = await site.running(first, seconds=SLOW)
    pressed = next(node for node in servers.all if node != pod["spec"]["nodeName"])
    before = await configure(site, servers, pressed, evictionSoft={"memory.available": "900Gi"},
                             evictionSoftGracePeriod={"memory.available": "1h"})
    try:
        await site.node(pressed, lambda seen: any(
            taint["key"] == "node.kubernetes.io/memory-pressure" for taint in seen["spec"].get("taints") or ()), SLOW)
        await servers.offers(site.admin, pressed, SEATS)
        await site.told(grant, "Degraded", "AllHealthy", SLOW)
        second, third = await asyncio.gather(*(site.runs(tenant, SEATS) for _ in range(2)))
        words = await either_waits(site, second, third)
        assert "servers with 8 free have the taint node.kubernetes.io/memory-pressure (1 server)" in words
    finally:
        await configure(site, servers, pressed, **before)
    pods = await site.running(second, third, seconds=2 * SLOW)
    assert pressed in {one["spec"]["nodeName"] for one in pods}
    expected: dict[str, Row] = {one["metadata"]["uid"]: (SEATS, start_of(one), None) for one in (pod, *pods)}
    assert await booked(ledger, expected) == expected


async def test_a_kubelet_that_comes_back_in_need_ends_the_pods_it_had(
    site: KindSite, servers: Servers, lab: Lab, ledger: Ledger
) -> None:
    """It does not let them in again. On the way it says nothing of them, then dates all conditions as of now."""
    path = await site.runs(lab.tenant, SEATS)
    [pod] = await site.running(path, seconds=SLOW)
    node, start = pod["spec"]["nodeName"], start_of(pod)
    before = await configure(site, servers, node, evictionHard={"pid.available": "1Gi"})
    try:
        pod = await site.admin.wait_for(path, ended, SLOW)
        assert await row_of(ledger, pod["metadata"]["uid"]) == (SEATS, start, finish_of(pod))
        again = await site.runs(lab.tenant, SEATS)
        [other] = await site.running(again, seconds=SLOW)
        assert other["spec"]["nodeName"] != node
    finally:
        await configure(site, servers, node, **before)
    await servers.offers(site.admin, node, SEATS, 2 * SLOW)
    await site.told(lab.grant, "Degraded", "AllHealthy", SLOW)


async def either_waits(site: KindSite, *paths: str) -> str:
    """Return the words of the one of two pods that waits."""
    asked = [asyncio.create_task(site.told_to_wait(path, seconds=SLOW)) for path in paths]
    done, rest = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for one in rest:
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return done.pop().result()


async def configure(site: KindSite, servers: Servers, node: str, **fields: Any) -> dict[str, Any]:
    """Change fields of a kubelet's configuration, None takes one out, and restart it; return what they were.

    Nothing new comes to it meanwhile: it may reject a pod that is bound before it has heard of the pods it had, for
    it has not let go yet of the devices of those that are gone.
    """
    cluster, path = site.cluster, "/var/lib/kubelet/config.yaml"
    found = yaml.safe_load(await asyncio.to_thread(cluster.run_in_node, node, "cat", path))
    text = yaml.safe_dump({key: value for key, value in (found | fields).items() if value is not None})
    await asyncio.to_thread(cluster.engine.run, "exec", "--interactive", node, "tee", path, text=text)
    await asyncio.to_thread(cluster.kubectl, "cordon", node)
    try:
        await asyncio.to_thread(cluster.run_in_node, node, "systemctl", "stop", "kubelet")
        stopped = int(time.time())
        await asyncio.sleep(1)  # what it says next has a later second
        await asyncio.to_thread(cluster.run_in_node, node, "systemctl", "start", "kubelet")
        await site.node(node, lambda seen: seconds_of(condition(seen, "Ready")["lastHeartbeatTime"]) > stopped, SLOW)
        await servers.knows_its_pods(node, SLOW)
    finally:
        await asyncio.to_thread(cluster.kubectl, "uncordon", node)
    return {key: found.get(key) for key in fields}
