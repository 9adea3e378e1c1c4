"""A small cluster in memory: what the API server, the scheduler and kubelets would make of a plan's actions.

It keeps its own books from the objects alone, so that the planner's arithmetic is never believed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from gpugrant import names
from gpugrant.api.grant import GpuGrantSpec
from gpugrant.api.pool import GpuPoolSpec
from gpugrant.api.quota import TenantQuotaSpec
from gpugrant.config import Settings
from gpugrant.decide.actions import (
    Action,
    EvictPod,
    ExplainPod,
    LabelPod,
    Plan,
    ReleasePod,
    SetPolicies,
    SetStatus,
    WriteServer,
)
from gpugrant.decide.fit import node_matches
from gpugrant.decide.plan import make_plan
from gpugrant.decide.world import World
from gpugrant.model.node import Node, Taint
from gpugrant.model.objects import Allocation, Grant, Namespace, Pool, Quota
from gpugrant.model.pod import Pod, Shape
from gpugrant.model.snapshot import Snapshot

GPU = names.DEFAULT_RESOURCE
START = 1_800_000_000


def instant(seconds: int) -> str:
    """Return an instant as a term writes it."""
    from gpugrant.decide.reasons import rfc3339

    return rfc3339(seconds)


@dataclass
class Cluster:
    """Objects by name or uid, and the world that is told about them."""

    settings: Settings
    now: int = START
    nodes: dict[str, Node] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    failing: float = 0.0  # share of writes that are refused
    serial: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(self.settings)

    # -- what people and machines do -------------------------------------------------------------------

    def next_uid(self, prefix: str) -> str:
        self.serial += 1
        return f"{prefix}-{self.serial:05d}"

    def add_namespace(self, name: str, tenant: str = "", provider: str = "") -> None:
        self.namespaces[name] = Namespace(name, tenant, provider)
        self.world.put_namespace(self.namespaces[name])

    def add_node(
        self, name: str, provider: str = "nhn", product: str = "B200", fabric: str = "f1", gpus: int = 8
    ) -> None:
        labels = {
            names.PROVIDER_LABEL: provider,
            names.PRODUCT_LABEL: product,
            names.HOSTNAME_LABEL: name,
            names.FABRIC_LABEL: fabric,
        }
        self.put_node(
            Node(
                name,
                self.next_uid("node"),
                labels=labels,
                capacity=((GPU, gpus),),
                allocatable=((GPU, gpus),),
                cpu_milli=224_000,
                memory=1 << 41,
            )
        )

    def put_node(self, node: Node) -> None:
        self.serial += 1
        self.nodes[node.name] = replace(node, version=str(self.serial))
        self.world.put_node(self.nodes[node.name])

    def change_node(self, name: str, **changes: Any) -> None:
        self.put_node(replace(self.nodes[name], **changes))

    def drop_node(self, name: str) -> None:
        """The node object goes; PodGC ends what ran there."""
        del self.nodes[name]
        self.world.drop_node(name)
        for pod in [p for p in self.pods.values() if p.node == name and not p.ended]:
            self.put_pod(replace(pod, phase="Failed", disrupted_at=self.now))

    def add_pool(self, name: str, **spec: Any) -> None:
        body = {"provider": "nhn", "gpuType": "B200", **spec}
        self.put_pool(Pool(name, self.next_uid("pool"), spec=GpuPoolSpec.model_validate(body)))

    def put_pool(self, pool: Pool) -> None:
        self.pools[pool.name] = pool
        self.world.put_pool(pool)

    def add_quota(self, name: str, **spec: Any) -> None:
        self.put_quota(Quota(name, self.next_uid("quota"), spec=TenantQuotaSpec.model_validate(spec)))

    def put_quota(self, quota: Quota) -> None:
        self.quotas[quota.name] = quota
        self.world.put_quota(quota)

    def add_grant(self, namespace: str, name: str, start: int = -100, end: int = 100_000, **spec: Any) -> str:
        grace = spec.pop("grace", 600)
        body = {
            "gpuType": "B200",
            "gpus": 8,
            "term": {
                "start": instant(self.now + start),
                "end": instant(self.now + end),
                "graceSeconds": grace,
            },
            **spec,
        }
        uid = self.next_uid("grant")
        self.put_grant(Grant(namespace, name, uid, created=self.now, spec=GpuGrantSpec.model_validate(body)))
        return uid

    def put_grant(self, grant: Grant) -> None:
        self.grants[grant.uid] = grant
        self.world.put_grant(grant)

    def edit_grant(self, uid: str, **spec: Any) -> None:
        grant = self.grants[uid]
        assert grant.spec
        body = {**grant.spec.model_dump(by_alias=True, exclude_none=True), **spec}
        self.put_grant(
            replace(grant, generation=grant.generation + 1, spec=GpuGrantSpec.model_validate(body))
        )

    def drop_grant(self, uid: str) -> None:
        del self.grants[uid]
        self.world.drop_grant(uid)

    def add_pod(self, namespace: str, gpus: int = 1, **fields: Any) -> str:
        uid = self.next_uid("pod")
        shape = fields.pop("shape", Shape(resources=((GPU, gpus),), cpu_milli=1000, memory=1 << 30))
        gates = (names.GATE,) if self.namespaces[namespace].tenant else ()
        self.put_pod(
            Pod(uid, namespace, fields.pop("name", uid), created=self.now, shape=shape, gates=gates, **fields)
        )
        return uid

    def put_pod(self, pod: Pod) -> None:
        self.serial += 1
        pod = replace(pod, version=str(self.serial))
        self.pods[pod.uid] = pod
        self.world.put_pod(pod)

    def drop_pod(self, uid: str) -> None:
        if self.pods.pop(uid, None):
            self.world.drop_pod(uid)

    def end_pod(self, uid: str) -> None:
        pod = self.pods[uid]
        self.put_pod(replace(pod, phase="Succeeded", finished_at=self.now))

    # -- the scheduler ---------------------------------------------------------------------------------

    def room(self, node: Node) -> int:
        return dict(node.allocatable).get(GPU, 0) - sum(
            p.shape.amount(GPU) for p in self.pods.values() if p.node == node.name and not p.ended
        )

    def bind(self, uid: str) -> bool:
        pod = self.pods[uid]
        if pod.gates or pod.node or pod.ended or pod.deleting:
            return False
        fits = [
            n
            for n in self.nodes.values()
            if n.ready
            and not n.unschedulable
            and node_matches(pod.shape, n, GPU)
            and self.room(n) >= pod.shape.amount(GPU)
        ]
        if not fits:
            return False
        self.put_pod(replace(pod, node=self.rng.choice(fits).name, phase="Running", scheduled_at=self.now))
        return True

    def bind_all(self) -> int:
        return sum(self.bind(uid) for uid in list(self.pods))

    # -- the actor -------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        return make_plan(self.world, self.now)

    def settle(self, rounds: int = 60) -> list[Action]:
        """Plan and carry out until nothing is left to do."""
        done: list[Action] = []
        for _ in range(rounds):
            actions = self.plan().actions
            if not actions:
                return done
            for action in actions:
                self.carry_out(action)
            done += actions
        raise AssertionError(f"still planning after {rounds} rounds: {actions[:5]}")

    def carry_out(self, action: Action) -> None:
        if self.failing and self.rng.random() < self.failing:
            self.world.forget(action, "409")
            return
        match action:
            case WriteServer():
                self._write_server(action)
            case ReleasePod():
                self._release(action)
            case EvictPod():
                pod = self.pods.get(action.uid)
                if pod and pod.node and not pod.ended:
                    self.put_pod(replace(pod, phase="Failed", finished_at=self.now, disrupted_at=self.now))
                elif pod:
                    self.drop_pod(action.uid)
            case ExplainPod():
                pod = self.pods.get(action.uid)
                if pod:
                    self.put_pod(replace(pod, waiting=action.message))
            case LabelPod():
                self.put_pod(replace(self.pods[action.uid], gpu_label=True))
            case SetStatus():
                self._set_status(action)
            case SetPolicies():
                pass
        self.world.confirm(action)

    def _write_server(self, action: WriteServer) -> None:
        node = self.nodes.get(action.node)
        if node is None:
            self.world.forget(action, "404")
            return
        labels = dict(node.labels)
        for key, value in action.labels:
            if value is None:
                labels.pop(key, None)
            else:
                labels[key] = value
        taints = tuple(t for t in node.taints if t.key not in action.drop_taints)
        taints += tuple(Taint(k, names.TAINT_VALUE, names.TAINT_EFFECT) for k in action.add_taints)
        self.put_node(replace(node, labels=labels, taints=taints))

    def _release(self, action: ReleasePod) -> None:
        pod = self.pods.get(action.uid)
        if pod is None or names.GATE not in pod.gates:
            self.world.forget(action, "422")
            return
        shape = replace(
            pod.shape, selector=tuple(sorted({**dict(pod.shape.selector), **dict(action.selector)}.items()))
        )
        self.put_pod(
            replace(
                pod,
                gates=(),
                shape=shape,
                grant=action.grant,
                grant_uid=action.grant_uid,
                released_at=action.at,
                replacement=action.replacement,
                waiting="",
            )
        )

    def _set_status(self, action: SetStatus) -> None:
        if action.kind == "GpuGrant":
            grant = next(
                (g for g in self.grants.values() if (g.namespace, g.name) == (action.namespace, action.name)),
                None,
            )
            if grant:
                status = _merge(grant.status, action.status)
                had = status.get("allocation")
                allocation = (
                    Allocation(had["pool"], had["fabric"], tuple(had["servers"]), had["gpus"])
                    if had
                    else None
                )
                self.put_grant(replace(grant, status=status, allocation=allocation))
        elif action.kind == "GpuPool" and action.name in self.pools:
            pool = self.pools[action.name]
            self.put_pool(replace(pool, status=_merge(pool.status, action.status)))
        elif action.kind == "TenantQuota" and action.name in self.quotas:
            quota = self.quotas[action.name]
            self.put_quota(replace(quota, status=_merge(quota.status, action.status)))

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.settings,
            dict(self.nodes),
            dict(self.pods),
            dict(self.namespaces),
            dict(self.pools),
            dict(self.quotas),
            dict(self.grants),
        )

    # -- the books -------------------------------------------------------------------------------------

    def status(self, uid: str, kind: str = "Ready") -> dict[str, Any]:
        return next(c for c in self.grants[uid].status["conditions"] if c["type"] == kind)

    def reason(self, uid: str, kind: str = "Ready") -> str:
        return str(self.status(uid, kind)["reason"])

    def taken(self, grant_uid: str) -> int:
        """Return held + reserved of a grant, from the pods alone."""
        return sum(
            p.shape.amount(GPU)
            for p in self.pods.values()
            if p.grant_uid == grant_uid and not p.gates and not p.ended and not (p.deleting and not p.node)
        )

    def running(self, namespace: str) -> list[Pod]:
        return [p for p in self.pods.values() if p.namespace == namespace and p.held]


def _merge(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged
