"""Every write of ours against a real API server, as the operator's service account, with all policies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from cluster_kit.world import World
from contract.recorder import Recorder
from devcluster.client import KubeClient
from gpugrant import names
from gpugrant.act.writer import Writer
from gpugrant.decide.actions import EvictPod, ExplainPod, LabelPod, ReleasePod, SetStatus, WriteServer
from gpugrant.model.pod import Pod
from gpugrant.observe.client import Client
from gpugrant.observe.observer import Observer


class Hands:
    """Observer and writer on a real cluster; decisions come from the test."""

    def __init__(self, client: Client, admin: KubeClient, world: World) -> None:
        self.admin, self.world, self.told = admin, world, Recorder()
        self.observer = Observer(client, self.told, CollectorRegistry(), lambda: 1_795_000_000)
        self.writer = Writer(client, self.observer, self.told, CollectorRegistry(), lambda: 1_795_000_000)
        self.namespace = ""
        self.server = ""
        self.watching: list[asyncio.Task[None]] = []

    async def stop_watching(self) -> None:
        """See nothing any more."""
        for task in self.watching:
            task.cancel()
        await asyncio.gather(*self.watching, return_exceptions=True)

    async def pod(self, **spec: Any) -> Pod:
        """Make a tenant's GPU pod and return it as observed: gated."""
        metadata: dict[str, Any] = {"name": self.world.name("pod"), "namespace": self.namespace}
        metadata |= spec.pop("metadata", {})
        container = {
            "name": "c",
            "image": "registry.example/x:1",
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        await self.world.make(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {"containers": [container], "restartPolicy": "Never", **spec},
            }
        )
        return await self.until(metadata["name"], lambda pod: pod is not None)

    async def until(self, name: str, holds: Any, seconds: float = 30) -> Pod:
        """Wait until the pod is observed to be so."""
        async with asyncio.timeout(seconds):
            while True:
                pod = next(
                    (one for one in self.observer.pods.items() if one.key == f"{self.namespace}/{name}"), None
                )
                if holds(pod):
                    return pod  # type: ignore[return-value]
                self.observer.changed.clear()
                await self.observer.changed.wait()

    def release(self, pod: Pod) -> ReleasePod:
        return ReleasePod(
            pod.uid,
            pod.namespace,
            pod.name,
            "eval",
            "11111111-2222",
            self.server,
            (("kubernetes.io/hostname", self.server), ("gpugrant.io/share", "Public")),
            "nvidia.com/gpu",
            True,
            False,
            1_795_000_000,
            "grant eval, after 4 s",
        )

    async def carry_out(self, *actions: Any) -> list[str]:
        """Do it; return the errors."""
        before = len(self.told.forgotten)
        self.writer.submit(actions)
        await self.written()
        return [error for _, error in self.told.forgotten[before:]]

    async def written(self) -> None:
        async with asyncio.timeout(30):
            while not self.writer.idle:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def hands(operator_client: Client, admin: KubeClient, world: World) -> AsyncIterator[Hands]:
    it = Hands(operator_client, admin, world)
    it.namespace = await world.tenant_namespace()
    it.server = await world.server(**{"gpugrant.io/share": "Public"})
    it.watching = [asyncio.create_task(cache.run()) for cache in it.observer.caches]
    it.watching.append(asyncio.create_task(it.writer.events.run()))
    await it.observer.first_look()
    yield it
    await it.stop_watching()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"metadata": {"annotations": {"a": "b"}}},
        {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-B200"}},
        {"metadata": {"finalizers": ["example.org/theirs"]}},
    ],
    ids=["a bare pod", "with annotations", "with a selector of its own", "with a finalizer of its own"],
)
async def test_one_patch_releases_a_pod_and_it_binds(hands: Hands, given: dict[str, Any]) -> None:
    pod = await hands.pod(**given)
    assert await hands.carry_out(hands.release(pod)) == []
    bound = await hands.until(pod.name, lambda seen: seen is not None and seen.node)
    assert (bound.node, bound.grant, bound.grant_uid) == (hands.server, "eval", "11111111-2222")
    assert bound.finalizer
    assert bound.released_at == 1_795_000_000
    assert not bound.gates
    hands.writer.strip_finalizer(bound)
    await hands.written()
    await hands.until(pod.name, lambda seen: seen is None or not seen.finalizer)
    if "metadata" in given and "finalizers" in given["metadata"]:
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        await hands.admin.patch(path, {"metadata": {"finalizers": None}})


async def test_a_released_pod_is_not_released_twice(hands: Hands) -> None:
    pod = await hands.pod()
    action = hands.release(pod)
    hands.writer.submit([action])
    hands.writer.submit([action])
    await hands.written()
    again = await hands.carry_out(action)
    assert len(again) == 1
    hands.writer.strip_finalizer(await hands.until(pod.name, lambda seen: seen.finalizer))
    await hands.written()


async def test_another_pod_of_the_same_name_is_not_touched(hands: Hands) -> None:
    pod = await hands.pod()
    await hands.stop_watching()  # from here on the writer acts on what it saw last
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
    manifest = await hands.admin.get(path)
    await hands.admin.delete(path, grace_seconds=0)
    await hands.admin.wait_gone(path)
    await hands.admin.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "spec": {
                "containers": [{"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
            },
        }
    )
    (error,) = await hands.carry_out(hands.release(pod))
    assert error.startswith("422")
    other = await hands.admin.get(path)
    assert other["metadata"]["uid"] != manifest["metadata"]["uid"]
    assert other["spec"]["schedulingGates"] == [{"name": names.GATE}]


async def test_why_a_pod_waits_is_on_the_pod_and_in_an_event(hands: Hands) -> None:
    pod = await hands.pod()
    words = ExplainPod(pod.uid, pod.namespace, pod.name, "waiting for 1 GPU: 2 pods are ahead")
    assert await hands.carry_out(words) == []
    assert (await hands.until(pod.name, lambda seen: seen.waiting)).waiting == words.message
    told = await _events(hands, pod, "Waiting")
    assert told[0]["message"] == words.message
    assert told[0]["type"] == "Normal"
    # The release takes the words off again.
    assert await hands.carry_out(hands.release(await hands.until(pod.name, lambda seen: seen.waiting))) == []
    released = await hands.until(pod.name, lambda seen: seen.finalizer)
    assert released.waiting == ""
    hands.writer.strip_finalizer(released)
    await hands.written()


async def _events(hands: Hands, pod: Pod, reason: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while True:
            found = await hands.admin.list(f"/api/v1/namespaces/{pod.namespace}/events")
            ours = [
                one for one in found if one["reason"] == reason and one["involvedObject"]["uid"] == pod.uid
            ]
            if ours:
                return ours
            await asyncio.sleep(0.05)


async def test_a_budget_of_disruptions_holds_until_force(hands: Hands) -> None:
    pod = await hands.pod(
        metadata={"labels": {"app": "x"}, "annotations": {names.RUN_SECONDS_ANNOTATION: "3600"}},
        terminationGracePeriodSeconds=10**9,
    )
    await hands.world.make(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "never", "namespace": hands.namespace},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
        }
    )
    await hands.carry_out(hands.release(pod))
    running = await hands.until(pod.name, lambda seen: seen.phase == "Running")
    hands.writer.strip_finalizer(running)
    await hands.written()
    gentle = EvictPod(pod.uid, pod.namespace, pod.name, 5, False, "Evicting", "the grant ends")
    (error,) = await hands.carry_out(gentle)
    assert "disruption budget" in error
    assert (
        await hands.carry_out(EvictPod(pod.uid, pod.namespace, pod.name, 5, True, "Evicting", "over")) == []
    )
    gone = await hands.until(pod.name, lambda seen: seen is None or seen.deleting)
    assert gone is None or gone.deleting - 1_700_000_000 < 10**9


async def test_what_was_bound_while_we_looked_away_is_not_taken_back(hands: Hands) -> None:
    late, pods = await hands.pod(), []
    path = f"/api/v1/namespaces/{late.namespace}/pods/{late.name}"
    await hands.carry_out(hands.release(late))
    await hands.until(late.name, lambda seen: seen.node)
    for _ in range(2):
        pods.append(await hands.pod(nodeSelector={"gpugrant.example/nowhere": "x"}))
        await hands.carry_out(hands.release(pods[-1]))
        pods[-1] = await hands.until(pods[-1].name, lambda seen: seen.finalizer)
    await hands.stop_watching()  # from here on the writer acts on what it saw last
    unbound, other = pods
    hands.observer.pods.feed(await _as_unbound(hands, path))  # as if its bind had not come to us yet

    def taking_back(pod: Pod, unbound: Pod) -> EvictPod:
        return EvictPod(pod.uid, pod.namespace, pod.name, 5, True, "TakenBack", "did not bind", unbound.uid)

    # Neither the pod itself, nor another of its gang.
    assert await hands.carry_out(taking_back(late, late)) == [f"pod {late.key} was bound meanwhile"]
    hands.observer.pods.feed(await _as_unbound(hands, path))
    assert await hands.carry_out(taking_back(other, late)) == [f"pod {late.key} was bound meanwhile"]
    assert "deletionTimestamp" not in (await hands.admin.get(path))["metadata"]
    # What has no server still is evicted, though something else of it changed meanwhile.
    where = f"/api/v1/namespaces/{unbound.namespace}/pods/{unbound.name}"
    await hands.admin.patch(where, {"metadata": {"annotations": {"a": "b"}}})
    assert await hands.carry_out(taking_back(unbound, unbound), taking_back(other, other)) == []
    for pod in (*pods, late):
        hands.writer.strip_finalizer(pod)
    await hands.written()


async def _as_unbound(hands: Hands, path: str) -> bytes:
    body = await hands.admin.get(path)
    body["spec"].pop("nodeName")
    return msgspec.json.encode(body)


async def test_taints_and_labels_of_others_stay(hands: Hands) -> None:
    node = f"/api/v1/nodes/{hands.server}"
    before = await hands.admin.get(node)
    assert (
        await hands.carry_out(
            WriteServer(
                hands.server, ((names.POOL_LABEL, "p"), (names.GRANT_UID_LABEL, "u")), ("rebellions.ai/ATOM",)
            )
        )
        == []
    )
    with_ours = await hands.admin.get(node)
    # A controller adds its own behind our back; then ours goes.
    theirs = {"key": "node.example.org/busy", "effect": "NoExecute"}
    await hands.admin.patch(node, {"spec": {"taints": [theirs, *with_ours["spec"]["taints"]]}})
    drop = WriteServer(
        hands.server, ((names.POOL_LABEL, None), (names.GRANT_UID_LABEL, None)), (), ("rebellions.ai/ATOM",)
    )
    assert await hands.carry_out(drop) == []
    after = await hands.admin.get(node)
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    keys = {one["key"] for one in after["spec"]["taints"]}
    assert keys == {one["key"] for one in before["spec"].get("taints", [])} | {"node.example.org/busy"}
    # What is so already is not written again.
    version = after["metadata"]["resourceVersion"]
    await hands.carry_out(drop)
    assert (await hands.admin.get(node))["metadata"]["resourceVersion"] == version


async def test_a_status_is_brought_to_what_is_wanted(hands: Hands) -> None:
    grant = await hands.world.make(
        {
            "apiVersion": names.API_VERSION,
            "kind": "GpuGrant",
            "metadata": {"name": hands.world.name("grant"), "namespace": hands.namespace},
            "spec": {
                "gpuType": "NVIDIA-B200",
                "gpus": 8,
                "term": {"start": "2026-01-01", "end": "2030-01-01"},
            },
        }
    )
    await hands.observer.own.sweep("GpuGrant")
    meta = grant["metadata"]
    first = {"usage": {"held": 3, "waiting": 1}, "positionInLine": 2}
    for wanted in (first, {"usage": {"held": 4}}):
        action = SetStatus("GpuGrant", meta["namespace"], meta["name"], meta["uid"], wanted)
        assert await hands.carry_out(action) == []
        path = f"/apis/{names.API_VERSION}/namespaces/{meta['namespace']}/gpugrants/{meta['name']}"
        assert (await hands.admin.get(path))["status"] == wanted


async def test_a_pod_older_than_the_install_gets_the_label(hands: Hands) -> None:
    pod = await hands.pod()
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
    assert (await hands.admin.get(path))["metadata"]["labels"][names.GPU_LABEL] == "true"
    assert await hands.carry_out(LabelPod(pod.uid, pod.namespace, pod.name)) == []
