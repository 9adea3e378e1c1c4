"""What the walls alone cannot show: with the operator beside them, who runs where, who waits and why."""

import asyncio
from collections.abc import Callable

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.pods import a_pod, pod_path
from cluster_kit.site import Grant, Site, at, gates, is_bound, is_running, seconds_of, waiting
from devcluster.client import JsonObject, Refused
from devcluster.controlplane import ControlPlane
from gpugrant import names

THIRTY_YEARS = 30 * 365 * 86_400


async def _usage(site: Site, grant: Grant, holds: Callable[[JsonObject], bool]) -> JsonObject:
    seen = await site.admin.wait_for(
        grant.path, lambda found: holds((found or {}).get("status", {}).get("usage", {})))
    usage: JsonObject = seen["status"]["usage"]
    return usage


# -- released, and waiting with words ----------------------------------------------------------------


async def test_a_tenants_pod_is_released_onto_its_grants_server(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    path = await site.pod(tenant, 4)
    [pod] = await site.running(path)
    assert gates(pod) == []
    assert pod["metadata"]["labels"][names.GRANT_LABEL] == grant.name
    assert pod["metadata"]["finalizers"] == [names.FINALIZER]
    [server] = (await site.admin.get(grant.path))["status"]["allocation"]["servers"]
    assert pod["spec"]["nodeName"] == server
    assert await site.events(path, "Released") == []  # it did not have to wait, and nothing is written for nothing


async def test_who_waits_is_told_once_also_over_a_restart_and_runs_when_there_is_room(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    first = await site.pod(tenant, 8)
    await site.running(first)
    second = await site.pod(tenant, 2)
    words = await site.told_to_wait(second)
    assert words == f"waiting for 2 GPUs: grant {grant.name} (8 GPUs, NVIDIA-B200) has 0 free; it is next"
    assert (await site.event(second, "Waiting"))["message"] == words
    await operator.restart()
    third = await site.pod(tenant, 1)
    assert (await site.told_to_wait(third)).endswith("has 0 free; 1 pod is ahead")
    await site.event(third, "Waiting")
    assert len(await site.events(second, "Waiting")) == 1
    await site.admin.delete(first)
    [pod, _] = await site.running(second, third)
    assert waiting(pod) == ""
    told = await site.event(second, "Released")
    assert told["message"].startswith(f"grant {grant.name} on {pool.name}, after ")


async def test_a_pod_without_a_grant_for_it_is_told_what_its_tenant_has(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    other_type = await site.pod(tenant, 1, nodeSelector={names.PRODUCT_LABEL: "NVIDIA-H200"})
    assert (await site.told_to_wait(other_type)).endswith(
        f"no grant of {tenant.name} covers NVIDIA-H200; it has: {grant.name} (NVIDIA-B200)")
    other_grant = await site.pod(tenant, 1, labels={names.GRANT_LABEL: "somebody-elses"})
    assert "has no grant somebody-elses" in await site.told_to_wait(other_grant)
    nobody = await site.tenant(pool)
    assert "it has: none" in await site.told_to_wait(await site.pod(nobody, 1))
    await site.running(await site.pod(tenant, 1))


async def test_a_pod_may_name_a_grant_of_its_tenants_other_namespace(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    await site.grant(tenant, pool, 8, end=at(3600))  # it ends first: without a name its turn would come first
    elsewhere = await site.tenant_namespace(tenant.name)
    [pod] = await site.running(await site.pod(elsewhere, 8, grant=grant))
    assert pod["metadata"]["annotations"][names.GRANT_UID_ANNOTATION] == grant.uid


async def test_another_gate_is_waited_for_and_then_ours_goes_last(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    path = await site.pod(tenant, 8, schedulingGates=[{"name": "kueue.example/admission"}])
    seen = await site.admin.wait_for(path, lambda pod: bool(waiting(pod)))
    assert waiting(seen).endswith("waits for another gate to be taken off first: kueue.example/admission")
    await site.running(other := await site.pod(tenant, 1))
    await site.admin.delete(other)
    index = gates(seen).index("kueue.example/admission")
    await site.admin.patch(path, [{"op": "remove", "path": f"/spec/schedulingGates/{index}"}],
                           "application/json-patch+json")
    await site.running(path)


async def test_of_two_that_wait_the_higher_priority_goes_first(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    urgent = site.name("urgent")
    await site.make({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": urgent},
                     "value": 100, "preemptionPolicy": "Never"})
    first = await site.pod(tenant, 8)
    await site.running(first)
    early = await site.pod(tenant, 8)
    await site.told_to_wait(early)
    late = await site.pod(tenant, 8, priorityClassName=urgent)
    await site.told_to_wait(late)
    await site.admin.delete(first)
    await site.running(late)
    assert gates(await site.admin.get(early)) == [names.GATE]


# -- with the operator away --------------------------------------------------------------------------


async def test_with_the_operator_stopped_nothing_gets_in_and_what_runs_goes_on(
    site: Site, operator: OperatorProcess
) -> None:
    """Own use runs all the same; and what ended meanwhile is tidied up on the return."""
    pool = await site.pool([1, 1, 1], publicShare={"gpus": 8})
    for server in pool.servers:
        await site.node(server, lambda node: names.SHARE_LABEL in node["metadata"]["labels"])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    user = await site.user(tenant.namespace)
    provider = await site.provider_namespace(pool.provider)
    stays, ends = await site.pod(tenant, 4), await site.pod(tenant, 2, run_seconds=4, restartPolicy="Never")
    await site.running(stays, ends)
    operator.stop()
    try:
        late = await site.pod(tenant, 1)
        with pytest.raises(Refused, match=names.GATE):
            await user.patch(late, {"spec": {"schedulingGates": []}})
        own = [await site.pod(provider, 8) for _ in range(2)]
        for pod in await site.running(*own):
            node = await site.admin.get(f"/api/v1/nodes/{pod['spec']['nodeName']}")
            assert node["metadata"]["labels"][names.SHARE_LABEL] == "OwnUse"
        ended = await site.admin.wait_for(ends, lambda pod: pod["status"]["phase"] == "Succeeded")
        assert ended["metadata"]["finalizers"] == [names.FINALIZER]
        assert is_running(await site.admin.get(stays))
        assert gates(await site.admin.get(late)) == [names.GATE]
    finally:
        await operator.start(site.admin)
    await site.running(late)
    await site.admin.wait_for(ends, lambda pod: not pod["metadata"].get("finalizers"))
    assert is_running(await site.admin.get(stays))
    for path in own:
        assert is_running(await site.admin.get(path))


# -- what can never run ------------------------------------------------------------------------------


async def test_what_can_never_run_occupies_nothing_and_blocks_nobody(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 16)
    never = {
        await site.pod(tenant, 8, nodeSelector={"zone": "nowhere"}): "no server of grant",
        await site.pod(tenant, 16): "can never fit",
        await _hungry(site, tenant.namespace): "CPU",
        (await site.gang(tenant, 8, 4))[0]: "gang of 4 pods (32 GPUs) can never fit grant",
        (await site.gang(tenant, 1, 100_000, members=1))[0]: "gang of 100000 pods has 1 so far",
        (await site.gang(tenant, 1, 3, members=2))[0]: "gang of 3 pods has ",
    }
    for path, words in never.items():
        await site.told_to_wait(path, words)
    await site.running(*[await site.pod(tenant, 8) for _ in range(2)])
    usage = await _usage(site, grant, lambda found: found.get("held") == 16)
    assert usage["reserved"] == 0
    for path in never:
        assert gates(await site.admin.get(path)) == [names.GATE]


async def _hungry(site: Site, namespace: str) -> str:
    """Create a pod that asks for more CPUs than any server has."""
    pod = a_pod(site.name("hungry"), namespace, 1)
    pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "5000"}
    await site.admin.create(pod)
    return pod_path(pod)


@pytest.mark.parametrize("size", ["0", "-1", "2.5", "two", "100001", "1e3"])
async def test_a_gang_size_that_is_none_is_refused_where_it_is_entered(site: Site, size: str) -> None:
    tenant = await site.tenant_namespace()
    with pytest.raises(Refused, match="must be a whole number from 1 to 100000"):
        await site.pod(tenant, 1, annotations={names.GANG_SIZE_ANNOTATION: size})


async def test_a_pod_that_lies_about_a_gang_of_others_does_not_hold_it_up(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    liar = await site.gang(tenant, 1, 50_000, members=1, name="pretrain")
    honest = await site.gang(tenant, 8, 2, name="pretrain")
    await site.running(*honest)
    await site.told_to_wait(liar[0])


# -- gangs -------------------------------------------------------------------------------------------


def _job(name: str, namespace: str, gpus: int, size: int, *, gang: bool = True, run_seconds: int | None = None,
         **spec: object) -> JsonObject:
    annotations = {names.GANG_SIZE_ANNOTATION: str(size)} if gang else {}
    if run_seconds is not None:
        annotations[names.RUN_SECONDS_ANNOTATION] = str(run_seconds)
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parallelism": size, "completions": size, "backoffLimit": 0,
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"restartPolicy": "Never", "containers": [
                    {"name": "train", "image": "registry.example/train:1",
                     "resources": {"limits": {"nvidia.com/gpu": gpus}}}]},
            },
            **spec,
        },
    }


async def test_a_gang_of_which_one_cannot_bind_is_taken_back_whole_and_tried_again(
    site: Site, installed: ControlPlane
) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    job = site.name("gang")
    pods = f"/api/v1/namespaces/{tenant.namespace}/pods"
    installed.stop_component("kube-scheduler")
    try:
        await site.admin.create(_job(job, tenant.namespace, 8, 2))
        released = await _pods(site, pods, lambda found: len(found) == 2 and not any(gates(each) for each in found))
        # The server that one of them was meant for is cordoned before the scheduler looks.
        await site.admin.patch(f"/api/v1/nodes/{pool.servers[1]}", {"spec": {"unschedulable": True}})
    finally:
        installed.start_component("kube-scheduler")
    bound = [each for each in await _pods(site, pods, lambda found: any(is_bound(each) for each in found))
             if is_bound(each)]
    assert [each["spec"]["nodeName"] for each in bound] == [pool.servers[0]]
    for each in released:
        told = await site.event(pod_path(each), "TakenBack", 20)
        assert told["message"].startswith(
            "the gang of 2 pods was not all bound within 5 s and is taken back; next try in 10 s")
    for each in released:  # PodGC looks every 20 s for what was deleted before it had a server
        await site.admin.wait_gone(pod_path(each), 45)
    again = await _pods(site, pods, lambda found: len(found) == 2 and all(waiting(each) for each in found))
    assert {each["metadata"]["uid"] for each in again}.isdisjoint(each["metadata"]["uid"] for each in released)
    await site.admin.patch(f"/api/v1/nodes/{pool.servers[1]}", {"spec": {"unschedulable": None}})
    await site.running(*(pod_path(each) for each in again), seconds=40)
    status = (await site.admin.get(f"/apis/batch/v1/namespaces/{tenant.namespace}/jobs/{job}"))["status"]
    assert status.get("failed", 0) == 0


async def _pods(
    site: Site, collection: str, holds: Callable[[list[JsonObject]], bool], seconds: float = 30
) -> list[JsonObject]:
    """Wait until ``holds`` is true of the pods of a namespace that are not being deleted."""
    seen: dict[str, JsonObject] = {}
    async with asyncio.timeout(seconds):
        async for kind, pod in site.admin.watch(collection):
            seen.pop(pod["metadata"]["uid"], None)
            if kind != "DELETED" and "deletionTimestamp" not in pod["metadata"]:
                seen[pod["metadata"]["uid"]] = pod
            if holds(list(seen.values())):
                return list(seen.values())
    raise AssertionError("the watch ended")


async def test_a_gang_waits_whole_and_small_pods_behind_it_do_not_starve_it(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    early = await site.pod(tenant, 4)
    await site.running(early)
    gang = await site.gang(tenant, 8, 2)
    await site.told_to_wait(gang[0], "has 12 free")
    small = await site.pod(tenant, 1)
    await site.told_to_wait(small)
    assert gates(await site.admin.get(gang[1])) == [names.GATE]
    await site.admin.delete(early)
    await site.running(*gang)
    assert gates(await site.admin.get(small)) == [names.GATE]


async def test_a_member_lost_from_a_gang_that_ran_is_replaced_singly(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    gang = await site.gang(tenant, 8, 2, name="g")
    await site.running(*gang)
    await site.admin.delete(gang[0])
    await site.admin.wait_gone(gang[0])
    [again] = await site.gang(tenant, 8, 2, members=1, name="g")
    await site.running(again)
    assert is_running(await site.admin.get(gang[1]))


# -- how containers count ----------------------------------------------------------------------------


def _container(name: str, gpus: int, **fields: object) -> JsonObject:
    resources = {"limits": {"nvidia.com/gpu": gpus}}
    return {"name": name, "image": "registry.example/train:1", "resources": resources, **fields}


@pytest.mark.parametrize(
    ("init", "apps", "counted"),
    [
        pytest.param([], [2, 3], 5, id="two containers: their sum"),
        pytest.param([(6, False)], [2], 6, id="a large init container: the larger"),
        pytest.param([(2, True)], [3], 5, id="a sidecar: beside the containers"),
        pytest.param([(2, True), (5, False)], [1], 7, id="an init container after a sidecar: both"),
    ],
)
async def test_gpus_are_counted_as_the_scheduler_counts_them(
    site: Site, init: list[tuple[int, bool]], apps: list[int], counted: int
) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    path = await site.pod(tenant, None, containers=[_container(f"app-{i}", n) for i, n in enumerate(apps)],
                          initContainers=[_container(f"init-{i}", n, **({"restartPolicy": "Always"} if sidecar else {}))
                                          for i, (n, sidecar) in enumerate(init)])
    await site.running(path)
    await _usage(site, grant, lambda found: found.get("held") == counted)
    await site.told_to_wait(await site.pod(tenant, 8 - counted + 1), f"has {8 - counted} free")


# -- controllers -------------------------------------------------------------------------------------


async def test_a_job_completes_and_goes_with_its_pods(site: Site) -> None:
    """No finalizer stays on completed pods, so that the Job's time to live ends it."""
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    job = _job(site.name("job"), tenant.namespace, 4, 3, gang=False, run_seconds=1, parallelism=3,
               ttlSecondsAfterFinished=0)
    await site.admin.create(job)
    path = f"/apis/batch/v1/namespaces/{tenant.namespace}/jobs/{job['metadata']['name']}"
    await site.admin.wait_gone(path, 40)
    assert await site.admin.list(f"/api/v1/namespaces/{tenant.namespace}/pods") == []


async def test_a_completed_pods_finalizer_goes_and_its_object_stays(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    path = await site.pod(tenant, 1, run_seconds=0, restartPolicy="Never")
    await site.admin.wait_for(path, lambda pod: pod["status"]["phase"] == "Succeeded"
                              and not pod["metadata"].get("finalizers"))


def _workload(
    kind: str, name: str, namespace: str, image: str = "registry.example/serve:1", **spec: object
) -> JsonObject:
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                {"name": "serve", "image": image, "resources": {"limits": {"nvidia.com/gpu": 4}}}]}},
            **spec,
        },
    }


async def test_a_deployment_rolls_on_a_full_grant(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    name = site.name("serve")
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    await site.admin.create(_workload("Deployment", name, tenant.namespace, replicas=2, strategy=rolling))
    path = f"/apis/apps/v1/namespaces/{tenant.namespace}/deployments/{name}"
    await site.admin.wait_for(path, lambda seen: seen["status"].get("readyReplicas") == 2)
    image = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "registry.example/serve:2"}]
    await site.admin.patch(path, image, "application/json-patch+json")
    await site.admin.wait_for(path, lambda seen: (
        seen["status"].get("observedGeneration") == 2 and seen["status"].get("updatedReplicas") == 2
        and seen["status"].get("readyReplicas") == 2 and seen["status"].get("replicas") == 2), 40)


async def test_a_stateful_sets_pod_comes_back_under_its_name(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    name = site.name("store")
    await site.admin.create(_workload("StatefulSet", name, tenant.namespace, replicas=2, serviceName=name))
    zero = f"/api/v1/namespaces/{tenant.namespace}/pods/{name}-0"
    [before, _] = await site.running(zero, f"/api/v1/namespaces/{tenant.namespace}/pods/{name}-1", seconds=40)
    await site.admin.delete(zero)
    await site.admin.wait_for(zero, lambda pod: is_running(pod)
                              and pod["metadata"]["uid"] != before["metadata"]["uid"], 40)


# -- ends --------------------------------------------------------------------------------------------


async def test_a_deleted_pod_and_a_force_deleted_one_leave_no_object_behind(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    gone, forced, gated = [await site.pod(tenant, 4) for _ in range(3)]
    await site.running(gone, forced)
    await site.told_to_wait(gated)
    await site.admin.delete(gated)
    await site.admin.wait_gone(gated)
    await site.admin.delete(gone)
    await site.admin.delete(forced, 0)
    await site.admin.wait_gone(gone)
    await site.admin.wait_gone(forced)


async def test_a_namespace_that_opts_out_has_no_finalizers_and_is_metered_all_the_same(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    await site.admin.patch(f"/api/v1/namespaces/{tenant.namespace}",
                           {"metadata": {"annotations": {names.METERING_FINALIZER_ANNOTATION: "off"}}})
    # The annotation and the pod come by different watches: one that is released later has been seen after it.
    await site.running(await site.pod(tenant, 7))
    path = await site.pod(tenant, 1)
    [pod] = await site.running(path)
    assert pod["metadata"].get("finalizers") is None
    operator.stop()
    try:
        await site.admin.delete(path)
        await site.admin.wait_gone(path)
    finally:
        await operator.start(site.admin)
    await _usage(site, grant, lambda found: found.get("held") == 7)


async def test_a_namespace_with_running_and_waiting_pods_goes(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 8)
    await site.running(await site.pod(tenant, 8))
    await site.told_to_wait(await site.pod(tenant, 8))
    await site.admin.delete(f"/api/v1/namespaces/{tenant.namespace}")
    await site.admin.wait_gone(f"/api/v1/namespaces/{tenant.namespace}", 60)


@pytest.mark.parametrize("deleted", [False, True], ids=["in its spec", "in a deletion of its tenant's"])
async def test_neither_a_budget_nor_thirty_years_of_grace_outlive_a_grant(site: Site, *, deleted: bool) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    end = at(6)
    grant = await site.grant(tenant, pool, 8, end=end, grace=3)
    await site.make({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "never", "namespace": tenant.namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "stubborn"}}}})
    path = await site.pod(tenant, 8, labels={"app": "stubborn"}, terminationGracePeriodSeconds=THIRTY_YEARS,
                          annotations={"dev.gpugrant.io/stop-seconds": str(10**8)})
    await site.running(path)
    if deleted:
        await site.admin.delete(path, THIRTY_YEARS)
    await site.ready(grant, "Grace")
    assert ("deletionTimestamp" in (await site.admin.get(path))["metadata"]) is deleted
    ended = await site.admin.wait_for(path, lambda pod: pod is None or pod["status"]["phase"] == "Failed", 30)
    finished = ended["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    # The grace of the grant, then the operator's ceiling (5 s) on the pod's own; a deletion that is shortened counts
    # from when it was asked for.
    least = 0 if deleted else 5
    assert least <= seconds_of(finished) - seconds_of(end) - 3 <= 5 + 3
    assert "its grace of 3 s is over" in (await site.event(path, "Evicting"))["message"]
    await site.ready(grant, "Ended")
