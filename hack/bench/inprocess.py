"""Observe + plan without an API server: raw objects in, the operator's own code, its writes carried out at once."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from bench import bodies
from bench.bodies import Json, encode
from devcluster.fleet import GPUS_PER_SERVER, Fleet, scaled
from gpugrant import names
from gpugrant.act import patches
from gpugrant.config import Settings, load_settings
from gpugrant.decide.actions import Action, ExplainPod, ReleasePod, SetPolicies, SetStatus, WriteServer
from gpugrant.decide.plan import make_plan
from gpugrant.decide.world import World
from gpugrant.observe.client import Page
from gpugrant.observe.kinds import OWN_KINDS
from gpugrant.observe.observer import Observer

SETTINGS = "programmes: {purchase-2025: {timeZone: Asia/Seoul}, lease-2025: {timeZone: Asia/Seoul}}\n"
START = 1_795_000_000
SIZES = (32, 1_962, 6_250)
GRANT_SERVERS = 4
_PAGE = 500
_PLURALS = {"Pod": "pods", "Node": "nodes", "Namespace": "namespaces", "ConfigMap": "configmaps"} | {
    kind: own.plural for kind, own in OWN_KINDS.items()
}
PATHS = {
    "/api/v1/pods": "Pod",
    "/api/v1/nodes": "Node",
    "/api/v1/namespaces": "Namespace",
    f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps": "ConfigMap",
    **{own.path: kind for kind, own in OWN_KINDS.items()},
}


class Cluster:
    """The API server's objects by kind and (namespace, name), and one counter of versions."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Json]] = {kind: {} for kind in _PLURALS}
        self._versions = itertools.count(1000)
        self._uids = itertools.count(1)

    def put(self, body: Json, kind: str = "") -> Json:
        """Keep an object as it is now, under a new version."""
        meta = body["metadata"]
        meta["resourceVersion"] = str(next(self._versions))
        meta.setdefault("uid", f"{next(self._uids):08x}-1111-4000-8000-000000000000")
        meta.setdefault("creationTimestamp", bodies.stamp(START - 86_400))
        self.objects[kind or body["kind"]][meta.get("namespace", ""), meta["name"]] = body
        return body

    def drop(self, body: Json) -> Json:
        """Remove an object; return what its DELETED event shows."""
        meta = body["metadata"]
        del self.objects[body["kind"]][meta.get("namespace", ""), meta["name"]]
        meta["resourceVersion"] = str(next(self._versions))
        return body

    def pages(self, path: str) -> Iterable[bytes]:
        """Yield the pages of a LIST."""
        kind = PATHS[path]
        found = list(self.objects[kind].values())
        version = next(self._versions)
        for start in range(0, max(1, len(found)), _PAGE):
            meta: Json = {"resourceVersion": str(version)}
            if start + _PAGE < len(found):
                meta["continue"] = str(start + _PAGE)
            yield encode(
                {
                    "kind": f"{kind}List",
                    "apiVersion": "v1",
                    "metadata": meta,
                    "items": found[start : start + _PAGE],
                }
            )


class ListsOnly:
    """In the place of the operator's client: LISTs out of a cluster, decoded as the client decodes them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def pages(
        self, path: str, _params: Mapping[str, str] | None = None, *_: int, **__: int
    ) -> AsyncGenerator[Page, None]:
        """Yield the pages of a LIST."""
        for body in self._cluster.pages(path):
            yield page_of(body)


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - as Kubernetes writes it


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw]


_decode_list = msgspec.json.Decoder(_List).decode


def page_of(body: bytes) -> Page:
    """Return a page as the operator's client makes it of an answer."""
    listed = _decode_list(body)
    return Page(listed.items, listed.metadata.resourceVersion, "")


class InProcess:
    """Observer, world and plan of one operator, over a cluster; writes succeed at once."""

    def __init__(self, cluster: Cluster, now: int = START) -> None:
        self.cluster = cluster
        self.now = now
        self.world = World(Settings())
        client: Any = ListsOnly(cluster)
        self.observer = Observer(client, self.world, CollectorRegistry(), lambda: self.now)

    def look(self) -> None:
        """LIST everything once."""
        asyncio.run(self.observer.look_once())
        self.world.set_settings(load_settings(SETTINGS))

    def plan(self) -> tuple[Action, ...]:
        """Plan now."""
        return make_plan(self.world, self.now).actions

    def settle(self) -> None:
        """Plan and carry out until there is nothing to do."""
        for _ in range(50):
            actions = self.plan()
            for action in actions:
                self.take_answer(action, self.write(action))
            self.now += 3  # figures are told every two seconds
            if not any(not isinstance(each, SetPolicies) for each in actions):
                return
        raise RuntimeError(f"does not settle: {actions[:3]}")

    # -- writes ----------------------------------------------------------------------------------------

    def write(self, action: Action) -> bytes:
        """Do what the API server does with a write of ours; return its answer."""
        match action:
            case WriteServer(node=name):
                patch = patches.server(self.observer.nodes.get(name), action)  # type: ignore[arg-type]
                body = self.cluster.objects["Node"]["", name]
                return encode(self.cluster.put(bodies.apply_patch(body, patch)) if patch else body)
            case ReleasePod():
                pod = self.observer.pod(action.uid)
                assert pod is not None
                body = self.cluster.objects["Pod"][action.namespace, action.name]
                return encode(self.cluster.put(bodies.apply_patch(body, patches.release(pod, action))))
            case ExplainPod():
                body = self.cluster.objects["Pod"][action.namespace, action.name]
                patch_ = msgspec.json.decode(patches.explain(action.uid, action.message))
                return encode(self.cluster.put(bodies.merge_patch(body, patch_)))
            case SetStatus():
                known = self.cluster.objects[action.kind][action.namespace, action.name]
                difference = patches.merge(known.get("status") or {}, action.status)
                return encode(self.cluster.put(bodies.merge_patch(known, {"status": difference})))
            case SetPolicies():
                return b""
        raise AssertionError(action)

    def take_answer(self, action: Action, answer: bytes) -> None:
        """Take the answer in and confirm the decision, as the writer does."""
        match action:
            case WriteServer():
                self.observer.feed_node(answer)
            case ReleasePod() | ExplainPod():
                self.observer.feed_pod(action.uid, answer)
            case SetStatus():
                self.observer.own.feed(action.kind, msgspec.json.decode(answer))
        self.world.confirm(action)


# -- whole clusters ------------------------------------------------------------------------------------


def granted_cluster(servers: int) -> Cluster:
    """Return a fleet whose every server is granted: a tenant for every four servers of a pool."""
    fleet, cluster = scaled(servers), Cluster()
    nodes = bodies.nodes(fleet)
    for body in (*nodes, *bodies.pools(fleet), *tenants_of(fleet)):
        cluster.put(body)
    _place(cluster, [node["metadata"]["name"] for node in nodes])
    cluster.put(
        {
            "kind": "ConfigMap",
            "metadata": {"name": names.SETTINGS_CONFIGMAP, "namespace": names.SYSTEM_NAMESPACE},
            "data": {names.SETTINGS_KEY: SETTINGS},
        }
    )
    return cluster


def _place(cluster: Cluster, servers: list[str]) -> None:
    """Let every grant have its servers already: to place 1,500 grants anew takes longer than all that is measured."""
    first = 0
    for grant in cluster.objects["GpuGrant"].values():  # in the order of the pools, as the servers are
        count = grant["spec"]["gpus"] // GPUS_PER_SERVER
        pool = grant["metadata"]["namespace"].rpartition("-")[0]
        place = {"pool": pool, "servers": servers[first : first + count], "gpus": grant["spec"]["gpus"]}
        grant["status"] = {"allocation": place}
        first += count


def tenants_of(fleet: Fleet, grant_servers: int = GRANT_SERVERS, now: int = START) -> list[Json]:
    """Return tenants with one grant each, of ``grant_servers`` servers, until every server is granted."""
    made: list[Json] = []
    for pool in fleet.pools:
        for number, first in enumerate(range(0, pool.servers, grant_servers)):
            gpus = min(grant_servers, pool.servers - first) * GPUS_PER_SERVER
            name = f"{pool.name}-t{number:03}"
            made += bodies.tenant(name, pool.programme, pool.gpu_type, gpus)
            made.append(bodies.grant("train", name, pool.programme, pool.gpu_type, pool.provider, gpus, now))
    return made


def hold_all(operator: InProcess, *, free: int = 0) -> None:
    """Fill every grant but for ``free`` seats with one-GPU pods that run."""
    cluster = operator.cluster
    serial = itertools.count(1)
    for body in list(cluster.objects["GpuGrant"].values()):
        meta, place = body["metadata"], body["status"]["allocation"]
        for index in range(place["gpus"] - free):
            node = place["servers"][index // GPUS_PER_SERVER]
            cluster.put(held_pod(next(serial), meta, node, operator.now - 3600))


def held_pod(number: int, grant: Json, node: str, at: int) -> Json:
    """Return a running pod as the operator's release and the scheduler have left it."""
    pod = bodies.gated_pod(number, grant["namespace"], grant["name"], at)
    del pod["spec"]["schedulingGates"]
    pod["metadata"]["finalizers"] = [names.FINALIZER]
    pod["metadata"]["annotations"] |= {
        names.GRANT_UID_ANNOTATION: grant["uid"],
        names.RELEASED_AT_ANNOTATION: bodies.stamp(at),
    }
    pod["spec"]["nodeSelector"] = {names.GRANT_UID_LABEL: grant["uid"], names.HOSTNAME_LABEL: node}
    pod["spec"]["tolerations"].append(
        {"key": names.DEFAULT_RESOURCE, "operator": "Exists", "effect": names.TAINT_EFFECT}
    )
    bodies.bind(pod, node, at)
    bodies.run(pod, at)
    return pod


def held_operator(servers: int, *, free: int = 0) -> InProcess:
    """Return an operator that has seen and settled a fleet whose every seat but ``free`` per grant is held."""
    cluster = granted_cluster(servers)
    first = InProcess(cluster)
    first.look()
    first.settle()
    hold_all(first, free=free)
    operator = InProcess(cluster, first.now)
    operator.look()
    operator.settle()
    return operator
