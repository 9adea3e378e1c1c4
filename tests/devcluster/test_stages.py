"""kwok plays kubelets as far as metering and placement look: times, phases, faults."""

from datetime import UTC, datetime

from cluster_kit.pods import a_pod, condition, phase, pod_path
from cluster_kit.world import World
from devcluster.client import JsonObject
from devcluster.faults import bring_server_back, lose_server


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _is(wanted: str):
    return lambda pod: phase(pod) == wanted


async def _a_running_pod(world: World, **fields: object) -> JsonObject:
    namespace = await world.plain_namespace()
    server = await world.server()
    pod = a_pod("p", namespace, nodeSelector={"kubernetes.io/hostname": server}, **fields)
    await world.admin.create(pod)
    return await world.admin.wait_for(pod_path(pod), _is("Running"))


async def test_a_bound_pod_runs_with_a_start_time_and_an_address(world: World) -> None:
    pod = await _a_running_pod(world)
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert _time(started) >= _time(condition(pod, "PodScheduled")["lastTransitionTime"])
    assert condition(pod, "Ready")["status"] == "True"
    assert pod["status"]["podIP"]


async def test_a_pod_with_init_and_sidecar_containers_runs(world: World) -> None:
    init = [{"name": "fetch", "image": "registry.example/fetch:1"},
            {"name": "log", "image": "registry.example/log:1", "restartPolicy": "Always"}]
    pod = await _a_running_pod(world, initContainers=init)
    fetch, log = pod["status"]["initContainerStatuses"]
    assert fetch["state"]["terminated"]["reason"] == "Completed"
    assert log["state"]["running"]["startedAt"]


async def test_a_pod_with_run_seconds_succeeds_after_them(world: World) -> None:
    pod = await _a_running_pod(world, annotations={"gpugrant.io/run-seconds": "2"})
    done = await world.admin.wait_for(pod_path(pod), _is("Succeeded"))
    ended = done["status"]["containerStatuses"][0]["state"]["terminated"]
    assert 2 <= (_time(ended["finishedAt"]) - _time(ended["startedAt"])).total_seconds() <= 4


async def test_a_deleted_pod_ends_before_its_object_goes(world: World) -> None:
    pod = await _a_running_pod(world, finalizers=["example.com/keep"])
    await world.admin.delete(pod_path(pod))
    ended = await world.admin.wait_for(pod_path(pod), _is("Failed"))
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    held = await world.admin.wait_for(
        pod_path(pod), lambda seen: seen["metadata"].get("deletionGracePeriodSeconds") == 0)
    assert held["metadata"]["finalizers"] == ["example.com/keep"]
    await world.admin.patch(pod_path(pod), {"metadata": {"finalizers": None}})
    await world.admin.wait_gone(pod_path(pod))


async def test_a_pod_that_is_slow_to_stop_keeps_to_its_grace_period(world: World) -> None:
    pod = await _a_running_pod(
        world, annotations={"dev.gpugrant.io/stop-seconds": "600"}, terminationGracePeriodSeconds=2)
    await world.admin.delete(pod_path(pod))
    await world.admin.wait_gone(pod_path(pod), seconds=10)


async def test_a_lost_server_is_unknown_from_now_and_comes_back(world: World) -> None:
    server = await world.server()
    path = f"/api/v1/nodes/{server}"
    before = datetime.now(UTC).replace(microsecond=0)
    for state, status in (("lost", "Unknown"), (None, "True"), ("not-ready", "False"), (None, "True")):
        await world.admin.patch(path, {"metadata": {"annotations": {"dev.gpugrant.io/node": state}}})
        node = await world.admin.wait_for(
            path, lambda seen, status=status: condition(seen, "Ready").get("status") == status)
        assert _time(condition(node, "Ready")["lastTransitionTime"]) >= before


async def test_unhealthy_seats_leave_allocatable_and_not_capacity(world: World) -> None:
    server = await world.server()
    path = f"/api/v1/nodes/{server}"
    for unhealthy, allocatable in (("2", "6"), ("9", "0"), (None, "8")):
        await world.admin.patch(path, {"metadata": {"annotations": {"dev.gpugrant.io/unhealthy": unhealthy}}})
        node = await world.admin.wait_for(
            path, lambda seen, want=allocatable: seen["status"]["allocatable"]["nvidia.com/gpu"] == want)
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "8"


async def test_a_pod_on_a_lost_server_stays_as_it_was(world: World) -> None:
    pod = await _a_running_pod(world)
    server = pod["spec"]["nodeName"]
    await lose_server(world.admin, server)
    await world.admin.delete(pod_path(pod))
    # Time for kwok to do what it must not; nothing tells when it has decided to do nothing.
    await world.admin.wait_for(pod_path(pod), lambda seen: seen["metadata"].get("deletionTimestamp"))
    other = await _a_running_pod(world)
    await world.admin.delete(pod_path(other))
    await world.admin.wait_gone(pod_path(other))
    assert phase(await world.admin.get(pod_path(pod))) == "Running"
    await bring_server_back(world.admin, server)
    await world.admin.wait_gone(pod_path(pod))
